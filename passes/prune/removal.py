"""Removal: takes components out of a graph, a gather per tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property

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
        masks = coupling.keep_masks(components)
        self.indices = {extent: torch.from_numpy(np.flatnonzero(mask)) for extent, mask in masks.items()}
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
        for value, dims in self._cut.items():
            if value.is_constant and value.data is not None and value.graph is not None:
                self._keep(value, dims)

    def apply(self) -> None:
        """Adapts nodes, slices constants, and states the new shapes."""
        touched = self._touched()
        for node in touched:
            self._note_normalisation(node)
        for node in touched:
            self._adapt(node)
        for value, dims in self._cut.items():
            if value.graph is not None:
                self._shrink(value, dims)

    @cached_property
    def _cut(self) -> dict[Value, dict[int, torch.Tensor]]:
        """For every value that loses indices, by dimension those that stay."""
        found: defaultdict[Value, dict[int, torch.Tensor]] = defaultdict(dict)
        for extent, indices in self.indices.items():
            for value, dim in self.coupling.extents.members[extent]:
                found[value][dim] = indices
        return found

    def _touched(self) -> list[Node]:
        """The nodes that read or make a value that loses indices."""
        apart = self._cut.keys().isdisjoint
        return [node for node in self.graph.walk() if not (apart(node.inputs) and apart(node.outputs))]

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
            if extent in self.indices and attribute in node.attributes:
                node.attributes[attribute] = len(self.indices[extent])

    def _shrink(self, value: Value, dims: Mapping[int, torch.Tensor]) -> None:
        data, kind = value.data, value.type
        if data is not None and value.is_constant:
            for dim in sorted(dims):  # rows first: whole ones are copied fastest, and leave less of the others
                data = data.index_select(dim, dims[dim].to(data.device))
            value.data = data
            self._keep(value, dims)
        if isinstance(kind, TensorType):
            shape = list(kind.shape or ())
            for dim, indices in dims.items():
                shape[dim] = len(self._list(indices))
            value.type = kind.with_shape(shape)

    def _keep(self, value: Value, dims: Mapping[int, torch.Tensor]) -> None:
        self.kept_constants[value.name] = {dim: self._list(indices) for dim, indices in dims.items()}
