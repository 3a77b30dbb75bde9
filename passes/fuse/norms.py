"""Normalisations, written out in primitives, and what is multiplied with or added to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.ir import Node, Value
from graphopt.ir import dims as D
from graphopt.ops import attribute
from graphopt.ops.builder import Builder
from graphopt.ops.infer import static_integers
from graphopt.passes.fuse.affine import channel_vector
from graphopt.passes.fuse.numbers import near, number, scalar, squared
from graphopt.passes.fuse.recognition import Recognition
from graphopt.passes.simplify.conditions import same_shape
from graphopt.rewrite import Failure, Match, Pattern, Patterns, Result, Rule, Var


def _mean(op: Patterns, x: Any, axes: Var, name: str) -> Pattern:
    return op.ReduceMean(x, op.constant(axes), keepdims=1).named(name)


def _over_deviation(op: Patterns, x: Any, variance: Any) -> Pattern:
    """X / sqrt(variance), in the ways that it is written."""
    root, inverse = op.Sqrt(variance), op.Pow(variance, near(op, -0.5))
    return op.any(op.Div(x, root), op.Mul(x, op.any(op.Reciprocal(root), op.Div(near(op, 1), root), inverse)))


def _reduced(value: Value, axes: Value) -> list[int] | None:
    """The axes, from the front and ascending."""
    rank, found = value.rank, static_integers(axes)
    return None if rank is None or not found else sorted(axis % rank for axis in found)


def _filled(op: Builder, x: Value, shape: Sequence[int], number: int) -> Value:
    return op.constant(torch.full(tuple(shape), float(number)), like=x)


class NormOfMeans(Recognition):
    """(x - mean(x)) / sqrt(mean((x - mean(x)) ** 2) + epsilon) is a LayerNormalization or an InstanceNormalization.

    Contract: exact. Conditions: both means run over the same axes, which are the last ones, of known extents
    (LayerNormalization), or else all but batch and channels, whose number is known (InstanceNormalization). Scale and
    bias are ones and zeros; the rules below fold in what follows.
    """

    def pattern(self, op: Patterns, x: Var, a: Var, b: Var, e: Var) -> Pattern:
        difference = op.Sub(x, _mean(op, x, a, "mean"))
        variance = op.Add(_mean(op, squared(op, difference), b, "variance"), op.constant(e))
        return _over_deviation(op, difference, variance)

    def recognise(self, op: Builder, m: Match) -> Result:
        x, epsilon = m["x"], number(m, "e")
        axes = _reduced(x, m["a"])
        if epsilon is None or axes is None or axes != _reduced(x, m["b"]) or not same_shape(x, m.root.output):
            return m.fail("the two means do not run over the same axes, or epsilon is no number")
        shape = x.shape or ()
        extents = [shape[axis] for axis in axes]
        if axes == list(range(axes[0], len(shape))) and all(isinstance(extent, int) for extent in extents):
            scale = _filled(op, x, [int(extent) for extent in extents if isinstance(extent, int)], 1)
            return op.LayerNormalization(x, scale, axis=axes[0] - len(shape), epsilon=epsilon)
        if axes == list(range(2, len(shape))) and isinstance(shape[1], int):
            return op.InstanceNormalization(
                x, _filled(op, x, [shape[1]], 1), _filled(op, x, [shape[1]], 0), epsilon=epsilon
            )
        return m.fail("the axes are neither the last ones nor all behind the channels")


class RmsOfMeans(Recognition):
    """x / sqrt(mean(x ** 2) + epsilon) is RMSNormalization(x). Contract: exact. Condition: over the last axes."""

    def pattern(self, op: Patterns, x: Var, a: Var, e: Var) -> Pattern:
        return _over_deviation(op, x, op.Add(_mean(op, squared(op, x), a, "square"), op.constant(e)))

    def recognise(self, op: Builder, m: Match) -> Result:
        x, epsilon = m["x"], number(m, "e")
        axes, shape = _reduced(x, m["a"]), x.shape or ()
        if epsilon is None or axes is None or axes != list(range(axes[0], len(shape))):
            return m.fail("the mean does not run over the last axes, or epsilon is no number")
        if not same_shape(x, m.root.output):
            return m.fail("epsilon stretches x")
        extents = [extent for extent in shape[axes[0] :] if isinstance(extent, int)]
        if len(extents) < len(axes):
            return m.fail("the normalised extents are not known")
        return self.make(op, m, extents, epsilon)

    def make(self, op: Builder, m: Match, extents: list[int], epsilon: float) -> Result:
        """The normalisation of x over its last dimensions, which have the given extents."""
        return op.RMSNormalization(m["x"], _filled(op, m["x"], extents, 1), axis=-len(extents), epsilon=epsilon)


class RmsAsExported(RmsOfMeans):
    """x / sqrt(mean(x ** 2) + epsilon) in other ways is in this one, which runtimes compute in one kernel.

    For files whose opset has no RMSNormalization (ONNX Runtime's SimplifiedLayerNormFusion looks for Pow and Div).
    Contract: exact. Conditions: as `RmsOfMeans`; it is not in that form.
    """

    def make(self, op: Builder, m: Match, extents: list[int], epsilon: float) -> Result:
        x, mean = m["x"], m.node("square")
        square = mean.operand(0).producer
        if m.root.op == "Div" and square is not None and square.op == "Pow":
            return m.fail("it is in the form that runtimes compute in one kernel")
        squares = op.like(mean, op.Pow(x, op.constant(2.0, like=x)), m["a"])
        return op.Div(x, op.Sqrt(op.Add(squares, m["e"])))


class _ScaledRms(RmsOfMeans):
    """What the scale of such a normalisation looks like."""

    def pattern(self, op: Patterns, x: Var, a: Var, e: Var) -> Pattern:
        return op.Mul(super().pattern(op, x, a, e), op.constant())


def scales_rms(node: Node) -> bool:
    """True for the scale behind a root-mean-square norm in primitives, which runtimes compute in one kernel with it."""
    return _SCALED_RMS.compiled.match(node, lambda _: True)


class _Square(Rule):
    """x * x or x ** 2."""

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        return squared(op, x)


_SCALED_RMS, _SQUARE = _ScaledRms(), _Square()


class GroupOfInstance(Recognition):
    """Reshape to [N, groups, ...], InstanceNormalization, and Reshape back, is a GroupNormalization.

    Contract: exact. Conditions: the InstanceNormalization scales by 1 and shifts by 0, and the groups divide the
    channels, whose number is known. What is multiplied and added afterwards is folded in by the rules below.
    """

    def pattern(self, op: Patterns, x: Var, scale: Var, bias: Var, s: Var, t: Var) -> Pattern:
        inner = op.Reshape(x, s).named("split")
        norm = op.InstanceNormalization(inner, op.const(1, scale), op.const(0, bias)).named("norm")
        return op.Reshape(norm, t)

    def recognise(self, op: Builder, m: Match) -> Result:
        x, split = m["x"], m.node("split").output.shape
        if not same_shape(x, m.root.output) or x.shape is None or split is None or len(x.shape) < 3:
            return m.fail("it is not reshaped back")
        if not D.same(split[0], x.shape[0]):
            return m.fail("the batch is reshaped, too")
        channels, groups = x.shape[1], split[1]
        if not isinstance(channels, int) or not isinstance(groups, int) or channels % groups:
            return m.fail("the number of channels or groups is not known")
        return op.GroupNormalization(
            x, _filled(op, x, [channels], 1), _filled(op, x, [channels], 0),
            num_groups=groups, epsilon=attribute(m.node("norm"), "epsilon"),
        )  # fmt: skip


_NORMS = "LayerNormalization|InstanceNormalization|GroupNormalization|RMSNormalization"


class _Following(Recognition):
    """What follows a normalisation goes into its scale and bias."""

    def vector(self, m: Match, norm: Node) -> torch.Tensor | None:
        """The constant `c` as float64, shaped as the scale of the normalisation; ``None`` when it does not fit."""
        c, scale, rank = m["c"], norm.operand(1), norm.output.rank
        if rank is None or scale.shape is None or not all(isinstance(extent, int) for extent in scale.shape):
            return None
        shape = [extent for extent in scale.shape if isinstance(extent, int)]
        if norm.op in ("InstanceNormalization", "GroupNormalization"):
            return channel_vector(c, rank, 1, shape[0])
        data = c.data
        if data is None or not c.dtype.is_float or data.dim() > rank:
            return None
        lead = max(data.dim() - len(shape), 0)
        if any(extent != 1 for extent in data.shape[:lead]):
            return None
        inner = data.reshape(data.shape[lead:])
        if any(mine not in (1, own) for mine, own in zip(reversed(inner.shape), reversed(shape), strict=False)):
            return None
        return inner.detach().to(torch.float64).expand(shape)

    def take(self, op: Builder, m: Match, old: Value | None, data: torch.Tensor, neutral: float) -> Value | Failure:
        """The new scale or bias: the constant of the match itself where it is all there is to it."""
        c, norm = m["c"], m.node("norm")
        plain = old is None or (old.parameter is None and old.data is not None and bool((old.data == neutral).all()))
        if plain and c.data is not None and c.data.shape == data.shape:
            return c
        if c.parameter is not None and plain:
            return m.fail("a parameter does not have the shape that the normalisation asks for")
        return self.refold(op, m, norm.operand(1) if old is None else old, data)


class NormScale(_Following):
    """norm(x) * c is the normalisation with another scale (and bias).

    Contract: exact. Conditions: scale and bias are constants, and c varies along the dimensions of the scale only.
    """

    def pattern(self, op: Patterns, x: Var, s: Var, c: Var, b: Any = None) -> Pattern:
        return op.Mul(_norm(op, _NORMS, x, s, b), op.constant(c))

    def recognise(self, op: Builder, m: Match) -> Result:
        norm, b = m.node("norm"), m.get("b")
        vector = self.vector(m, norm)
        if vector is None:
            return m.fail("the constant is not shaped as the scale")
        scale = self.take(op, m, m["s"], m.data("s").double() * vector, 1)
        if isinstance(scale, Failure):
            return scale
        bias: Value | Failure | None = b
        if b is not None and b.data is not None and bool(b.data.any()):
            bias = self.refold(op, m, b, b.data.double() * vector)
        if isinstance(bias, Failure):
            return bias
        return op.like(norm, m["x"], scale, bias)


class NormShift(_Following):
    """norm(x) + c is the normalisation with another bias.

    Contract: exact. Conditions: as for `NormScale`; RMSNormalization has no bias.
    """

    def pattern(self, op: Patterns, x: Var, s: Var, c: Var, b: Any = None) -> Pattern:
        return op.Add(_norm(op, _NORMS.removesuffix("|RMSNormalization"), x, s, b), op.constant(c))

    def recognise(self, op: Builder, m: Match) -> Result:
        norm, b = m.node("norm"), m.get("b")
        vector = self.vector(m, norm)
        if vector is None:
            return m.fail("the constant is not shaped as the scale")
        bias = self.take(op, m, b, vector if b is None or b.data is None else b.data.double() + vector, 0)
        return bias if isinstance(bias, Failure) else op.like(norm, m["x"], m["s"], bias)


def _norm(op: Patterns, names: str, x: Var, s: Var, b: Any) -> Pattern:
    norm = op(names, x, op.constant(s), op.optional(op.constant(b)))
    return norm.when(lambda node: len(node.outputs) == 1).named("norm")


class GlobalPoolOfMean(Recognition):
    """ReduceMean over all dimensions behind the channels, which stay with one element, is a GlobalAveragePool.

    Contract: exact. Conditions: floats; not of squares, which are part of a norm that runtimes know by its nodes.
    """

    def pattern(self, op: Patterns, x: Var, a: Var) -> Pattern:
        return op.ReduceMean(x, op.constant(a), keepdims=1)

    def recognise(self, op: Builder, m: Match) -> Result:
        x = m["x"]
        if x.producer is not None and _SQUARE.compiled.match(x.producer, lambda _: True):
            return m.fail("it is the mean of squares")
        axes = _reduced(x, m["a"])
        if x.rank is None or x.rank < 3 or axes != list(range(2, x.rank)) or not x.dtype.is_float:
            return m.fail("it does not run over all dimensions behind the channels")
        return op.GlobalAveragePool(x)


RULES = (NormOfMeans, RmsOfMeans, RmsAsExported, GroupOfInstance, NormScale, NormShift)
__all__ = ["RULES", "GlobalPoolOfMean", "scalar"]
