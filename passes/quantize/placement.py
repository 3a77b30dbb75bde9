"""Placement: which values a target wants quantized. The target decides; nothing here knows an operator by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field

from graphopt.ir import DType, Graph, Node, Use, Value
from graphopt.targets import OperatorRule, Target


@dataclass(frozen=True)
class WeightSite:
    """A weight, the dimension along which it has a scale per index (``None``: one scale), and where it is read."""

    value: Value
    axis: int | None
    use: Use


@dataclass
class Placement:
    """The decision for a graph.

    Attributes:
        activations: values to quantize, each with the value whose scale it uses (itself, or the one it moves on).
        weights: weights to quantize.
        nodes: nodes that will run on integers.
        skipped: nodes that the target could run on integers and that stay float, with the reason.
    """

    activations: dict[Value, Value] = field(default_factory=dict)
    weights: list[WeightSite] = field(default_factory=list)
    nodes: dict[Node, None] = field(default_factory=dict)
    skipped: dict[Node, str] = field(default_factory=dict)

    def scale_of(self, value: Value) -> Value:
        """The value whose scale `value` uses."""
        while self.activations[value] is not value:
            value = self.activations[value]
        return value


def place(graph: Graph, target: Target, ignore: Sequence[str] = ()) -> Placement:
    """Decides, in topological order, what is quantized; repeated until joins and passthroughs have settled."""
    placement = Placement()
    computed = [node for node in graph.nodes if _takes(node, target, "compute", ignore, placement)]
    for node in computed:
        _place_compute(node, target.operators[node.op], target, placement)
    size = -1
    while size != len(placement.activations):
        size = len(placement.activations)
        for node in graph.nodes:
            if node.output in placement.activations and node in placement.nodes:
                continue
            if _takes(node, target, "join", ignore, placement):
                _place_join(node, target.operators[node.op], target, placement)
            elif _takes(node, target, "passthrough", ignore, placement):
                _place_passthrough(node, placement)
    return placement


def _takes(node: Node, target: Target, role: str, ignore: Sequence[str], placement: Placement) -> bool:
    rule = target.operators.get(node.op) if not node.domain else None
    if rule is None or rule.role != role:
        return False
    first = node.input(0)
    if first is None or first.dtype is not DType.FLOAT32 or _is_quantized(first):
        return False
    if any(_named(node, pattern) for pattern in ignore):
        placement.skipped[node] = "on the ignore list"
        return False
    return True


def _is_quantized(value: Value) -> bool:
    return value.producer is not None and value.producer.op == "DequantizeLinear"


def _named(node: Node, pattern: str) -> bool:
    names = [node.name, node.origin.module, *(v.name for v in node.outputs), *(v.name for v in node.inputs if v)]
    return any(fnmatch.fnmatchcase(name, pattern) for name in names if name)


def constant_source(value: Value) -> tuple[Value, list[Node]] | None:
    """The constant that `value` is, or is a transposition of, and the nodes in between (from the constant on)."""
    chain: list[Node] = []
    while value.producer is not None and value.producer.op == "Transpose" and len(value.uses) == 1:
        chain.append(value.producer)
        value = value.producer.operand(0)
    return (value, chain[::-1]) if value.is_constant else None


def _place_compute(node: Node, rule: OperatorRule, target: Target, placement: Placement) -> None:
    inputs = [(i, v) for i, v in enumerate(node.inputs) if v is not None]
    if not any(constant_source(v) is None and rule.input_role(i) in ("activation", "weight") for i, v in inputs):
        return  # constants only: folding's business
    for index, value in inputs:
        role = rule.input_role(index)
        if role == "weight" and (source := constant_source(value)) is not None:
            placement.weights.append(_weight_site(node, index, value, source, rule, target))
        elif role in ("activation", "weight"):
            placement.activations.setdefault(value, value)
    placement.nodes[node] = None
    result = _after_absorbed(node.output, target)
    if not (rule.float_output and result.is_output):
        placement.activations.setdefault(result, result)


def _weight_site(
    node: Node, index: int, value: Value, source: tuple[Value, list[Node]], rule: OperatorRule, target: Target
) -> WeightSite:
    constant, chain = source
    rank = value.rank or 1
    axis = rule.weight_axis(node, rank) if target.weight.per_channel and rank > 1 else None
    for transpose in reversed(chain):  # the axis as the constant has it
        if axis is not None:
            permutation = transpose.attributes.get("perm") or tuple(reversed(range(rank)))
            axis = permutation[axis]
    use = Use(chain[0], 0) if chain else Use(node, index)
    return WeightSite(constant, axis, use)


def _after_absorbed(value: Value, target: Target) -> Value:
    while len(value.uses) == 1 and not value.is_output:
        user = value.users[0]
        if user.op not in target.absorb or user.domain or user.input(0) is not value:
            break
        value = user.output
    return value


def _place_join(node: Node, rule: OperatorRule, target: Target, placement: Placement) -> None:
    inputs = [v for i, v in enumerate(node.inputs) if v is not None and rule.input_role(i) == "activation"]
    flowing = [value for value in inputs if not value.is_constant]
    if not flowing or any(value not in placement.activations for value in flowing):
        return
    if any(value.dtype is not DType.FLOAT32 for value in inputs):
        return
    for value in inputs:
        placement.activations.setdefault(value, value)
    result = _after_absorbed(node.output, target)
    placement.activations.setdefault(result, result)
    placement.nodes[node] = None


def _place_passthrough(node: Node, placement: Placement) -> None:
    source = node.operand(0)
    if source not in placement.activations:
        return
    for value in node.outputs:
        if value.uses:
            placement.activations[value] = source
    placement.nodes[node] = None
