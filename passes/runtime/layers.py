"""ONNX Runtime's fused layers: what follows a convolution or product, or stands around it.

Contract of every rule here: exact. Operators of float32, for that is what their kernels take.
"""

from __future__ import annotations

from typing import Any

from graphopt.ir import DType, Node, Value
from graphopt.ops import attribute
from graphopt.ops.builder import Builder
from graphopt.ops.microsoft import DOMAIN
from graphopt.passes.fuse.numbers import scalar
from graphopt.passes.simplify.conditions import same_shape, stretches
from graphopt.passes.simplify.transposes import permutation
from graphopt.rewrite import Match, Pattern, Patterns, Result, Rule, Var

_ACTIVATIONS = "Relu|Sigmoid|Tanh|LeakyRelu|HardSigmoid"
# The largest float32: parameters of a Clip are floats, and have no place for "none".
_LARGEST = 3.4028234663852886e38


def is_float(value: Value) -> bool:
    """True for what the kernels take."""
    return value.dtype is DType.FLOAT32


def parameters(node: Node) -> list[float]:
    """The parameters of an activation, as fused operators list them."""
    names = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}.get(node.op, ())
    return [float(attribute(node, name)) for name in names]


class FusedConvSum(Rule):
    """conv(x) + z is a FusedConv with a fourth input. Condition: z has the shape of the sum, and is no constant."""

    def pattern(self, op: Patterns, x: Var, w: Var, z: Var, b: Any = None) -> Pattern:
        return op.Add(op.Conv(x, w, b).named("conv"), z)

    def rewrite(self, op: Builder, m: Match) -> Result:
        conv, z = m.node("conv"), m["z"]
        if not is_float(conv.output) or not same_shape(z, conv.output) or z.is_constant:
            return m.fail("what is added has another shape, or is no float32")
        same: dict[str, Any] = dict(conv.attributes)
        made: Value = op("FusedConv", m["x"], m["w"], m.get("b"), z, domain=DOMAIN, **same)
        return made


class FusedConvActivation(Rule):
    """An activation of a Conv, or of a FusedConv without one, is a FusedConv.

    Relu, Sigmoid, Tanh, LeakyRelu, HardSigmoid, and Clip between numbers.
    """

    def pattern(self, op: Patterns, x: Var, w: Var, low: Any = None, high: Any = None, b: Any = None,
                z: Any = None) -> Pattern:  # fmt: skip
        conv = op.any(
            op.Conv(x, w, b).named("conv"), op("FusedConv", x, w, b, z, domain=DOMAIN, activation="").named("conv")
        )
        limits = [op.optional(op.constant(bound)) for bound in (low, high)]
        return op.any(op(_ACTIVATIONS, conv), op.Clip(conv, *limits).named("clip"))

    def rewrite(self, op: Builder, m: Match) -> Result:
        conv, given = m.node("conv"), parameters(m.root)
        if not is_float(conv.output):
            return m.fail("it is not computed on float32")
        if m.has("clip"):
            low = -_LARGEST if m.get("low") is None else scalar(m["low"])
            high = _LARGEST if m.get("high") is None else scalar(m["high"])
            if low is None or high is None or low > high:
                return m.fail("the limits are not numbers, or in no order")
            given = [max(low, -_LARGEST), min(high, _LARGEST)]
        changed = {**conv.attributes, "activation": m.root.op, "activation_params": given or None}
        made: Value = op("FusedConv", m["x"], m["w"], m.get("b"), m.get("z"), domain=DOMAIN, **changed)
        return made


class FusedGemmActivation(Rule):
    """An activation of a Gemm is a FusedGemm: Relu, Sigmoid, Tanh, LeakyRelu, HardSigmoid."""

    def pattern(self, op: Patterns, a: Var, b: Var, c: Any = None) -> Pattern:
        return op(_ACTIVATIONS, op.Gemm(a, b, c).named("gemm"))

    def rewrite(self, op: Builder, m: Match) -> Result:
        gemm = m.node("gemm")
        if not is_float(gemm.output):
            return m.fail("it is not computed on float32")
        numbers = dict(zip(("activation_alpha", "activation_beta"), parameters(m.root), strict=False))
        changed = {**gemm.attributes, "activation": m.root.op, **numbers}
        made: Value = op("FusedGemm", m["a"], m["b"], m.get("c"), domain=DOMAIN, **changed)
        return made


class FusedMatMulScale(Rule):
    """A product that is multiplied with, or divided by, one number is a FusedMatMul.

    Condition: a number that nobody trains and that does not stretch the product.
    """

    def pattern(self, op: Patterns, a: Var, b: Var, c: Var) -> Pattern:
        product = op.any(op.MatMul(a, b).named("product"), op("FusedMatMul", a, b, domain=DOMAIN).named("product"))
        return op.any(op.Mul(product, op.constant(c)), op.Div(product, op.constant(c)))

    def rewrite(self, op: Builder, m: Match) -> Result:
        product, number = m.node("product"), scalar(m["c"])
        if not number or not is_float(product.output) or stretches(m["c"], product.output):
            return m.fail("it is no number, or stretches the product")
        alpha = float(product.attributes.get("alpha", 1.0)) * (1 / number if m.root.op == "Div" else number)
        made: Value = op("FusedMatMul", m["a"], m["b"], domain=DOMAIN, **{**product.attributes, "alpha": alpha})
        return made


class FusedMatMulTranspose(Rule):
    """A product of a matrix whose last two dimensions were exchanged is a FusedMatMul that does it by itself.

    Condition: the transposed matrix is computed, and nothing else reads it.
    """

    recursive = True

    def pattern(self, op: Patterns, a: Var, b: Var) -> Pattern:
        left = op.Transpose(a).when(_exchanges_last).named("left")
        right = op.Transpose(b).when(_exchanges_last).named("right")
        return op.any(
            *(op.MatMul(*pair) for pair in ((left, b), (a, right))),
            *(op("FusedMatMul", *pair, domain=DOMAIN).named("fused") for pair in ((left, b), (a, right))),
        )

    def rewrite(self, op: Builder, m: Match) -> Result:
        if not is_float(m.root.output):
            return m.fail("it is not computed on float32")
        name = "transA" if m.has("left") else "transB"
        if m.root.attributes.get("transBatchA") or m.root.attributes.get("transBatchB"):
            return m.fail("the batch is transposed, too")
        flags = {**m.root.attributes, name: 1 - int(m.root.attributes.get(name, 0))}
        made: Value = op("FusedMatMul", m["a"], m["b"], domain=DOMAIN, **flags)
        return made


def _exchanges_last(node: Node) -> bool:
    perm = permutation(node)
    if perm is None or len(perm) < 2 or node.operand(0).is_constant:
        return False
    rank = len(perm)
    return tuple(perm) == (*range(rank - 2), rank - 1, rank - 2)


RULES: tuple[type[Rule], ...] = (
    FusedConvSum, FusedConvActivation, FusedGemmActivation, FusedMatMulScale, FusedMatMulTranspose,
)  # fmt: skip
