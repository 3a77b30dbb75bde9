"""Structural equality of graphs, and ONNX Runtime as the judge of what a file computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from graphopt.ir import UNKNOWN, Graph, Node, Value
from graphopt.ir.literals import SparseTensor, TypedTensor


def assert_same(a: Graph, b: Graph) -> None:
    """Asserts that two graphs are the same but for the labels of their values.

    Trailing inputs that are left out and optional outputs that nothing reads may be missing on one side.
    """
    made_here = not a.model.ir_version
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc", "domains", "functions",
                 "metadata", "rest"):  # fmt: skip
        if not (made_here and name == "producer_name"):
            assert getattr(a.model, name) == getattr(b.model, name), name
    # A newer opset may need a newer file format.
    assert b.model.ir_version >= a.model.ir_version
    _same_graph(a, b, {}, outermost=True)


def _same_graph(a: Graph, b: Graph, match: dict[Value, Value], outermost: bool = False) -> None:
    assert (a.doc, dict(a.metadata), a.name or "main") == (b.doc, dict(b.metadata), b.name)
    assert len(a.inputs) == len(b.inputs)
    if outermost:
        assert [v.name for v in a.inputs] == [v.name for v in b.inputs]
        assert list(a.output_names) == list(b.output_names)
    for x, y in zip(a.inputs, b.inputs, strict=True):
        _pair(x, y, match)
    # Constants that a Constant node held may change places with initializers, so they are paired where they are read.
    assert len(a.constants) == len(b.constants)
    nodes = list(a.nodes), list(b.nodes)
    assert [(n.domain, n.op, n.overload) for n in nodes[0]] == [(n.domain, n.op, n.overload) for n in nodes[1]]
    for x, y in zip(*nodes, strict=True):
        _same_node(x, y, match)
    for x, y in zip(a.outputs, b.outputs, strict=True):
        _same_read(x, y, match)


def _same_node(a: Node, b: Node, match: dict[Value, Value]) -> None:
    where = a.describe()
    assert (a.name, a.doc, dict(a.metadata)) == (b.name, b.doc, dict(b.metadata)), where
    if a.name:  # a node that an adapter added says so only in memory
        assert a.origin.sources == b.origin.sources
    for x, y in zip(_trim(a.inputs), _trim(b.inputs), strict=True):
        assert (x is None) == (y is None), where
        if x is not None:
            _same_read(x, y, match)
    assert set(b.attributes) <= set(a.attributes), where
    for name, value in a.attributes.items():
        if name not in b.attributes:  # opsets that do not know it yet behave as if it were at its default
            default = onnx.defs.get_schema(a.op).attributes[name].default_value
            stated = onnx.helper.get_attribute_value(default)
            assert value == (stated.decode() if isinstance(stated, bytes) else stated), (where, name)
            continue
        assert _same_attribute(value, b.attributes[name], match), (where, name, value, b.attributes[name])
    for x, y in zip(a.outputs, b.outputs, strict=False):
        if x.name or x.uses:
            _pair(x, y, match)
    longer = max(a.outputs, b.outputs, key=len)
    assert all(not v.uses for v in longer[min(len(a.outputs), len(b.outputs)):]), where  # fmt: skip


def _trim(inputs: Any) -> list[Any]:
    inputs = list(inputs)
    while inputs and inputs[-1] is None:
        inputs.pop()
    return inputs


def _same_read(a: Value, b: Value, match: dict[Value, Value]) -> None:
    if a not in match and a.is_constant:
        _pair(a, b, match)
    assert match[a] is b, (a, b)


def _pair(a: Value, b: Value, match: dict[Value, Value]) -> None:
    if a.uses or a.name:
        # Shape inference gives outputs a type where the file had none.
        if not (a.type == UNKNOWN and a.is_output):
            assert str(a.type) == str(b.type), (a, b)
        assert a.doc == b.doc
        assert dict(a.metadata) == dict(b.metadata)
    assert (a._data is None) == (b._data is None), a
    if a._data is not None:
        assert same_data(a._data, b._data), a
    match[a] = b


def same_data(a: Any, b: Any) -> bool:
    """Bitwise equality of tensors and string arrays."""
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and (a == b).all()
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    flat = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return torch.equal(*flat)


def _same_attribute(a: Any, b: Any, match: dict[Value, Value]) -> bool:
    if type(a) is not type(b):
        return False
    match a:
        case Graph():
            _same_graph(a, b, match)
            return True
        case torch.Tensor() | np.ndarray():
            return same_data(a, b)
        case TypedTensor():
            return a.dtype == b.dtype and same_data(a.data, b.data)
        case SparseTensor():
            same = same_data(a.values, b.values) and same_data(a.indices, b.indices)
            return same and (a.shape, a.dtype) == (b.shape, b.dtype)
        case tuple():
            return len(a) == len(b) and all(_same_attribute(x, y, match) for x, y in zip(a, b, strict=True))
    return bool(a == b or (a != a and b != b))


def run(model: onnx.ModelProto | bytes | str, *feeds: Any) -> list[Any]:
    """What ONNX Runtime computes; `feeds` are the inputs by position."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in [*session.get_inputs(), *session.get_overridable_initializers()]]
    return list(session.run(None, dict(zip(names, feeds, strict=False))))


def assert_close(a: Any, b: Any) -> None:
    """Asserts that two results of ONNX Runtime agree to float32 reordering."""
    if isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_close(x, y)
    elif a is None or isinstance(a, dict):
        assert a == b
    else:
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if a.dtype.kind in "fciub":
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        else:
            assert a.tobytes() == b.tobytes() if a.dtype != object else (a == b).all()
