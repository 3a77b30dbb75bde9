"""Training that makes whole components small, so that pruning them costs little."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from graphopt.analysis.coupling import ChannelCoupling
from graphopt.errors import OptionError, PassError
from graphopt.ir import Graph
from graphopt.ir.names import unique_names
from graphopt.passes.prune.channels import explain_frozen
from graphopt.passes.prune.kinds import Kind
from graphopt.passes.prune.selection import eligible
from graphopt.passes.prune.slices import Slices
from graphopt.passes.train.finetune import Finetune, Hooks
from graphopt.pipeline import Changes, Context, Contract, register


@register("regularise")
@dataclass(frozen=True)
class Regularise(Finetune):
    """Train so that components that are pruned together become small together, before prune-channels takes them.

    A component is all that a channel (a head, a unit) is made of, in every layer that it runs through. ``regularise``
    trains as ``finetune`` does, with the run's data and loss; shapes stay. Follow it with
    ``prune-channels{criterion=l2}`` and the same ratio, ignore list and kinds.

    Attributes:
        method: "group-lasso" adds the components' norms to the loss (Wen et al. 2016; over coupled layers: Fang et al.
            2023). "growing" adds squares of those that are going to be pruned, more and more of them (GReg-1: Wang et
            al. 2021). "soft" sets those to zero after every epoch, and they may come back in the next one (He et al.
            2018); in the end they are zero.
        strength: weight of the penalty; with "growing" the one that is reached in the end.
        ratio: part of each group's components that becomes small (growing, soft): those of the smallest norm.
        ignore: patterns of parameter names or module paths to leave alone.
        kinds: treat only these: channels, heads, head-dim, ffn, embedding, ...
    """

    contract: ClassVar[Contract] = Contract.TRAINED

    method: Literal["group-lasso", "growing", "soft"] = "group-lasso"
    strength: float = 1e-3
    ratio: float = 0.5
    ignore: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, good, hint in (
            ("strength", 0 < self.strength < math.inf, "more than 0"),
            ("ratio", 0 <= self.ratio < 1, "0 <= ratio < 1"),
        ):
            if not good:
                raise OptionError(
                    f"{name} is {getattr(self, name)}", where=f"regularise{{{name}}}", hint=f"give {hint}"
                )

    def run(self, graph: Graph, context: Context) -> Changes:
        unique_names(graph)
        coupling = context.get(ChannelCoupling)
        groups, notes = eligible(coupling, self.ignore, self.ratio, self.kinds)
        if not groups:
            raise PassError("nothing can be pruned", where=self.name, hint=explain_frozen(coupling, self.kinds))
        changes = super().run(graph, context)
        notes.append(f"{sum(map(len, groups))} components in {len(groups)} groups")
        return Changes(changes.modified, changes.counts, (*changes.notes, *notes), details=changes.details)

    def _hooks(self, student: nn.Module, graph: Graph, context: Context) -> Hooks:
        coupling = context.get(ChannelCoupling)
        groups, _ = eligible(coupling, self.ignore, self.ratio, self.kinds)
        slices = Slices(coupling, groups, student)
        match self.method:
            case "group-lasso":
                return _GroupLasso(slices, self.strength)
            case "growing":
                return _Growing(slices, self.strength, smallest(slices, self.ratio))
            case _:
                return _Soft(slices, self.ratio)


def smallest(slices: Slices, ratio: float) -> torch.Tensor:
    """The components of the smallest norm, `ratio` of each group, as prune-channels takes them with criterion l2."""
    with torch.no_grad():
        squares = slices.squares(biases=False)
    chosen = []
    for group in slices.groups:
        count = min(int(ratio * len(group) + 1e-9), len(group) - 1)
        chosen.append(group.to(squares.device)[squares[group].argsort(stable=True)[:count]])
    return torch.cat(chosen)


class _GroupLasso(Hooks):
    """``strength * sum over components of sqrt(elements) * norm``."""

    def __init__(self, slices: Slices, strength: float) -> None:
        self.slices = slices
        self.strength = strength
        self.components = torch.cat(slices.groups)
        self.roots = slices.sizes[self.components].sqrt()

    def penalty(self, done: float) -> torch.Tensor:
        # A norm has no gradient at zero, where a component has arrived.
        norms = (self.slices.squares()[self.components] + 1e-12).sqrt()
        return self.strength * (self.roots * norms).sum()


class _Growing(Hooks):
    """``strength * done / 2 * sum of squares`` of the components that are going to be pruned."""

    def __init__(self, slices: Slices, strength: float, components: torch.Tensor) -> None:
        self.slices = slices
        self.strength = strength
        self.components = components

    def penalty(self, done: float) -> torch.Tensor:
        return self.strength * done / 2 * self.slices.squares()[self.components].sum()


class _Soft(Hooks):
    """Zeroes the smallest components after each epoch: what makes them; in the end all of them.

    With what reads them at zero as well no gradient would reach them again, and none could come back.
    """

    def __init__(self, slices: Slices, ratio: float) -> None:
        self.slices = slices
        self.ratio = ratio

    def epoch_ended(self, last: bool) -> None:
        self.slices.zero(smallest(self.slices, self.ratio), makers_only=not last)
