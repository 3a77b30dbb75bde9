"""Operators written out as the functions that ONNX defines them by."""

from __future__ import annotations

import onnx
from onnx import inliner

from graphopt.backends.onnx_attributes import AttributeWriter
from graphopt.backends.onnx_opset import NEWEST, OpVersion, trimmed, version_at, written_outputs
from graphopt.frontends.onnx_read import read_model
from graphopt.ir import UNKNOWN, Graph, Node, Value
from graphopt.ir.inline import inline
from graphopt.ops.opset import CANONICAL_OPSET
from graphopt.ops.protos import write_type


def write_out(node: Node) -> list[Value | None] | None:
    """Puts the function body of a standard operator in front of a linked node, which stays.

    Bodies come from onnx's inliner, which knows those that depend on attributes and types. They are canonical: older
    opsets get their forms later, as for all nodes.

    Returns:
        What stands for each output, ``None`` for one that is left out; or ``None`` when ONNX does not define the
        operator by a function.
    """
    # Some operators are younger than the canonical opset, and carried all the same.
    opset = CANONICAL_OPSET if version_at(node.op, "", CANONICAL_OPSET) else NEWEST
    version = version_at(node.op, "", opset)
    if version is None or node.bodies:
        return None
    written = [v is not None for v in written_outputs(node, version)]
    model = _model_of(node, written, version, opset)
    try:
        inlined = inliner.inline_selected_functions(model, [("", node.op)], inline_schema_functions=True)
    except (RuntimeError, ValueError):
        return None  # a body that depends on a type that is not known
    if [each.op_type for each in inlined.graph.node] == [node.op]:
        return None
    body = read_model(inlined, None, opset)
    given = [v for v in trimmed(node.inputs) if isinstance(v, Value)]
    for inner, outer in zip(list(body.inputs), given, strict=True):
        inner.replace_uses(outer)
        body.remove_input(inner)
    results = iter(inline(body, node))
    return [next(results) if each else None for each in written]


def _model_of(node: Node, outputs: list[bool], version: OpVersion, opset: int) -> onnx.ModelProto:
    """A model of the one node, whose inputs and outputs are called by their positions."""
    model = onnx.ModelProto(ir_version=onnx.IR_VERSION)
    model.opset_import.add(domain="", version=opset)
    graph = model.graph
    graph.name = node.op
    call = graph.node.add(op_type=node.op)
    for index, value in enumerate(trimmed(node.inputs)):
        call.input.append(f"x{index}" if value is not None else "")
        if isinstance(value, Value):
            info = graph.input.add(name=f"x{index}")
            if value.type != UNKNOWN:
                info.type.CopyFrom(write_type(value.type))
    for index, written in enumerate(outputs):
        call.output.append(f"y{index}" if written else "")
        if written:
            graph.output.add(name=f"y{index}")
    defaults = {name: tuple(v) if isinstance(v, list) else v for name, v in version.defaults.items()}
    AttributeWriter(_no_graph).write(call, {**defaults, **node.attributes}, version.attributes)
    return model


def _no_graph(graph: Graph) -> onnx.GraphProto:
    raise AssertionError(f"{graph!r} belongs to a node that holds bodies")
