"""The result of channel coupling, as passes use it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from graphopt.analysis.cost import is_weight
from graphopt.analysis.coupling.atoms import Atoms, Factor
from graphopt.analysis.coupling.extents import find_extents
from graphopt.ir import Graph, Value


@dataclass(frozen=True)
class Group:
    """Components that are alike: they have their atoms in the same factors (the output channels of one layer, say).

    Attributes:
        index: number of the group.
        components: numbers of the components, in order of their first atom.
        factors: where their atoms are.
        minimum: how many components operators need (TopK: as many as it chooses).
    """

    index: int
    components: np.ndarray
    factors: tuple[Factor, ...]
    minimum: int = 1

    def __len__(self) -> int:
        return len(self.components)


class ChannelCoupling:
    """What can be removed from a graph, and what goes with it.

    A *component* is a set of slices of tensors that can only be removed together; a *group* is a set of components that
    are alike. Components that hold an index of a graph input or output, of a spatial dimension, or of an operator that
    does not say how its operands relate, are frozen and belong to no group.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.extents = find_extents(graph)
        self.atoms = Atoms(self.extents)

    @cached_property
    def groups(self) -> list[Group]:
        """The groups of components that may be removed and whose removal takes weights away."""
        atoms = self.atoms
        factors = [factor for row in atoms.factors for factor in row]
        owner = np.repeat(np.arange(len(factors)), [factor.size for factor in factors])
        # Components are alike when they touch the same factors equally often; a sum of random numbers tells.
        tickets = np.random.default_rng(0).integers(1, 1 << 62, len(factors), dtype=np.uint64)
        signature = np.zeros(atoms.components, dtype=np.uint64)
        np.add.at(signature, atoms.component, tickets[owner])
        useful = ~atoms.frozen & self._weighted & self._flowing
        chosen = np.flatnonzero(useful)
        _, first, inverse = np.unique(signature[chosen], return_index=True, return_inverse=True)
        groups = []
        order = np.argsort(first)
        touched = self._factors_of_components(owner, chosen[first], len(factors))
        by_group = np.argsort(inverse, kind="stable")
        bounds = np.searchsorted(inverse[by_group], np.arange(len(first) + 1))
        for number, which in enumerate(order.tolist()):
            members = chosen[by_group[bounds[which] : bounds[which + 1]]]
            mine = tuple(factors[f] for f in touched[int(chosen[first[which]])])
            least = max(self.extents.minimum.get(factor.extent, 1) for factor in mine)
            groups.append(Group(number, members, mine, least))
        return groups

    def _factors_of_components(self, owner: np.ndarray, components: np.ndarray, factors: int) -> dict[int, list[int]]:
        wanted = np.zeros(self.atoms.components, dtype=bool)
        wanted[components] = True
        hits = np.flatnonzero(wanted[self.atoms.component])
        found: dict[int, list[int]] = {int(c): [] for c in components}
        # A number for each pair sorts faster than pairs do.
        for pair in np.unique(self.atoms.component[hits].astype(np.int64) * factors + owner[hits]).tolist():
            found[pair // factors].append(pair % factors)
        return found

    @cached_property
    def _weighted(self) -> np.ndarray:
        """Per component, whether it holds slices of weights: indices and masks alone are not worth removing."""
        members = self.extents.members
        extents = [e for e in self.extents.related if any(is_weight(value) for value, _ in members[e])]
        return self.atoms.any_of(self.atoms.of_extents(extents))

    @cached_property
    def _flowing(self) -> np.ndarray:
        """Per component, whether anything flows through it: rows of a table that nobody reads are no channels."""
        members = enumerate(self.extents.members)
        extents = [extent for extent, refs in members if not all(value.is_constant for value, _ in refs)]
        return self.atoms.any_of(self.atoms.of_extents(extents))

    def constants(self) -> Iterator[tuple[Value, int, list[Factor]]]:
        """Every dimension of every constant that has atoms, with its factors."""
        for extent, members in enumerate(self.extents.members):
            for value, dim in members:
                if value.is_constant:
                    yield value, dim, self.atoms.factors[extent]

    def keep_masks(self, removed: np.ndarray) -> dict[int, np.ndarray]:
        """For every extent that loses indices a mask of those that stay.

        Args:
            removed: numbers of the components to remove.
        """
        gone = np.zeros(self.atoms.components, dtype=bool)
        gone[removed] = True
        kept = ~gone[self.atoms.component]
        masks = {}
        for extent in np.flatnonzero(~np.logical_and.reduceat(kept, self.atoms.starts)).tolist() if len(kept) else ():
            inner, *outer = self.atoms.factors[extent]
            mask = kept[inner.first : inner.first + inner.size]
            for factor in outer:  # innermost first, so that each one becomes the slower index
                mask = np.outer(kept[factor.first : factor.first + factor.size], mask).reshape(-1)
            masks[extent] = mask
        return masks

    def frozen_by(self) -> Counter[str]:
        """Why components are frozen: for each reason the number of components that it touches."""
        counts: Counter[str] = Counter()
        atoms, weighted = self.atoms, self._weighted
        for places, reason in atoms.reasons:
            counts[reason] += int(weighted[np.unique(atoms.component[places])].sum())
        worth = weighted[atoms.component]
        some = np.logical_or.reduceat(worth, atoms.starts).tolist() if atoms.count else []
        for extent, reason in self.extents.frozen.items():
            if some[extent]:
                span = slice(atoms.starts[extent], atoms.starts[extent] + atoms.lengths[extent])
                counts[reason] += len(np.unique(atoms.component[span][worth[span]]))
        return Counter({reason: count for reason, count in counts.items() if count})

    def name_of(self, group: Group) -> str:
        """A readable name: the constants that the group cuts through."""
        names = [value.name for value in self.constants_of(group)]
        return ", ".join(names) or f"group {group.index}"

    def constants_of(self, group: Group) -> list[Value]:
        """The constants that the group cuts through."""
        members = [ref for factor in group.factors for ref in self.extents.members[factor.extent]]
        return list(dict.fromkeys(value for value, _ in members if value.is_constant))
