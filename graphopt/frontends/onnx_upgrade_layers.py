"""Upgrades of normalisations and of Scan."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.frontends.onnx_upgrade import Upgrade, rebuild, step, unsupported, upgrade
from graphopt.ir import Graph, Node, Value


@upgrade(9, "BatchNormalization")
def _spatial(up: Upgrade, node: Node) -> Sequence[Node]:
    if node.attributes.pop("spatial", 1):
        return [node]
    if len(node.outputs) > 1:
        raise unsupported(node, "BatchNormalization with spatial=0 in training mode has no counterpart")
    x, scale, bias, mean, variance = (node.operand(i) for i in range(5))
    epsilon = up.constant(node.attributes.get("epsilon", 1e-5), up.torch_dtype(x))
    centred = step(node, "Sub", x, mean)
    shifted = step(node, "Add", variance, epsilon)
    deviation = step(node, "Sqrt", shifted.output)
    normal = step(node, "Div", centred.output, deviation.output)
    scaled = step(node, "Mul", normal.output, scale)
    return [centred, shifted, deviation, normal, scaled, rebuild(node, "Add", [scaled.output, bias])]


@upgrade(14, "BatchNormalization")
def _training(up: Upgrade, node: Node) -> Sequence[Node]:
    """More than one output used to mean training mode."""
    if node.op != "BatchNormalization" or not any(out.name for out in node.outputs[1:]):
        return [node]
    for value in node.outputs[3:]:
        up.orphans[value] = "BatchNormalization gives no saved statistics since opset 14"
    attributes = {**node.attributes, "training_mode": 1}
    return [rebuild(node, node.op, node.inputs, attributes, node.outputs[:3])]


@upgrade(21, "GroupNormalization")
def _group_norm(up: Upgrade, node: Node) -> Sequence[Node]:
    """Scale and bias had an element per group, and have one per channel now."""
    x, groups = node.operand(0), node.attributes["num_groups"]
    shape = up.shape(x)
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    before: list[Node] = []
    repeated: list[Value] = []
    for value in (node.operand(1), node.operand(2)):
        if isinstance(channels, int) and value.is_constant and value.data is not None:
            repeated.append(up.constant(value.data.repeat_interleave(channels // groups)))
        else:
            nodes = _repeat(up, node, value, x, groups)
            before += nodes
            repeated.append(nodes[-1].output)
    return [*before, rebuild(node, node.op, [x, *repeated], dict(node.attributes))]


def _repeat(up: Upgrade, node: Node, value: Value, x: Value, groups: int) -> list[Node]:
    """Nodes that repeat each of the `groups` elements of `value` as often as a group of `x` has channels."""
    channels = step(node, "Shape", x, start=1, end=2)
    size = step(node, "Div", channels.output, up.constant([groups]))
    shape = step(node, "Concat", up.constant([groups]), size.output, axis=0)
    column = step(node, "Unsqueeze", value, up.constant([1]))
    wide = step(node, "Expand", column.output, shape.output)
    return [channels, size, shape, column, wide, step(node, "Reshape", wide.output, up.constant([-1]))]


@upgrade(9, "Scan")
def _scan(up: Upgrade, node: Node) -> Sequence[Node]:
    """Scan used to run over a batch of sequences: a Scan over the batch around a Scan over one sequence."""
    if node.input(0) is not None:
        raise unsupported(node, "Scan with sequence_lens has no counterpart")
    operands = node.inputs[1:]
    count = node.attributes["num_scan_inputs"]
    attributes = {"body": node.attributes["body"], "num_scan_inputs": count}
    if node.attributes.get("directions"):
        attributes["scan_input_directions"] = node.attributes["directions"]
    body = Graph("batch")
    inner_inputs = [body.add_input(f"item_{i}") for i in range(len(operands))]
    inner = body.append(Node("Scan", inner_inputs, attributes, len(node.outputs), origin=node.origin))
    for index, value in enumerate(inner.outputs):
        body.add_output(value, f"result_{index}")
    return [rebuild(node, "Scan", operands, {"body": body, "num_scan_inputs": len(operands)})]
