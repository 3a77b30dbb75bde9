"""Activations, written out in primitives."""

from __future__ import annotations

import math
from typing import Any

from graphopt.ir import Node, Value
from graphopt.ops import attribute
from graphopt.ops.builder import Builder
from graphopt.passes.fuse.numbers import halved, near, number, scalar, squared, times
from graphopt.passes.fuse.recognition import Recognition
from graphopt.passes.simplify.conditions import same_shape, stretches
from graphopt.rewrite import Match, Pattern, Patterns, Result, Rule, Var


class _Activation(Recognition):
    """One operator applied to x. Contract: exact. Condition: no constant stretches x."""

    def recognise(self, op: Builder, m: Match) -> Result:
        if not m["x"].dtype.is_float:
            return m.fail("it is not computed on floats")
        if not same_shape(m.root.output, m["x"]):
            return m.fail("broadcasting changes the shape")
        return self.make(op, m, m["x"])

    def make(self, op: Builder, m: Match, x: Value) -> Result:
        """The activation of x."""
        raise TypeError(f"{type(self).__name__} does not define make()")


def _half_of_product(op: Patterns, x: Var, second: Pattern) -> Pattern:
    """0.5 * x * second, in any order."""
    return op.any(halved(op, op.Mul(x, second)), op.Mul(halved(op, x), second), op.Mul(x, halved(op, second)))


class GeluOfErf(_Activation):
    """0.5 * x * (1 + erf(x / sqrt(2))) is Gelu(x). Contract: exact."""

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        erf = op.Erf(times(op, x, math.sqrt(0.5)))
        inside = op.Mul(x, op.Add(op.Mul(op.Erf(times(op, x, math.sqrt(0.5))), near(op, 0.5)), near(op, 0.5)))
        return op.any(_half_of_product(op, x, op.Add(erf, near(op, 1))), inside)

    def make(self, op: Builder, m: Match, x: Value) -> Result:
        return op.Gelu(x)


class GeluOfTanh(_Activation):
    """0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))) is Gelu(x, approximate=tanh). Contract: exact."""

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        c, root = near(op, 0.044715), near(op, math.sqrt(2 / math.pi))
        cube = op.any(op.Pow(x, near(op, 3)), op.Mul(x, squared(op, x)))
        square = op.Add(op.Mul(squared(op, x), c), near(op, 1))
        cubic = op.Add(
            x, op.any(op.Mul(cube, c), op.Mul(x, op.Mul(squared(op, x), c)), op.Mul(op.Mul(x, c), squared(op, x)))
        )
        inner = op.any(op.Mul(op.any(cubic, op.Mul(x, square)), root), op.Mul(op.Mul(x, root), square))
        return _half_of_product(op, x, op.Add(op.Tanh(inner), near(op, 1)))

    def make(self, op: Builder, m: Match, x: Value) -> Result:
        return op.Gelu(x, approximate="tanh")


def _exported(op: Patterns, x: Var) -> Pattern:
    second = op.Add(op.Erf(op.Div(x, near(op, math.sqrt(2)))), near(op, 1))
    return op.any(op.Mul(op.Mul(x, second), near(op, 0.5)), op.Mul(op.Mul(x, near(op, 0.5)), second))


class _ExportedGelu(Rule):
    """What ONNX Runtime's GeluFusion looks for."""

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        return _exported(op, x)


class GeluAsExported(GeluOfErf):
    """Gelu in primitives is x * (1 + erf(x / sqrt(2))) * 0.5, the form that runtimes compute in one kernel.

    For files whose opset has no Gelu. Contract: exact. Condition: it is not in that form.
    """

    def make(self, op: Builder, m: Match, x: Value) -> Result:
        if _ends(m.root, _EXPORTED):
            return m.fail("it is in the form that runtimes compute in one kernel")
        root, one, half = (op.constant(number, like=x) for number in (math.sqrt(2), 1.0, 0.5))
        return op.Mul(op.Mul(x, op.Add(op.Erf(op.Div(x, root)), one)), half)


def ends_gelu(node: Node) -> bool:
    """True for the last factor of a Gelu in primitives, which stays so where the opset has no such operator.

    To fold that factor into the layer behind would save a multiplication, and cost a runtime its kernel for the whole.
    """
    return _ends(node, *_GELUS)


def _ends(node: Node, *rules: Rule) -> bool:
    return any(rule.compiled.match(node, lambda _: True) for rule in rules)


_EXPORTED = _ExportedGelu()
_GELUS = (GeluOfErf(), GeluOfTanh())


class SwishOfSigmoid(_Activation):
    """x * sigmoid(x), x * sigmoid(a * x) is Swish(x, alpha=a). Contract: exact. Condition: a is one constant."""

    def pattern(self, op: Patterns, x: Var, a: Var) -> Pattern:
        return op.Mul(x, op.Sigmoid(op.any(op.Mul(x, op.constant(a)), x)))

    def make(self, op: Builder, m: Match, x: Value) -> Result:
        if m.get("a") is None:
            return op.Swish(x)
        alpha = number(m, "a")
        return m.fail("the factor is not one number") if alpha is None else op.Swish(x, alpha=alpha)


class MishOfSoftplus(_Activation):
    """x * tanh(softplus(x)) is Mish(x). Contract: exact."""

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        return op.Mul(x, op.Tanh(op.Softplus(x)))

    def make(self, op: Builder, m: Match, x: Value) -> Result:
        return op.Mish(x)


class SoftplusOfLog(_Activation):
    """log(exp(x) + 1) is Softplus(x). Contract: exact; where exp(x) overflows, the result is x and not infinity."""

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        return op.Log(op.Add(op.Exp(x), near(op, 1)))

    def make(self, op: Builder, m: Match, x: Value) -> Result:
        return op.Softplus(x)


class SoftsignOfAbs(_Activation):
    """x / (1 + abs(x)) is Softsign(x). Contract: exact."""

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        return op.Div(x, op.Add(op.Abs(x), near(op, 1)))

    def make(self, op: Builder, m: Match, x: Value) -> Result:
        return op.Softsign(x)


def _clipped(op: Patterns, x: Any, low: float, high: float) -> Pattern:
    return op.any(
        op.Clip(x, near(op, low), near(op, high)),
        op.Min(op.any(op.Relu(x), op.Max(x, near(op, low))), near(op, high)),
        op.Max(op.Min(x, near(op, high)), near(op, low)),
    )


def _clipped_six(op: Patterns, x: Any) -> Pattern:
    return _clipped(op, op.Add(x, near(op, 3)), 0, 6)


class HardSigmoidOfClip(_Activation):
    """clip(x + 3, 0, 6) / 6, clip(a * x + b, 0, 1) is HardSigmoid(x). Contract: exact. Condition: a, b are numbers."""

    def pattern(self, op: Patterns, x: Var, a: Var, b: Var) -> Pattern:
        line = op.Add(op.any(op.Mul(x, op.constant(a)), op.Div(x, op.constant(a)).named("divided")), op.constant(b))
        return op.any(times(op, _clipped_six(op, x), 1 / 6), _clipped(op, line, 0, 1))

    def make(self, op: Builder, m: Match, x: Value) -> Result:
        if m.get("a") is None:
            return op.HardSigmoid(x, alpha=1 / 6, beta=0.5)
        alpha, beta = number(m, "a"), number(m, "b")
        if not alpha or beta is None:
            return m.fail("slope and offset are not one number each")
        return op.HardSigmoid(x, alpha=1 / alpha if m.has("divided") else alpha, beta=beta)


class HardSwishOfClip(_Activation):
    """x * clip(x + 3, 0, 6) / 6, x * hard_sigmoid(x) is HardSwish(x). Contract: exact."""

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        gate = op.HardSigmoid(x, alpha=lambda a: abs(a - 1 / 6) < 1e-6, beta=0.5)
        whole = times(op, op.Mul(x, _clipped_six(op, x)), 1 / 6)
        return op.any(whole, op.Mul(times(op, x, 1 / 6), _clipped_six(op, x)), op.Mul(x, gate))

    def make(self, op: Builder, m: Match, x: Value) -> Result:
        return op.HardSwish(x)


class LeakyReluOfWhere(_Activation):
    """where(x > 0, x, a * x), max(x, a * x), relu(x) - a * relu(-x) is LeakyRelu or PRelu.

    Contract: exact. Conditions: a is a constant that does not stretch x, and for the maximum between 0 and 1. One
    number makes a LeakyRelu, several or a trained one make a PRelu.
    """

    def pattern(self, op: Patterns, x: Var, a: Var) -> Pattern:
        zero, scaled = near(op, 0), op.Mul(x, op.constant(a))
        return op.any(
            op.Where(op("Greater|GreaterOrEqual", x, zero), x, scaled),
            op.Where(op("Less|LessOrEqual", x, zero), scaled, x),
            op.Where(op("Less|LessOrEqual", zero, x), x, scaled),
            op.Max(x, scaled).named("max"),
            op.Sub(op.Relu(x), op.Mul(op.Relu(op.Neg(x)), op.constant(a))),
            op.Add(op.Relu(x), op.Mul(op.Neg(op.Relu(op.Neg(x))), op.constant(a))),
        )

    def make(self, op: Builder, m: Match, x: Value) -> Result:
        slope = m["a"]
        data = m.data("a")
        if m.has("max") and not bool(((data >= 0) & (data <= 1)).all()):
            return m.fail("a maximum is no slope when the slope is outside of 0 to 1")
        single = scalar(slope)
        if single is not None:
            return op.LeakyRelu(x, alpha=single)
        return m.fail("the slope stretches x") if stretches(slope, x) else op.PRelu(x, slope)


class SoftmaxOfExp(Recognition):
    """exp(x - max(x)) / sum(exp(x - max(x))), with or without the maximum, is Softmax(x).

    Contract: exact; without the maximum, the result is finite where exp(x) would overflow. Conditions: maximum and sum
    run over the same one axis.
    """

    def pattern(self, op: Patterns, x: Var, a: Var, b: Var) -> Pattern:
        shifted = op.Sub(x, op.ReduceMax(x, op.constant(b), keepdims=1).named("max"))
        exp = op.Exp(op.any(shifted, x))
        return op.Div(exp, op.ReduceSum(exp, op.constant(a), keepdims=1).named("sum"))

    def recognise(self, op: Builder, m: Match) -> Result:
        axis = one_axis(m["x"], m["a"])
        if axis is None or (m.has("max") and one_axis(m["x"], m["b"]) != axis):
            return m.fail("it does not run over one and the same axis")
        return op.Softmax(m["x"], axis=axis)


class LogSoftmaxOfLog(Recognition):
    """log(softmax(x)), x - log(sum(exp(x))), x - ReduceLogSumExp(x) is LogSoftmax(x).

    Contract: exact; where the softmax would round to zero, the result is its finite logarithm. Condition: one axis.
    """

    def pattern(self, op: Patterns, x: Var, a: Var) -> Pattern:
        return op.any(
            op.Log(op.Softmax(x).named("softmax")),
            op.Sub(x, op.Log(op.ReduceSum(op.Exp(x), op.constant(a), keepdims=1))),
            op.Sub(x, op.ReduceLogSumExp(x, op.constant(a), keepdims=1)),
        )

    def recognise(self, op: Builder, m: Match) -> Result:
        if m.has("softmax"):
            return op.LogSoftmax(m["x"], axis=attribute(m.node("softmax"), "axis"))
        axis = one_axis(m["x"], m["a"])
        return m.fail("it does not run over one axis") if axis is None else op.LogSoftmax(m["x"], axis=axis)


def one_axis(x: Value, axes: Value) -> int | None:
    """The only number in `axes`, counted from the back so that it holds whatever stands in front."""
    if axes.data is None or axes.data.numel() != 1 or x.rank is None:
        return None
    axis = int(axes.data)
    return axis - x.rank if axis >= 0 else axis


RULES = (
    GeluOfErf, GeluAsExported, GeluOfTanh, SwishOfSigmoid, MishOfSoftplus, SoftplusOfLog, SoftsignOfAbs,
    HardSwishOfClip, HardSigmoidOfClip, LeakyReluOfWhere, SoftmaxOfExp, LogSoftmaxOfLog,
)  # fmt: skip
