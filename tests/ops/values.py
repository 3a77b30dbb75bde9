"""Single nodes on any kind of value (strings, sequences, optionals), against what onnx.reference makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator

from graphopt import load, to_torch
from graphopt.ir import Graph, Node, OptionalType, SequenceType, TensorType
from graphopt.ops import record_of
from graphopt.ops.protos import read_type
from graphopt.runtime import run


def words(*texts: Any, shape: Sequence[int] | None = None) -> np.ndarray:
    """An array of strings."""
    array = np.array(texts, dtype=object)
    return array if shape is None else array.reshape(shape)


def type_of(value: Any) -> onnx.TypeProto:
    """The ONNX type of an array, or of a list of them."""
    if isinstance(value, list):
        element = type_of(value[0])
        if any(np.shape(each) != np.shape(value[0]) for each in value):
            element.tensor_type.ClearField("shape")
        return helper.make_sequence_type_proto(element)
    array = np.asarray(value)
    kind = onnx.TensorProto.STRING if array.dtype.kind in "OU" else helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_type_proto(kind, array.shape)


def to_graph(value: Any) -> Any:
    """What the executor takes: tensors for numbers."""
    if isinstance(value, list):
        return [to_graph(each) for each in value]
    array = np.asarray(value)
    return array if array.dtype.kind in "OU" else torch.from_numpy(np.array(array))


def same(mine: Any, theirs: Any) -> None:
    """Asserts equal kinds, types, shapes and elements (to 1e-5)."""
    if isinstance(theirs, list):
        assert isinstance(mine, list)
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            same(a, b)
        return
    theirs = np.asarray(theirs)
    array = mine if isinstance(mine, np.ndarray) else mine.numpy()
    assert array.shape == theirs.shape
    if theirs.dtype.kind in "OU":
        assert array.dtype == object
        assert array.tolist() == theirs.tolist()
        return
    assert array.dtype == theirs.dtype
    np.testing.assert_allclose(array, theirs, rtol=1e-5, atol=1e-6)


def model_of(op: str, inputs: Sequence[Any], outputs: int = 1, domain: str = "", **attributes: Any) -> onnx.ModelProto:
    """A model of one node."""
    names = ["" if each is None else f"x{i}" for i, each in enumerate(inputs)]
    results = [f"y{i}" for i in range(outputs)]
    given = [helper.make_value_info(name, type_of(each)) for name, each in zip(names, inputs, strict=True) if name]
    node = helper.make_node(op, names, results, domain=domain, **attributes)
    graph = helper.make_graph([node], "one", given, [onnx.ValueInfoProto(name=name) for name in results])
    imports = [helper.make_opsetid("", 26)]
    if domain:
        imports.append(helper.make_opsetid(domain, onnx.defs.get_schema(op, domain=domain).since_version))
    return helper.make_model(graph, opset_imports=imports)


def check(
    op: str,
    inputs: Sequence[Any],
    outputs: int = 1,
    want: Sequence[Any] | None = None,
    domain: str = "",
    **attributes: Any,
) -> list[Any]:
    """Checks a record: executor and torch module against onnx.reference (or `want`), the type rule against both."""
    model = model_of(op, inputs, outputs, domain, **attributes)
    if want is None:
        feed = {f"x{i}": each for i, each in enumerate(inputs) if each is not None}
        want = ReferenceEvaluator(model).run(None, feed)
    graph = load(model)
    given = [to_graph(each) for each in inputs if each is not None]
    got = run(graph, given)
    written = to_torch(graph)(*given)
    for mine, again, theirs in zip(got, [written] if outputs == 1 else written, want, strict=True):
        same(mine, theirs)
        same(again, theirs)
    (node,) = graph
    for kind, mine in zip(record_of(node).infer(node), got, strict=False):
        admits(kind, mine)
    return got


def admits(kind: Any, value: Any) -> None:
    """Asserts that a value is of a type: known dimensions agree."""
    if isinstance(kind, OptionalType):
        if value is not None:
            admits(kind.element, value)
        return
    if isinstance(kind, SequenceType):
        for each in value:
            admits(kind.element, each)
        return
    found = read_type(type_of(value if isinstance(value, np.ndarray) else value.numpy()))
    assert isinstance(kind, TensorType)
    assert isinstance(found, TensorType)
    assert kind.dtype is found.dtype
    assert kind.shape is None or len(kind.shape) == len(found.shape)
    assert all(a is None or a == b for a, b in zip(kind.shape or (), found.shape, strict=False)), (kind, found)


def node_of(op: str, *kinds: Any, outputs: int = 1, domain: str = "", **attributes: Any) -> Node:
    """A node over graph inputs of given types (``None`` for a left-out one)."""
    graph = Graph()
    values = [None if kind is None else graph.add_input(f"x{i}", kind) for i, kind in enumerate(kinds)]
    return graph.append(Node(op, values, attributes, outputs, domain=domain))
