"""The oracle for operator records: ONNX Runtime or onnx.reference for values, onnx.shape_inference for types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator

from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.ir import dims as D
from graphopt.ops import execute, record_of
from graphopt.ops.opset import CANONICAL_OPSET

Array = np.ndarray


def onnx_model(
    op: str, inputs: Sequence[Array | None], outputs: int, domain: str = "", **attributes: Any
) -> onnx.ModelProto:
    """A model of one node over graph inputs x0, x1, ... and outputs y0, y1, ..."""
    names = ["" if a is None else f"x{i}" for i, a in enumerate(inputs)]
    outs = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, outs, domain=domain, **attributes)
    graph = helper.make_graph(
        [node], "oracle",
        [helper.make_tensor_value_info(f"x{i}", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
         for i, a in enumerate(inputs) if a is not None],
        [onnx.ValueInfoProto(name=name) for name in outs],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", CANONICAL_OPSET)], ir_version=11)


def run_onnx(model: onnx.ModelProto, inputs: Sequence[Array | None], reference: bool = False) -> list[Array]:
    """Runs a model in ONNX Runtime, or in onnx.reference when asked or when ONNX Runtime has no kernel."""
    feed = {f"x{i}": a for i, a in enumerate(inputs) if a is not None}
    if not reference:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        try:
            session = onnxruntime.InferenceSession(
                inferred.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception:  # NotImplemented, InvalidGraph, Fail, ...: no kernel for this type or version
            reference = True
        else:
            return list(session.run(None, feed))
    return list(ReferenceEvaluator(model).run(None, feed))


def graph_of(
    op: str,
    inputs: Sequence[Array | None],
    outputs: int = 1,
    constant: Sequence[int] = (),
    shapes: Mapping[int, Sequence[Any]] | None = None,
    domain: str = "",
    **attributes: Any,
) -> tuple[Graph, Node]:
    """A graph of one node. Inputs in `constant` become constants; `shapes` overrides input shapes with symbols."""
    graph = Graph()
    values = []
    for index, array in enumerate(inputs):
        if array is None:
            values.append(None)
        elif index in constant:
            values.append(graph.add_constant(torch.from_numpy(np.ascontiguousarray(array)).reshape(array.shape)))
        else:
            shape = (shapes or {}).get(index, array.shape)
            dtype = DType.of(torch.from_numpy(array.reshape(-1)[:0]).dtype)
            values.append(graph.add_input(f"x{index}", TensorType.make(dtype, shape)))
    node = graph.append(Node(op, values, attributes, outputs, domain=domain))
    return graph, node


def check(
    op: str,
    inputs: Sequence[Array | None],
    outputs: int = 1,
    constant: Sequence[int] = (),
    symbolic: Mapping[int, Sequence[Any]] | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-5,
    reference: bool = False,
    **attributes: Any,
) -> list[torch.Tensor]:
    """Checks a record's computation and type rule on one application; returns what it computed.

    Args:
        op: standard operator.
        inputs: arrays, ``None`` for left-out inputs.
        outputs: number of outputs.
        constant: inputs whose contents the type rule may read (shapes, axes, ...).
        symbolic: shapes with named dimensions (``{0: ("n", 3, "h", "w")}``); the type rule must give expressions that
            become the true shape when the names are bound to the sizes of `inputs`.
        reference: compare with onnx.reference instead of ONNX Runtime.
        attributes: of the node.
    """
    _, node = graph_of(op, inputs, outputs, constant, **attributes)
    record = record_of(node)
    assert record is not None, f"no record for {op}"
    assert record.infer is not None, f"no type rule for {op}"
    tensors = [None if a is None else torch.from_numpy(np.ascontiguousarray(a)).reshape(a.shape) for a in inputs]
    got = execute(node, tensors)[:outputs]
    want = run_onnx(onnx_model(op, inputs, outputs, **attributes), inputs, reference)
    for mine, theirs in zip(got, want, strict=True):
        theirs = np.asarray(theirs)
        assert tuple(mine.shape) == theirs.shape, (tuple(mine.shape), theirs.shape)
        assert mine.numpy().dtype == theirs.dtype, (mine.dtype, theirs.dtype)
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=rtol, atol=atol, equal_nan=True)
    for kind, mine in zip(record.infer(node), got, strict=False):
        assert isinstance(kind, TensorType)
        assert kind.dtype.torch == mine.dtype, (kind, mine.dtype)
        assert kind.shape == tuple(mine.shape), (kind, tuple(mine.shape))
    if symbolic is not None:
        _check_symbolic(op, inputs, got, outputs, constant, symbolic, attributes)
    return list(got)


def _check_symbolic(op, inputs, got, outputs, constant, symbolic, attributes) -> None:
    _, node = graph_of(op, inputs, outputs, constant, symbolic, **attributes)
    binding = {
        name: size
        for index, shape in symbolic.items()
        for name, size in zip(shape, inputs[index].shape, strict=True)
        if isinstance(name, str)
    }
    for kind, mine in zip(record_of(node).infer(node), got, strict=False):
        assert kind.shape is not None, f"{op} lost the rank"
        bound = tuple(D.substitute(d, binding) for d in kind.shape)
        assert bound == tuple(mine.shape), (kind, bound, tuple(mine.shape))
