"""Zero padding in front of a convolution or an average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphopt.ir import Node, Value
from graphopt.ops import attribute
from graphopt.ops.builder import Builder
from graphopt.ops.infer import static_integers
from graphopt.passes.fuse.constants import FusePass
from graphopt.pipeline import register
from graphopt.rewrite import Failure, Match, Pattern, Patterns, Result, Rule, Var


class PadConv(Rule):
    """conv(pad(x)) with zeros is a conv that pads more itself.

    Contract: exact. Conditions: constant amounts, none negative, on spatial dimensions only, filled with zeros; the
    convolution states its pads. (A ConvTranspose does not qualify: its pads crop.)
    """

    def pattern(self, op: Patterns, x: Var, amounts: Var, w: Var, value: Any = None, axes: Any = None,
                b: Any = None) -> Pattern:  # fmt: skip
        return op.Conv(_zeros(op, x, amounts, value, axes), w, b)

    def rewrite(self, op: Builder, m: Match) -> Result:
        pads = _spatial_pads(m, m.root)
        if isinstance(pads, Failure):
            return pads
        op.in_module(m.root.origin.module)
        return op.like(m.root, m["x"], m["w"], m.get("b"), auto_pad=None, pads=pads)


class PadAveragePool(Rule):
    """An average over a zero-padded x is one that pads itself and counts its pads.

    Contract: exact. Conditions: as for `PadConv`; and the average counts its own pads or has none, rounds its number of
    windows down, and no pad is as large as the window. (A MaxPool does not qualify: it pads with minus infinity.)
    """

    def pattern(self, op: Patterns, x: Var, amounts: Var, value: Any = None, axes: Any = None) -> Pattern:
        return op.AveragePool(_zeros(op, x, amounts, value, axes), ceil_mode=0)

    def rewrite(self, op: Builder, m: Match) -> Result:
        if any(m.root.attributes.get("pads") or ()) and not attribute(m.root, "count_include_pad"):
            return m.fail("the average leaves its own pads out")
        pads = _spatial_pads(m, m.root)
        if isinstance(pads, Failure):
            return pads
        kernel = attribute(m.root, "kernel_shape")
        if any(pad >= extent for pad, extent in zip(pads, [*kernel, *kernel], strict=True)):
            return m.fail("a pad is as large as the window")
        return op.like(m.root, m["x"], auto_pad=None, pads=pads, count_include_pad=1)


def _zeros(op: Patterns, x: Var, amounts: Var, value: Any, axes: Any) -> Pattern:
    fill = op.any(op.const(0, value), op.optional(op.where(value, lambda v: False)))
    return op.Pad(x, op.constant(amounts), fill, axes, mode="constant").named("pad")


def _spatial_pads(m: Match, node: Node) -> list[int] | Failure:
    """The node's pads with those of the Pad before it added: begins, then ends."""
    rank = m["x"].rank
    amounts, axes = static_integers(m["amounts"]), _axes(m.get("axes"), rank)
    if rank is None or amounts is None or axes is None:
        return m.fail("the rank or the padded dimensions are not known")
    auto = node.attributes.get("auto_pad") or "NOTSET"
    if auto not in ("NOTSET", "VALID"):
        return m.fail("the pads are chosen from the size of the input")
    if min(amounts, default=0) < 0:
        return m.fail("it crops")
    spatial = rank - 2
    total = list(node.attributes.get("pads") or ()) if auto == "NOTSET" else []
    total = total or [0] * 2 * spatial
    for place, axis in enumerate(axes):
        pair = amounts[place], amounts[place + len(axes)]
        if axis < 2 and any(pair):
            return m.fail("it pads the batch or the channels")
        if axis >= 2:
            total[axis - 2] += pair[0]
            total[axis - 2 + spatial] += pair[1]
    return total


def _axes(value: Value | None, rank: int | None) -> list[int] | None:
    if rank is None:
        return None
    if value is None:
        return list(range(rank))
    axes = static_integers(value)
    return None if axes is None else [axis % rank for axis in axes]


@register("fuse-pad")
@dataclass(frozen=True)
class FusePad(FusePass):
    """Let convolutions and averages do the zero padding in front of them themselves."""

    rules = (PadConv, PadAveragePool)
    looks_for = frozenset({"Pad"})
