"""Constants that scale or shift what goes into, or comes out of, a linear layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphopt.ops.builder import Builder
from graphopt.passes.fuse.activations import ends_gelu
from graphopt.passes.fuse.affine import of_arithmetic, scaling, shifting
from graphopt.passes.fuse.constants import FusePass
from graphopt.passes.fuse.linear import Linear, LinearRule, convolution, product
from graphopt.passes.fuse.norms import scales_rms
from graphopt.passes.simplify.conditions import stretches
from graphopt.pipeline import register
from graphopt.rewrite import Failure, Match, Pattern, Patterns, Result, Var


class _After(LinearRule):
    def rewrite(self, op: Builder, m: Match) -> Result:
        layer = Linear.of(m)
        if isinstance(layer, Failure):
            return layer
        affine = of_arithmetic(m, m["c"], layer.axis, layer.channels_out)
        return affine if isinstance(affine, Failure) else self.after(op, m, layer, affine)


class _Before(LinearRule):
    def rewrite(self, op: Builder, m: Match) -> Result:
        layer = Linear.of(m)
        if isinstance(layer, Failure):
            return layer
        if stretches(m["c"], m["x"]):
            return m.fail("the constant may stretch what the layer reads")
        if ends_gelu(m.node("affine")):
            return m.fail("it is the last factor of a Gelu, which runtimes compute as one")
        if scales_rms(m.node("affine")):
            return m.fail("it is the scale of a norm, which runtimes compute as one")
        affine = of_arithmetic(m, m["c"], layer.axis, layer.channels_in)
        return affine if isinstance(affine, Failure) else self.before(op, m, layer, affine)


class ConvScale(_After):
    """conv(x) * c, conv(x) / c, with a number c per channel or for all, is a conv with scaled weights. Contract: exact.

    Conditions: weights and c are constants, c varies along the channels (dimension 1) only, and nothing else reads the
    convolution's output.
    """

    def pattern(self, op: Patterns, x: Var, w: Var, c: Var, b: Any = None) -> Pattern:
        return scaling(op, convolution(op, x, w, b), c)


class ConvShift(_After):
    """conv(x) + c, conv(x) - c, c - conv(x) is a conv with another bias. Contract and conditions: as `ConvScale`."""

    def pattern(self, op: Patterns, x: Var, w: Var, c: Var, b: Any = None) -> Pattern:
        return shifting(op, convolution(op, x, w, b), c)


class LinearScale(_After):
    """As `ConvScale`, for matrix products and their last dimension."""

    def pattern(self, op: Patterns, x: Var, w: Var, c: Var, b: Any = None) -> Pattern:
        return scaling(op, product(op, x, w, b), c)


class LinearShift(_After):
    """As `ConvShift`, for matrix products and their last dimension. A constant added to a bare MatMul is its bias."""

    def pattern(self, op: Patterns, x: Var, w: Var, c: Var, b: Any = None) -> Pattern:
        view = op.Transpose(op.constant(w), perm=(1, 0)).named("linear.view")
        matmul = op.MatMul(x, op.any(op.constant(w), view)).named("linear")
        gemm = op.Gemm(x, op.constant(w), op.optional(op.constant(b)), transA=0).named("linear")
        return shifting(op, op.any(gemm, op.Add(matmul, op.constant(b))), c)


class ScaleConv(_Before):
    """conv(x * c), conv(x / c) is a conv with scaled weights. Contract: exact.

    Conditions: as `ConvScale`; c does not stretch x, whose channels are known, and is not the half of a Gelu, or the
    scale of a root-mean-square norm in primitives.
    """

    def pattern(self, op: Patterns, x: Var, w: Var, c: Var, b: Any = None) -> Pattern:
        return convolution(op, scaling(op, x, c), w, b)


class ShiftConv(_Before):
    """conv(x + c), conv(x - c), conv(c - x) is a conv with another bias.

    Contract: exact. Conditions: as `ScaleConv`; and the convolution does not pad, and is not transposed.
    """

    def pattern(self, op: Patterns, x: Var, w: Var, c: Var, b: Any = None) -> Pattern:
        return convolution(op, shifting(op, x, c), w, b)


class ScaledShiftConv(LinearRule):
    """conv(x * a + c), conv(x / a + c) with zeros around is a conv of x + c / a, with scaled weights. Contract: exact.

    The shift does not reach the zeros and has to stay, the scale may go. Conditions: as `ScaleConv`, for a; no a is
    zero; c does not stretch x, and c / a is as large as c.
    """

    def pattern(self, op: Patterns, x: Var, w: Var, a: Var, c: Var, b: Any = None) -> Pattern:
        return convolution(op, op.Add(scaling(op, x, a), op.constant(c)), w, b)

    def rewrite(self, op: Builder, m: Match) -> Result:
        layer = Linear.of(m)
        if isinstance(layer, Failure):
            return layer
        if layer.pads_nothing and layer.node.op == "Conv":
            return m.fail("the convolution takes both in")
        if stretches(m["a"], m["x"]) or stretches(m["c"], m["x"]):
            return m.fail("a constant may stretch what the layer reads")
        affine = of_arithmetic(m, m["a"], layer.axis, layer.channels_in)
        if isinstance(affine, Failure):
            return affine
        if affine.scale is None or not bool(affine.scale.all()):
            return m.fail("it multiplies with zero")
        factor = m.data("a").double()
        shift = m.data("c").double() * (factor if m.node("affine").op == "Div" else 1 / factor)
        if shift.numel() != m.data("c").numel():
            return m.fail("the shift would be larger than it is")
        moved = self.refold(op, m, m["c"], shift.reshape(m.data("c").shape))  # without leading ones of a
        if isinstance(moved, Failure):
            return moved
        weight = layer.numbers() * layer.spread_in(affine.scale)
        return self.rebuild(op, m, layer, op.Add(m["x"], moved), weight, None)


class ScaleLinear(_Before):
    """As `ScaleConv`, for matrix products and the last dimension of x."""

    def pattern(self, op: Patterns, x: Var, w: Var, c: Var, b: Any = None) -> Pattern:
        return product(op, scaling(op, x, c), w, b)


class ShiftLinear(_Before):
    """As `ShiftConv`, for matrix products and the last dimension of x."""

    def pattern(self, op: Patterns, x: Var, w: Var, c: Var, b: Any = None) -> Pattern:
        return product(op, shifting(op, x, c), w, b)


@register("fuse-affine")
@dataclass(frozen=True)
class FuseAffine(FusePass):
    """Fold constants that are added, subtracted, multiplied with or divided by into the linear layer beside them."""

    rules = (
        ConvScale, ConvShift, LinearScale, LinearShift, ScaleConv, ShiftConv, ScaledShiftConv, ScaleLinear, ShiftLinear,
    )  # fmt: skip
    looks_for = frozenset({"Add", "Sub", "Mul", "Div"})
