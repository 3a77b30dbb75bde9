"""What a group of channels is for: heads, head dimensions, FFN width, embedding width, experts, channels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Literal, TypeAlias, get_args

from graphopt.analysis.coupling import ChannelCoupling, Group
from graphopt.ir import Node, Value
from graphopt.ops import Relation, record_of

Kind: TypeAlias = Literal["heads", "head-dim", "experts", "groups", "hidden", "embedding", "ffn", "channels"]

#: Strongest first: what a group is when several hold.
KINDS: tuple[Kind, ...] = get_args(Kind)

_REDUCED: dict[str, Kind] = {"alternatives": "experts", "features": "embedding"}


def kinds_of(coupling: ChannelCoupling, groups: Sequence[Group]) -> list[Kind]:
    """The kind of each group, told by what the operators with multiply-accumulates do along its dimension.

    heads: a product of two activations is done once for each index (or for each index of the queries). head-dim: what
    such a product sums over, or passes on of its second operand. experts: a product with a stack of weights is done
    once for each, or a router chooses among them (by TopK) or weighs them (by a softmax). groups: whole convolution
    groups. hidden: units of recurrent layers. embedding: what layer normalisation runs over. ffn: any other width that
    matrix products alone read and write. channels: the rest.
    """
    derived = _derived(coupling)
    extents: dict[Kind, set[int]] = {kind: set() for kind in KINDS}
    for node, relation in coupling.extents.relations.items():
        record = record_of(node)
        if record is None or (record.macs is None and record.normalises is None):
            continue
        for label, kind in (*_of_products(node, relation, derived), *_of_normalisation(coupling, node, relation)):
            extent = coupling.extents.of_label(node, label)
            if extent is not None:
                extents[kind].add(extent)
    found: list[Kind] = []
    for group in groups:
        own = {factor.extent for factor in group.factors}
        hits = [kind for kind in KINDS if not own.isdisjoint(extents[kind])]
        # A convolution on the way makes channels of what would be the width of matrix products otherwise.
        found.append("channels" if not hits or (hits[0] == "ffn" and "channels" in hits) else hits[0])
    return found


def _of_products(node: Node, relation: Relation, derived: Collection[Value]) -> Iterator[tuple[str, Kind]]:
    record = record_of(node)
    if record is None or record.macs is None:
        return
    first, second = _labels(relation, node.input(0)), _labels(relation, node.input(1))
    result = _labels(relation, node.outputs[0])
    both = first & second & result
    operands = [value for value in (node.input(0), node.input(1)) if value is not None]
    if not any(value.is_constant or value in derived for value in operands):
        yield from ((label, "heads") for label in both | (first & result - second))
        values = _labels(relation, node.input(2)) if len(node.inputs) > 2 else set()
        yield from ((label, "head-dim") for label in (first | second | values) - (first & result))
        return
    if "gates" in second:
        yield from ((label, "hidden") for label in _labels(relation, node.input(2)) & result)
    grouped = relation.attributes.get("group")
    if grouped is not None:
        wide = any(axis.label not in both and axis.size > 1 for axis in relation.axes.get((node.operand(0), 1), ()))
        yield from ((label, "groups" if wide and label == grouped else "channels") for label in first | result)
        return
    yield from ((label, "experts") for label in both)
    yield from ((label, "ffn") for label in (first | second | result) - both)


def _of_normalisation(coupling: ChannelCoupling, node: Node, relation: Relation) -> Iterator[tuple[str, Kind]]:
    record = record_of(node)
    if record is None or record.normalises is None or record.reduces not in _REDUCED:
        return
    kind = _REDUCED[record.reduces]
    for dim in record.normalises(node):
        for axis in relation.axes.get((node.operand(0), dim), ()):
            yield axis.label, kind


def _derived(coupling: ChannelCoupling) -> set[Value]:
    """Values that are computed from constants alone, and the choice of experts: both are still weights."""
    found: set[Value] = set()
    for node in coupling.graph.nodes:
        read = [value for value in node.inputs if value is not None and value not in coupling.extents.chosen]
        record = record_of(node)
        product = record is not None and record.macs is not None  # no weight any more
        if read and not product and all(value.is_constant or value in found for value in read):
            found.update(node.outputs)
    return found


def _labels(relation: Relation, value: Value | None) -> set[str]:
    if value is None:
        return set()
    return {axis.label for dim in range(value.rank or 0) for axis in relation.axes.get((value, dim), ())}


__all__ = ["KINDS", "Kind", "kinds_of"]
