"""The weights that a target's operators multiply with, wherever their activations stay."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, TypeAlias

from graphopt.ir import DType, Graph, Node, Use
from graphopt.passes.quantize.pairs import constant_data
from graphopt.passes.quantize.placement import WeightSite, is_named
from graphopt.targets import OperatorRule, Target, constant_source

_MOVES = frozenset({"Concat", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})

#: How many scales: one for all weights, one for each, one per output channel, per block of what is summed, per element.
Granularity: TypeAlias = Literal["global", "tensor", "channel", "block", "element"]


def weight_sites(
    graph: Graph,
    target: Target,
    granularity: Granularity,
    block: int,
    ignore: Sequence[str] = (),
    operators: Collection[str] = (),
) -> list[WeightSite]:
    """Every place where a node of the graph, or of its bodies, reads a weight in float32.

    Args:
        graph: the graph.
        target: whose rules say which inputs are weights.
        granularity: what shares a scale.
        block: elements per block.
        ignore: patterns of names of nodes, modules or tensors to leave out.
        operators: the only operators to look at; all of the target's when empty.
    """
    sites = []
    for node in graph.walk():
        rule = target.rule(node)
        if rule is None or (operators and node.op not in operators):
            continue
        if any(is_named(node, pattern) for pattern in ignore):
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and rule.input_role(index, value) == "weight":
                site = _site(node, index, rule, granularity, block)
                sites += [site] if site is not None else []
    return sites


def gather_weights(graph: Graph, target: Target) -> int:
    """Makes one constant of every stored weight that is put together from several, as recurrent layers' are.

    Returns the number of such weights. torch's parameters are then no longer apart.
    """
    count = 0
    for node in list(graph.walk()):
        rule = target.rule(node)
        if rule is None or rule.role != "stored":
            continue
        for index, value in enumerate(node.inputs):
            if value is None or value.producer is None or rule.input_role(index) != "weight":
                continue
            data = constant_data(value, _MOVES)
            if data is not None and node.graph is not None:
                node.set_input(index, node.graph.add_constant(data.detach().contiguous(), value.name))
                node.graph.sweep([value])
                count += 1
    return count


def _site(node: Node, index: int, rule: OperatorRule, granularity: Granularity, block: int) -> WeightSite | None:
    value = node.operand(index)
    source = constant_source(value)
    if source is None or value.dtype is not DType.FLOAT32 or value.shape is None or source[0].data is None:
        return None
    constant, chain = source
    rank = len(value.shape)
    use = Use(chain[0], 0) if chain else Use(node, index)
    if rank < 2 or granularity in ("global", "tensor"):
        return WeightSite(constant, None, use)
    axis = rule.weight_axis(node, rank)
    if granularity != "channel":
        axis = rule.reduced_axis(axis) % rank
    for transpose in reversed(chain):  # the axis as the constant has it
        axis = (transpose.attributes.get("perm") or tuple(reversed(range(rank))))[axis]
    return WeightSite(constant, axis, use, {"channel": 0, "element": 1}.get(granularity, block))
