"""Atoms: the smallest things that can be removed, and which of them go together.

The second step of channel coupling. Each index of each factor of each extent is an atom. Relations between extents tie
atoms; connected components are what can be removed: all of a component or nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graphopt.analysis.coupling.extents import Choice, Extents, Product


class Factor(NamedTuple):
    """One factor of an extent; atom ``first + i`` is its index i.

    Attributes:
        extent: number of the extent.
        stride: distance in the extent between neighbouring indices.
        size: number of indices.
        first: number of the first atom.
    """

    extent: int
    stride: int
    size: int
    first: int

    @property
    def atoms(self) -> np.ndarray:
        return np.arange(self.first, self.first + self.size)


class Atoms:
    """The atoms of a graph and their components; those of an extent are numbered in a row.

    Attributes:
        factors: per extent its factors, innermost first.
        count: number of atoms.
        starts: first atom of each extent.
        lengths: number of atoms of each extent.
        component: component of each atom.
        components: number of components.
        frozen: per component, whether it must stay.
        reasons: why single atoms are frozen, beyond the reasons of whole extents.
    """

    def __init__(self, extents: Extents) -> None:
        self.extents = extents
        self.factors: list[list[Factor]] = []
        self.count = 0
        starts = []
        for extent in range(len(extents.sizes)):
            starts.append(self.count)
            row = []
            for stride, size in extents.factors(extent):
                row.append(Factor(extent, stride, size, self.count))
                self.count += size
            self.factors.append(row)
        self.starts = np.array(starts, dtype=np.int64)
        self.lengths = np.diff(self.starts, append=self.count)
        self._left: list[np.ndarray] = []
        self._right: list[np.ndarray] = []
        self.reasons: list[tuple[np.ndarray, str]] = []
        for product in extents.products:
            self._tie_product(product)
        for choice in extents.choices:
            self._tie_choice(choice)
        self._freeze_new(extents.choices)
        for extent in extents.minimum:
            if len(self.factors[extent]) > 1:
                extents.freeze(extent, "a choice among indices that factor")
        self._connect()
        self.frozen = self.any_of(self.of_extents(extents.frozen))
        for atoms, _ in self.reasons:
            self.frozen[self.component[atoms]] = True

    def of_extents(self, extents: Iterable[int]) -> np.ndarray:
        """A mask of the atoms of some extents."""
        inside = np.zeros(len(self.starts), dtype=bool)
        inside[list(extents)] = True
        return np.repeat(inside, self.lengths)

    def any_of(self, atoms: np.ndarray) -> np.ndarray:
        """A mask of the components that hold atoms of a mask."""
        found = np.zeros(self.components, dtype=bool)
        found[self.component[atoms]] = True
        return found

    def _all(self, extent: int) -> np.ndarray:
        row = self.factors[extent]
        return np.arange(row[0].first, row[-1].first + row[-1].size)

    def _freeze(self, atoms: np.ndarray, reason: str) -> None:
        self.reasons.append((atoms, reason))

    def _tie(self, left: np.ndarray, right: np.ndarray) -> None:
        self._left.append(left)
        self._right.append(right)

    def _tie_product(self, product: Product) -> None:
        inner = [f for f in self.factors[product.whole] if product.low <= f.stride < product.high]
        outer = self.factors[product.part]
        wanted = [(f.stride * product.low, f.size) for f in outer]
        if [(f.stride, f.size) for f in inner] != wanted:
            self._freeze(self._all(product.whole), f"operator {product.node.op}: factors do not correspond")
            self._freeze(self._all(product.part), f"operator {product.node.op}: factors do not correspond")
            return
        for a, b in zip(inner, outer, strict=True):
            self._tie(a.atoms, b.atoms)

    def _tie_choice(self, choice: Choice) -> None:
        reason = f"operator {choice.node.op}: its parts do not factor alike"
        if choice.part < 0:
            indices = np.asarray(choice.index, dtype=np.int64)
            self._freeze_indices(choice.whole, indices, f"operator {choice.node.op}: a part of one index")
            return
        whole, part = self.factors[choice.whole], self.factors[choice.part]
        if not isinstance(choice.index, range) or choice.index.step != 1:
            if len(whole) == len(part) == 1:
                self._tie(part[0].atoms, whole[0].first + np.asarray(choice.index, dtype=np.int64))
            else:
                self._freeze(self._all(choice.whole), reason)
                self._freeze(self._all(choice.part), reason)
            return
        if not self._tie_range(whole, part, choice.index.start, len(choice.index)):
            self._freeze(self._all(choice.whole), reason)
            self._freeze(self._all(choice.part), reason)

    def _tie_range(self, whole: Sequence[Factor], part: Sequence[Factor], start: int, length: int) -> bool:
        """Ties a contiguous selection factor by factor; False when the two do not factor alike."""
        by_stride = {factor.stride: factor for factor in part}
        used = 0
        for factor in whole:
            end = factor.stride * factor.size
            if factor.stride >= length:  # the part lies in one index of this factor, which it cannot lose
                if start // factor.stride != (start + length - 1) // factor.stride:
                    return False
                self._freeze(np.array([factor.first + start // factor.stride % factor.size]), "holds a whole part")
                continue
            mine = by_stride.get(factor.stride)
            if mine is None or start % factor.stride:
                return False
            used += 1
            if mine.size == factor.size and start % end == 0:
                self._tie(mine.atoms, factor.atoms)
                continue
            first = start // factor.stride % factor.size
            if first + mine.size > factor.size or factor.stride * mine.size != length:
                return False
            self._tie(mine.atoms, factor.first + first + np.arange(mine.size))
        return used == len(part)

    def _freeze_indices(self, extent: int, indices: np.ndarray, reason: str) -> None:
        for factor in self.factors[extent]:
            self._freeze(factor.first + np.unique(indices // factor.stride % factor.size), reason)

    def _freeze_new(self, choices: Sequence[Choice]) -> None:
        """Indices that an operator adds to what it is given (Pad) have no source to be removed from."""
        covered: dict[int, list[np.ndarray]] = {}
        nodes = {}
        for choice in choices:
            if choice.covers:
                covered.setdefault(choice.whole, []).append(np.asarray(choice.index, dtype=np.int64))
                nodes[choice.whole] = choice.node
        for extent, indices in covered.items():
            new = np.setdiff1d(np.arange(self.extents.sizes[extent]), np.concatenate(indices))
            if len(new):
                self._freeze_indices(extent, new, f"operator {nodes[extent].op} adds these indices")

    def _connect(self) -> None:
        self.components = self.count
        self.component: np.ndarray = np.arange(self.count)
        if self._left:  # else every atom is a component of its own
            left, right = np.concatenate(self._left), np.concatenate(self._right)
            links = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(self.count, self.count))
            self.components, self.component = connected_components(links, directed=False)
