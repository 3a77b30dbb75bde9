"""Removal: takes components out of a graph, a gather per tensor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from graphopt.analysis.coupling import ChannelCoupling
from graphopt.ir import Dim, Graph, Node, TensorType, Value
from graphopt.ops import record_of

#: By name and dimension, the indices that stay.
Kept = dict[str, dict[int, list[int]]]


class Removal:
    """The removal of components from a graph; implements what a record's ``shrink`` may ask.

    Attributes:
        kept_constants: for every constant that lost slices, by name and dimension, the indices that stay.
        restricted: the same for inputs of normalisations whose statistics run over removed channels.
    """

    def __init__(self, graph: Graph, coupling: ChannelCoupling, components: np.ndarray) -> None:
        self.graph = graph
        self.coupling = coupling
        self.components = components
        self.masks = coupling.keep_masks(components)
        self.indices = {extent: torch.from_numpy(np.flatnonzero(mask)) for extent, mask in self.masks.items()}
        self._lists: dict[int, list[int]] = {}
        self.kept_constants: Kept = {}
        self.restricted: Kept = {}

    # -- what a record's shrink may ask

    def kept(self, value: Value, dim: int) -> torch.Tensor | None:
        extent = self.coupling.extents.of(value, dim)
        return None if extent is None else self.indices.get(extent)

    def old_size(self, value: Value, dim: int) -> Dim:
        extent = self.coupling.extents.of(value, dim)
        if extent is not None:
            return self.coupling.extents.sizes[extent]
        return None if value.shape is None else value.shape[dim]

    def size(self, value: Value, dim: int) -> Dim:
        indices = self.kept(value, dim)
        return self.old_size(value, dim) if indices is None else len(indices)

    def set_constant(self, node: Node, index: int, data: torch.Tensor) -> None:
        old = node.input(index)
        owner = node.graph or self.graph
        node.set_input(index, owner.add_constant(data, old.name if old is not None else ""))
        if old is not None:
            owner.sweep([old])

    def _list(self, indices: torch.Tensor) -> list[int]:
        """Indices as numbers; an extent has many members, whose lists are one."""
        if id(indices) not in self._lists:
            self._lists[id(indices)] = indices.tolist()
        return self._lists[id(indices)]

    # -- the removal itself

    def note(self) -> None:
        """Fills in what is kept, without touching the graph."""
        for node in self._touched():
            self._note_normalisation(node)
        for value, dim, indices in self._members():
            if value.is_constant and value.data is not None and value.graph is not None:
                self.kept_constants.setdefault(value.name, {})[dim] = self._list(indices)

    def apply(self) -> None:
        """Slices constants, adapts nodes, and states the new shapes."""
        touched = self._touched()
        for node in touched:
            self._note_normalisation(node)
        for node in touched:
            self._adapt(node)
        self._slice_constants()
        self._state_shapes()

    def _members(self) -> Iterator[tuple[Value, int, torch.Tensor]]:
        for extent, indices in self.indices.items():
            for value, dim in self.coupling.extents.members[extent]:
                yield value, dim, indices

    def _touched(self) -> list[Node]:
        found: dict[Node, None] = {}
        for value, _, _ in self._members():
            if value.producer is not None:
                found[value.producer] = None
            found.update(dict.fromkeys(value.users))
        return list(found)

    def _note_normalisation(self, node: Node) -> None:
        record, source = record_of(node), node.input(0)
        if record is None or record.normalises is None or source is None:
            return
        for dim in record.normalises(node):
            indices = self.kept(source, dim)
            if indices is not None:
                self.restricted.setdefault(source.name, {})[dim] = indices.tolist()

    def _adapt(self, node: Node) -> None:
        record = record_of(node)
        relation = self.coupling.extents.relations.get(node)
        if record is None or relation is None:
            return
        if record.shrink is not None:
            record.shrink(node, self)
        for attribute, label in relation.attributes.items():
            extent = self.coupling.extents.of_label(node, label)
            if extent in self.masks and attribute in node.attributes:
                node.attributes[attribute] = int(self.masks[extent].sum())

    def _slice_constants(self) -> None:
        for value, dim, indices in list(self._members()):
            data = value.data
            if not value.is_constant or data is None or value.graph is None:
                continue
            self.kept_constants.setdefault(value.name, {})[dim] = self._list(indices)
            value.data = data.index_select(dim, indices.to(data.device))

    def _state_shapes(self) -> None:
        shapes: dict[Value, list[Dim]] = {}
        for value, dim, indices in self._members():
            shapes.setdefault(value, list(value.shape or ()))[dim] = len(indices)
        for value, shape in shapes.items():
            kind = value.type
            if isinstance(kind, TensorType) and value.graph is not None:
                value.type = kind.with_shape(shape)
