"""Matches and near misses of the rules that put cheaper activations in the place of others."""

from graphopt.ir import DType
from graphopt.passes.substitute import activations as A
from tests.passes.rule_cases import Cases

CASES = Cases()
match, miss = CASES.match, CASES.miss


def _x(d):
    return d.input("n", d.size(5))


@match(A.SubstituteSilu, 2, bound=0.15)
def silu_by_hard_swish(d):
    x, y = _x(d), _x(d)
    return d.Swish(x), d.Mul(d.Sigmoid(y), y)


@match(A.SubstituteSilu, make=lambda: A.SubstituteSilu("relu"), bound=0.28)
def silu_by_relu(d):
    return d.Swish(_x(d))


@miss(A.SubstituteSilu)
def gates_and_other_slopes(d):
    x, y = _x(d), d.input("n", 5)
    return d.Swish(x, alpha=1.5), d.Mul(y, d.Sigmoid(d.input("n", 5)))


def _erf(d, x):
    return d.Mul(d.Mul(x, d.full(0.5)), d.Add(d.Erf(d.Div(x, d.full(2**0.5))), d.full(1)))


@match(A.SubstituteGelu, 2, bound=5e-4)
def gelu_by_its_tanh_form(d):
    return d.Gelu(_x(d)), _erf(d, _x(d))


@match(A.SubstituteGelu, 2, make=lambda: A.SubstituteGelu("sigmoid"), bound=0.021)
def gelu_by_a_sigmoid(d):
    return d.Gelu(_x(d)), d.Gelu(_x(d), approximate="tanh")


@match(A.SubstituteGelu, make=lambda: A.SubstituteGelu("relu"), bound=0.171)
def gelu_by_relu(d):
    return d.Gelu(_x(d))


@miss(A.SubstituteGelu, reason="in that form already")
def gelu_that_is_in_its_tanh_form(d):
    return d.Gelu(_x(d), approximate="tanh")


@match(A.SubstituteMish, 2, bound=0.29)
def mish_by_hard_swish(d):
    x = _x(d)
    return d.Mish(_x(d)), d.Mul(x, d.Tanh(d.Softplus(x)))


@match(A.SubstituteMish, make=lambda: A.SubstituteMish("relu"), bound=0.31)
def mish_by_relu(d):
    return d.Mish(_x(d))


@miss(A.SubstituteMish)
def almost_mish(d):
    x = _x(d)
    return d.Mul(x, d.Sigmoid(d.Softplus(x))), d.Mul(d.input("n", 5), d.Tanh(d.Softplus(d.input("n", 5))))


@match(A.SubstituteSigmoid, bound=0.07)
def sigmoid_by_hard_sigmoid(d):
    return d.Sigmoid(_x(d))


@miss(A.SubstituteSigmoid)
def something_like_a_sigmoid(d):
    return d.HardSigmoid(_x(d)), d.Softsign(_x(d))


@match(A.SubstituteTanh, bound=0.24)
def tanh_by_limits(d):
    return d.Tanh(_x(d))


@miss(A.SubstituteTanh, reason="not computed on floats")
def tanh_of_unknown_numbers(d):
    return d.Tanh(d.input("n", 5, dtype=DType.UNDEFINED))
