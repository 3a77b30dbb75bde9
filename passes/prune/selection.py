"""Selection: which groups may be pruned, and which are told apart by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.analysis.coupling import ChannelCoupling, Group
from graphopt.passes.prune.kinds import Kind, kinds_of
from graphopt.passes.prune.names import check_pattern, matches


def eligible(
    coupling: ChannelCoupling, ignore: Sequence[str], ratio: float, kinds: Sequence[Kind] = ()
) -> tuple[list[Group], list[str]]:
    """The groups that may be pruned, and notes on those that may not.

    A group is left out when a pattern of `ignore` matches a constant it cuts through (or the module it belongs to),
    when it has a single component, when it is of another kind than `kinds` (if any) asks for, or when it is another
    factor of a dimension that is pruned already (heads or head dimension, not both).

    Raises:
        OptionError: a pattern that matches nothing.
    """
    groups = [group for group in coupling.groups if len(group) > 1]
    protected, notes = _protected(coupling, groups, ignore)
    free = [group for group in groups if group.index not in protected]
    if kinds:
        free = [group for group, kind in zip(free, kinds_of(coupling, free), strict=True) if kind in kinds]
    return _one_factor_each(free, ratio), notes


def _protected(coupling: ChannelCoupling, groups: Sequence[Group], ignore: Sequence[str]) -> tuple[set[int], list[str]]:
    protected: set[int] = set()
    if not ignore:
        return protected, []
    names = {group.index: [value.name for value in coupling.constants_of(group)] for group in groups}
    notes = []
    for pattern in ignore:
        check_pattern(coupling.graph, pattern, "ignore")
        hit = [index for index, own in names.items() if any(matches(name, pattern) for name in own)]
        protected.update(hit)
        notes.append(f"'{pattern}' protects {len(hit)} groups")
    return protected, notes


def overrides(coupling: ChannelCoupling, groups: Sequence[Group], ratios: Mapping[str, float]) -> dict[int, float]:
    """By position in `groups` the ratio that the first fitting pattern of `ratios` gives, or its name in reports.

    Raises:
        OptionError: a pattern that matches nothing.
    """
    found: dict[int, float] = {}
    named = {coupling.name_of(group): position for position, group in enumerate(groups)} if ratios else {}
    for pattern, ratio in ratios.items():
        if pattern in named:  # a group as reports name it
            found[named[pattern]] = ratio
            continue
        check_pattern(coupling.graph, pattern, "ratios")
        for position, group in enumerate(groups):
            if any(matches(value.name, pattern) for value in coupling.constants_of(group)):
                found.setdefault(position, ratio)
    return found


def _one_factor_each(groups: Sequence[Group], ratio: float) -> list[Group]:
    """Of groups that factor one dimension takes the one that comes closest to the ratio, the outermost if equal."""

    def rank(group: Group) -> tuple[float, int]:
        return ratio - int(ratio * len(group)) / len(group), -max(factor.stride for factor in group.factors)

    taken: dict[int, int] = {}
    chosen = []
    for group in sorted(groups, key=rank):
        strides = {factor.extent: factor.stride for factor in group.factors}
        if all(taken.get(extent, stride) == stride for extent, stride in strides.items()):
            taken.update(strides)
            chosen.append(group)
    return sorted(chosen, key=lambda group: group.index)
