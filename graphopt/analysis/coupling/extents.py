"""Extents: dimensions that are index for index the same, and how each one factors.

The first of two steps of channel coupling. Dimensions that operators relate whole (``y = Relu(x)``) are merged into one
*extent*. What remains are relations between extents: products (``[768] -> [12, 64]``), and selections (Concat, Split).
A product cuts an extent at a stride; cuts travel along all relations until every extent factors the same way wherever
it is seen, row-major. This is the factor propagation of Shardy (OpenXLA), applied to removal instead of sharding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graphopt.ir import Graph, Node, Value, captured
from graphopt.ops import DimRef, Relation, record_of


@dataclass(frozen=True)
class Product:
    """Extent `whole` is a row-major product: `part` covers strides from `low` up to `high`."""

    whole: int
    part: int
    low: int
    high: int
    node: Node


@dataclass(frozen=True)
class Choice:
    """Extent `part` holds indices `index` of extent `whole`."""

    part: int
    whole: int
    index: range | np.ndarray
    node: Node
    covers: bool  # the whole is an output of the node: indices that no part covers are new there


@dataclass
class Extents:
    """The extents of a graph.

    Attributes:
        of: extent of each dimension.
        members: the dimensions of each extent.
        sizes: number of indices of each extent.
        cuts: strides (between 1 and the size, exclusive) at which each extent factors; each divides the next.
        products: relations between an extent and its factors.
        choices: relations between an extent and a selection of its indices.
        frozen: extents whose indices must all stay, with the reasons.
        related: extents that at least one operator relates to something (kernel windows, for one, are not).
        label_extents: for each node the extent of each label of its relation.
        relations: the relation of each node that has one.
    """

    of: dict[DimRef, int] = field(default_factory=dict)
    members: list[list[DimRef]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    cuts: list[set[int]] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    frozen: dict[int, str] = field(default_factory=dict)
    related: set[int] = field(default_factory=set)
    label_extents: dict[tuple[Node, str], int] = field(default_factory=dict)
    relations: dict[Node, Relation] = field(default_factory=dict)

    def freeze(self, extent: int, reason: str) -> None:
        """Forbids removing indices; the first reason is kept."""
        self.frozen.setdefault(extent, reason)

    def factors(self, extent: int) -> list[tuple[int, int]]:
        """(stride, size) of each factor, innermost first."""
        strides = [1, *sorted(self.cuts[extent]), self.sizes[extent]]
        return [(low, high // low) for low, high in pairwise(strides)]


def find_extents(graph: Graph) -> Extents:
    """Merges the dimensions of all values of `graph` into extents, and factors them."""
    collector = _Collector(graph)
    extents = collector.merge()
    _propagate_cuts(extents)
    return extents


class _Collector:
    """Numbers dimensions and labels ("axes"), and collects the relations between them."""

    def __init__(self, graph: Graph) -> None:
        self.axes: dict[object, int] = {}
        self.sizes: list[int] = []
        self.refs: list[DimRef | None] = []
        self.same: list[tuple[int, int]] = []
        self.products: list[tuple[int, int, int, int, Node]] = []
        self.choices: list[tuple[int, int, range | np.ndarray, Node, bool]] = []
        self.frozen: list[tuple[int, str]] = []
        self.relations: dict[Node, Relation] = {}
        for value in graph.inputs:
            self.freeze_value(value, f"graph input '{value.name}'")
        for node in graph.nodes:
            self.add_node(node)
        for value, name in zip(graph.outputs, graph.output_names, strict=True):
            self.freeze_value(value, f"graph output '{name}'")

    def dimension(self, ref: DimRef) -> int | None:
        """The axis of a dimension; ``None`` when its extent is not a number, or is at most one."""
        axis = self.axes.get(ref)
        if axis is not None:
            return axis
        shape = ref[0].shape
        size = None if shape is None or ref[1] >= len(shape) else shape[ref[1]]
        if not isinstance(size, int) or size <= 1:
            return None
        return self._new(ref, size, ref)

    def _new(self, key: object, size: int, ref: DimRef | None) -> int:
        self.axes[key] = len(self.sizes)
        self.sizes.append(size)
        self.refs.append(ref)
        return len(self.sizes) - 1

    def freeze_value(self, value: Value, reason: str) -> None:
        for dim in range(value.rank or 0):
            self.freeze((value, dim), reason)

    def freeze(self, ref: DimRef, reason: str) -> None:
        axis = self.dimension(ref)
        if axis is not None:
            self.frozen.append((axis, reason))

    def add_node(self, node: Node) -> None:
        operands = [value for value in node.inputs if value is not None] + list(node.outputs)
        record = record_of(node)
        known = record is not None and record.relate is not None and all(v.shape is not None for v in operands)
        relation = record.relate(node) if known and record is not None and record.relate is not None else None
        if relation is None:
            for value in [*operands, *captured(node)]:
                self.freeze_value(value, f"operator {node.domain + '::' if node.domain else ''}{node.op}")
            return
        self.relations[node] = relation
        self.add_relation(node, relation, operands)

    def add_relation(self, node: Node, relation: Relation, operands: Iterable[Value]) -> None:
        seen = {ref for s in relation.selections for ref in (s.part, s.whole)}
        for ref, labels in relation.axes.items():
            axis = self.dimension(ref)
            seen.add(ref)
            if axis is not None:
                self.add_labels(node, axis, [(each.label, each.size) for each in labels])
        for label, reason in relation.frozen.items():
            axis = self.axes.get((node, label))
            if axis is not None:
                self.frozen.append((axis, f"{node.op}: {reason}" if reason else f"operator {node.op}"))
        for selection in relation.selections:
            part, whole = self.dimension(selection.part), self.dimension(selection.whole)
            made_here = selection.whole[0].producer is node
            if part is not None and whole is not None:
                index = selection.index if isinstance(selection.index, range) else np.asarray(selection.index)
                self.choices.append((part, whole, index, node, made_here))
            elif whole is not None:  # a part of extent one cannot be emptied, so neither can its index
                self.choices.append((-1, whole, np.asarray(selection.index), node, made_here))
        for value in operands:
            for dim in range(value.rank or 0):
                if (value, dim) not in seen:
                    self.freeze((value, dim), f"operator {node.op}")

    def add_labels(self, node: Node, axis: int, labels: list[tuple[str, int]]) -> None:
        high = self.sizes[axis]
        for label, size in labels:
            low = high // size
            if size > 1:
                inner = self.axes.get((node, label))
                if inner is None:
                    inner = self._new((node, label), size, None)
                if low == 1 and high == self.sizes[axis]:
                    self.same.append((axis, inner))
                else:
                    self.products.append((axis, inner, low, high, node))
            high = low

    def merge(self) -> Extents:
        count = len(self.sizes)
        pairs = np.array(self.same, dtype=np.int64).reshape(-1, 2)
        links = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
        number, of = connected_components(links, directed=False) if count else (0, np.zeros(0, dtype=np.int64))
        extents = Extents(relations=self.relations)
        extents.sizes = [0] * number
        extents.members = [[] for _ in range(number)]
        extents.cuts = [set() for _ in range(number)]
        mapping = of.tolist()
        for axis, extent in enumerate(mapping):
            extents.sizes[extent] = self.sizes[axis]
            ref = self.refs[axis]
            if ref is not None:
                extents.of[ref] = extent
                extents.members[extent].append(ref)
        for key, axis in self.axes.items():
            if self.refs[axis] is None:
                extents.label_extents[key] = mapping[axis]  # type: ignore[index]
                extents.related.add(mapping[axis])
        extents.products = [Product(mapping[w], mapping[p], low, high, n) for w, p, low, high, n in self.products]
        extents.choices = [
            Choice(mapping[p] if p >= 0 else -1, mapping[w], index, n, made) for p, w, index, n, made in self.choices
        ]
        extents.related.update(c.whole for c in extents.choices)
        for axis, reason in self.frozen:
            extents.freeze(mapping[axis], reason)
        return extents


def _propagate_cuts(extents: Extents) -> None:
    as_whole: dict[int, list[Product]] = defaultdict(list)
    as_part: dict[int, list[Product]] = defaultdict(list)
    choices: dict[int, list[Choice]] = defaultdict(list)
    pending: list[tuple[int, int]] = []
    for product in extents.products:
        as_whole[product.whole].append(product)
        as_part[product.part].append(product)
        pending += [(product.whole, product.low), (product.whole, product.high)]
    for choice in extents.choices:
        if choice.part >= 0:
            choices[choice.part].append(choice)
            choices[choice.whole].append(choice)
    while pending:
        extent, stride = pending.pop()
        if not _add_cut(extents, extent, stride):
            continue
        for product in as_whole[extent]:
            pending.extend(_cut_of_part(extents, product, stride))
        pending.extend((product.whole, product.low * stride) for product in as_part[extent])
        for choice in choices[extent]:
            pending.extend(_cut_across(extents, choice, extent, stride))


def _add_cut(extents: Extents, extent: int, stride: int) -> bool:
    """Adds a cut; False when it is there already, or does not fit the others (then the extent freezes)."""
    size, cuts = extents.sizes[extent], extents.cuts[extent]
    if stride in (1, size) or stride in cuts:
        return False
    chain = sorted({1, *cuts, stride, size})
    if any(high % low for low, high in pairwise(chain)):
        extents.freeze(extent, f"a dimension of {size} is split in ways that do not nest")
        return False
    cuts.add(stride)
    return True


def _cut_of_part(extents: Extents, product: Product, stride: int) -> Iterator[tuple[int, int]]:
    if not product.low < stride < product.high:
        return
    if stride % product.low or product.high % stride:
        extents.freeze(product.whole, f"operator {product.node.op} splits a dimension of another factor")
        return
    yield product.part, stride // product.low


def _cut_across(extents: Extents, choice: Choice, extent: int, stride: int) -> Iterator[tuple[int, int]]:
    """Carries a cut over a contiguous selection; where it cannot be, `atoms` freezes what does not correspond."""
    if not isinstance(choice.index, range) or choice.index.step != 1:
        return
    start, length = choice.index.start, len(choice.index)
    if start % stride:
        return
    if extent == choice.whole and stride < length and length % stride == 0:
        yield choice.part, stride
    if extent == choice.part and extents.sizes[choice.whole] % stride == 0:
        yield choice.whole, stride
