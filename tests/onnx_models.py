"""Small ONNX models for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

FLOAT = onnx.TensorProto.FLOAT


def info(name: str, shape: Any = None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def tensor(name: str, array: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; names are separated by blanks, `_` stands for one that is left out."""
    names = [["" if name == "_" else name for name in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op, *names, **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[Any],
    initializers: Sequence[onnx.TensorProto] = (),
    opset: int = 18,
    ir_version: int = 8,
    domains: Sequence[str] = (),
    **graph: Any,
) -> onnx.ModelProto:
    """A model; outputs given by name alone have no shape."""
    outs = [info(each) if isinstance(each, str) else each for each in outputs]
    proto = helper.make_graph(nodes, "main", inputs, outs, initializers, **graph)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(proto, opset_imports=imports, ir_version=ir_version)


def bodies(proto: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and the bodies in it."""
    yield proto
    for each in proto.node:
        for attribute in each.attribute:
            if attribute.HasField("g"):
                yield from bodies(attribute.g)


def branch(name: str, op: str, inputs: str, **attributes: Any) -> onnx.GraphProto:
    """A body without inputs around one node."""
    return helper.make_graph([node(op, inputs, name, **attributes)], name + "_body", [], [info(name)])
