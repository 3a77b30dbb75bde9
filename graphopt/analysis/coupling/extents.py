"""Extents: dimensions that are index for index the same, and how each one factors.

The first of two steps of channel coupling. Dimensions that operators relate whole (``y = Relu(x)``) are merged into one
*extent*. What remains are relations between extents: products (``[768] -> [12, 64]``), and selections (Concat, Split).
A product cuts an extent at a stride; cuts travel along all relations until every extent factors the same way wherever
it is seen, row-major. This is the factor propagation of Shardy (OpenXLA), applied to removal instead of sharding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from graphopt.analysis.coupling.choices import Sources, handed_on, looked_up
from graphopt.ir import Graph, Node, TensorType, Value, captured
from graphopt.ops import DimRef, Relation, Selection, record_of


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
    """The extents of a graph: dimensions that an operator relates to something (kernel windows, for one, have none).

    Attributes:
        members: the dimensions of each extent.
        sizes: number of indices of each extent.
        cuts: for extents that factor, the strides (between 1 and the size, exclusive) at which; each divides the next.
        products: relations between an extent and its factors.
        choices: relations between an extent and a selection of its indices.
        frozen: extents whose indices must all stay, with the reasons.
        minimum: of extents from which an operator chooses, how many indices it needs.
        chosen: integer values whose elements are indices of an extent that an operator chose (TopK).
        related: extents that are more than parts of others.
        relations: the relation of each node that has one.
    """

    members: list[list[DimRef]]
    sizes: list[int]
    products: list[Product]
    choices: list[Choice]
    related: set[int]
    relations: dict[Node, Relation]
    cuts: dict[int, set[int]] = field(default_factory=dict)
    frozen: dict[int, str] = field(default_factory=dict)
    minimum: dict[int, int] = field(default_factory=dict)
    chosen: frozenset[Value] = frozenset()
    _places: dict[Value, list[int]] = field(default_factory=dict)
    _labels: dict[Node, dict[str, int]] = field(default_factory=dict)
    _of_axis: list[int] = field(default_factory=list)

    def of(self, value: Value, dim: int) -> int | None:
        """The extent of a dimension; ``None`` when its size is not a number, is at most one, or relates to nothing."""
        places = self._places.get(value, ())
        axis = places[dim] if dim < len(places) else -1
        extent = -1 if axis < 0 else self._of_axis[axis]
        return None if extent < 0 else extent

    def of_label(self, node: Node, label: str) -> int | None:
        """The extent of a label of a node's relation; ``None`` when it has none, or is of size one."""
        axis = self._labels[node].get(label) if node in self._labels else None
        return None if axis is None else self._of_axis[axis]

    def freeze(self, extent: int, reason: str) -> None:
        """Forbids removing indices; the first reason is kept."""
        self.frozen.setdefault(extent, reason)

    def factors(self, extent: int) -> list[tuple[int, int]]:
        """(stride, size) of each factor, innermost first."""
        if extent not in self.cuts:
            return [(1, self.sizes[extent])]
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
        self.sizes: list[int] = []
        self.places: dict[Value, list[int]] = {}
        self.labels: dict[Node, dict[str, int]] = {}
        self.same: list[tuple[int, int]] = []
        self.related: list[int] = []
        self.products: list[tuple[int, int, int, int, Node]] = []
        self.choices: list[tuple[int, int, range | np.ndarray, Node, bool]] = []
        self.frozen: list[tuple[int, str]] = []
        self.relations: dict[Node, Relation] = {}
        self.minimum: list[tuple[int, int]] = []
        self.chosen: dict[Value, Sources] = {}
        for value in graph.inputs:
            self.freeze_value(value, f"graph input '{value.name}'")
        for node in graph.nodes:
            self.add_node(node)
        for value, name in zip(graph.outputs, graph.output_names, strict=True):
            self.freeze_value(value, f"graph output '{name}'")
            self.freeze_choice(value, f"graph output '{name}'")

    def axes(self, value: Value) -> list[int]:
        """The axis of each dimension; -1 where its extent is not a number, or is at most one."""
        found = self.places.get(value)
        if found is None:
            found = self.places[value] = []
            for size in value.shape or ():
                if isinstance(size, int) and size > 1:
                    found.append(len(self.sizes))
                    self.sizes.append(size)
                else:
                    found.append(-1)
        return found

    def freeze_value(self, value: Value, reason: str) -> None:
        self.frozen += [(axis, reason) for axis in self.axes(value) if axis >= 0]

    def add_node(self, node: Node) -> None:
        operands = [value for value in node.inputs if value is not None] + list(node.outputs)
        record = record_of(node)
        known = record is not None and record.relate is not None and all(map(_has_rank, operands))
        relation = record.relate(node) if known and record is not None and record.relate is not None else None
        if relation is None:
            for value in [*operands, *captured(node)]:
                reason = f"operator {node.domain + '::' if node.domain else ''}{node.op}"
                self.freeze_value(value, reason)
                self.freeze_choice(value, reason)
            return
        self.relations[node] = relation
        self.add_relation(node, relation, operands)

    def add_relation(self, node: Node, relation: Relation, operands: Iterable[Value]) -> None:
        labels = self.add_labels(node, relation)
        if labels:
            self.labels[node] = labels
            self.minimum += [(labels[label], least) for label, least in relation.minimum.items() if label in labels]
        # Few graphs choose anything.
        followed = self.follow_choices(node, relation) if self.chosen or relation.positions else ()
        for label, reason in relation.frozen.items():
            if label in labels and label not in followed:
                self.frozen.append((labels[label], f"{node.op}: {reason}" if reason else f"operator {node.op}"))
        for selection in relation.selections:
            self.add_selection(node, selection)
        named: Collection[DimRef] = relation.axes.keys()
        if relation.selections:
            named = {*named, *(ref for each in relation.selections for ref in (each.part, each.whole))}
        reason = f"operator {node.op}"
        for value in operands:
            for dim, axis in enumerate(self.places.get(value) or self.axes(value)):
                if axis >= 0 and (value, dim) not in named:
                    self.frozen.append((axis, reason))

    def follow_choices(self, node: Node, relation: Relation) -> set[str]:
        """Carries on what is known of integer values; labels of dimensions that are looked up by a known choice."""
        followed: set[str] = set()
        for value in dict.fromkeys(node.inputs):
            if value is None or value not in self.chosen:
                continue
            refs = looked_up(node, relation, value)
            sources = None if refs else handed_on(node, relation, value, self.chosen)
            if sources:
                self.chosen.update((result, sources) for result in node.outputs)
            elif tied := self.tie_choice(self.chosen[value], refs):
                followed.update(each.label for ref in tied for each in relation.axes.get(ref, ()))
            elif sources is None:
                self.freeze_choice(value, f"{node.op}: it computes with the numbers of what was chosen")
        for value, (whole, dim) in relation.positions.items():
            if value.producer is node and (axis := self.axes(whole)[dim]) >= 0:
                self.chosen[value] = (axis,)
        return followed

    def tie_choice(self, sources: Sources, refs: Sequence[DimRef]) -> list[DimRef]:
        """Ties what was chosen from to what is looked up by it, and says to what; to nothing if the two do not fit."""
        if len(sources) == 1:
            sources *= len(refs)
        if len(sources) != len(refs):
            return []
        known = [(source, ref) for source, ref in zip(sources, refs, strict=True) if source >= 0]
        pairs = [(source, self.axes(value)[dim]) for source, (value, dim) in known]
        if any(axis < 0 or self.sizes[axis] != self.sizes[source] for source, axis in pairs):
            return []
        self.same += pairs
        return [ref for _, ref in known]

    def freeze_choice(self, value: Value, reason: str) -> None:
        self.frozen += [(source, reason) for source in self.chosen.get(value, ()) if source >= 0]

    def add_selection(self, node: Node, selection: Selection) -> None:
        part, whole = (self.axes(value)[dim] for value, dim in (selection.part, selection.whole))
        if whole < 0:
            return
        made_here = selection.whole[0].producer is node
        # A part of extent one cannot be emptied, so neither can its index.
        contiguous = part >= 0 and isinstance(selection.index, range)
        index = selection.index if contiguous else np.asarray(selection.index)
        self.choices.append((part, whole, index, node, made_here))  # type: ignore[arg-type]
        self.related.append(whole)

    def add_labels(self, node: Node, relation: Relation) -> dict[str, int]:
        """Ties the dimensions that a relation labels; returns the axis of each label."""
        labels: dict[str, int] = {}
        for (value, dim), axes in relation.axes.items():
            axis = (self.places.get(value) or self.axes(value))[dim]
            if axis < 0:
                continue
            self.related.append(axis)
            high = whole = self.sizes[axis]
            for label, size in axes:
                low = high // size
                inner = labels.get(label)
                if size == whole:  # the first dimension that is one label whole is the label's axis
                    if inner is None:
                        labels[label] = axis
                    else:
                        self.same.append((axis, inner))
                elif size > 1:
                    if inner is None:
                        inner = labels[label] = len(self.sizes)
                        self.sizes.append(size)
                        self.related.append(inner)
                    self.products.append((axis, inner, low, high, node))
                high = low
        return labels

    def merge(self) -> Extents:
        mapping, sizes = self.numbered()
        members: list[list[DimRef]] = [[] for _ in sizes]
        for value, places in self.places.items():
            for dim, axis in enumerate(places):
                if axis >= 0 and mapping[axis] >= 0:
                    members[mapping[axis]].append((value, dim))
        choices = [
            Choice(mapping[p] if p >= 0 else -1, mapping[w], index, n, made) for p, w, index, n, made in self.choices
        ]
        products = [Product(mapping[w], mapping[p], low, high, n) for w, p, low, high, n in self.products]
        related = {mapping[axis] for axis in self.related}
        extents = Extents(
            members, sizes, products, choices, related, self.relations,
            chosen=frozenset(self.chosen), _places=self.places, _labels=self.labels, _of_axis=mapping,
        )  # fmt: skip
        for axis, least in self.minimum:
            extents.minimum[mapping[axis]] = max(least, extents.minimum.get(mapping[axis], 0))
        for axis, reason in self.frozen:
            if mapping[axis] >= 0:
                extents.frozen.setdefault(mapping[axis], reason)
        return extents

    def numbered(self) -> tuple[list[int], list[int]]:
        """For each axis the number of its extent, -1 where nothing relates it; and the sizes of the extents."""
        parent = list(range(len(self.sizes)))
        for a, b in self.same:  # union-find with halved paths: links lead to smaller numbers only
            while parent[a] != a:
                parent[a] = a = parent[parent[a]]
            while parent[b] != b:
                parent[b] = b = parent[parent[b]]
            if a < b:
                parent[b] = a
            else:
                parent[a] = b
        for axis, link in enumerate(parent):
            parent[axis] = parent[link]
        parts = (part for part, *_ in self.choices if part >= 0)
        roots = {parent[axis] for axes in (self.related, parts) for axis in axes}
        number = {root: extent for extent, root in enumerate(sorted(roots))}
        return [number.get(root, -1) for root in parent], [self.sizes[root] for root in number]


def _has_rank(value: Value) -> bool:
    """False for a tensor of which not even the rank is known; sequences have no dimensions to relate."""
    return value.shape is not None or not isinstance(value.type, TensorType)


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
    size, cuts = extents.sizes[extent], extents.cuts.get(extent, set())
    if stride in (1, size) or stride in cuts:
        return False
    chain = sorted({1, *cuts, stride, size})
    if any(high % low for low, high in pairwise(chain)):
        extents.freeze(extent, f"a dimension of {size} is split in ways that do not nest")
        return False
    extents.cuts.setdefault(extent, set()).add(stride)
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
