"""Matches and near misses of recognised activations."""

import math

from graphopt.ir import Graph
from graphopt.passes.fuse import activations as A
from graphopt.passes.fuse.recognition import OpsetLimit
from tests.passes.rule_cases import Cases

CASES = Cases()
match, miss = CASES.match, CASES.miss
ROOT2, GELU = math.sqrt(2), math.sqrt(2 / math.pi)


def _x(d):
    return d.input("n", d.size(5))


# -- activations


def _erf(d, x):
    return d.Add(d.Erf(d.Div(x, d.full(ROOT2))), d.full(1))


@match(A.GeluOfErf, 5)
def gelu_in_the_ways_it_is_written(d):
    x = _x(d)
    other = d.Add(d.full(1), d.Erf(d.Mul(d.full(1 / ROOT2), x)))
    halves = d.Add(d.Mul(d.Erf(d.Div(x, d.full(ROOT2))), d.full(0.5)), d.full(0.5))
    return (
        d.Mul(d.Mul(x, _erf(d, x)), d.full(0.5)),
        d.Mul(d.Mul(d.full(0.5), x), other),
        d.Mul(d.Div(_erf(d, x), d.full(2)), x),
        d.Div(d.Mul(_erf(d, x), x), d.full(2, 1)),
        d.Mul(x, halves),
    )


@miss(A.GeluOfErf)
def almost_gelu(d):
    x = _x(d)
    return (
        d.Mul(d.Mul(x, _erf(d, x)), d.full(0.51)),
        d.Mul(d.Mul(_x(d), d.Add(d.Erf(d.Div(d.input("n", 5), d.full(ROOT2))), d.full(1))), d.full(0.5)),
        d.Mul(d.Mul(x, d.Add(d.Erf(d.Div(x, d.full(1.5))), d.full(1))), d.full(0.5)),
    )


@miss(A.GeluOfErf, reason="used elsewhere")
def gelu_whose_erf_is_read(d):
    x = _x(d)
    erf = _erf(d, x)
    return d.Mul(d.Mul(x, erf), d.full(0.5)), d.Relu(erf)


@miss(A.GeluOfErf, reason="changes the shape")
def gelu_with_constants_that_stretch(d):
    x = d.input(3)
    return d.Mul(d.Mul(x, _erf(d, x)), d.full(0.5, 1, 1))


@miss(A.GeluOfErf, reason="needs opset 20", make=lambda: A.GeluOfErf(OpsetLimit(Graph(), 17)))
def gelu_in_an_old_file(d):
    x = _x(d)
    return d.Mul(d.Mul(x, _erf(d, x)), d.full(0.5))


@match(A.GeluAsExported, 3)
def gelu_in_forms_that_runtimes_do_not_know(d):
    x = _x(d)
    halves = d.Add(d.Mul(d.Erf(d.Div(x, d.full(ROOT2))), d.full(0.5)), d.full(0.5))
    other = d.Add(d.full(1), d.Erf(d.Mul(d.full(1 / ROOT2), x)))
    return d.Mul(x, halves), d.Mul(d.Mul(x, other), d.full(0.5)), d.Div(d.Mul(x, _erf(d, x)), d.full(2))


@miss(A.GeluAsExported, reason="it is in the form that runtimes compute in one kernel")
def gelu_in_the_forms_that_runtimes_know(d):
    x = _x(d)
    return d.Mul(d.Mul(x, _erf(d, x)), d.full(0.5)), d.Mul(d.Mul(x, d.full(0.5)), _erf(d, x))


@miss(A.GeluAsExported)
def almost_gelu_in_another_form(d):
    x = _x(d)
    return d.Mul(x, d.Add(d.Mul(d.Erf(d.Div(x, d.full(ROOT2))), d.full(0.5)), d.full(0.51)))


@match(A.GeluOfTanh, 4)
def gelu_by_tanh(d):
    x = _x(d)

    def outer(inner, form):
        one = d.Add(d.Tanh(inner), d.full(1))
        return d.Mul(d.Mul(x, d.full(0.5)), one) if form else d.Mul(x, d.Mul(one, d.full(0.5)))

    cube = d.Mul(d.full(0.044715), d.Pow(x, d.full(3)))
    product = d.Mul(d.Mul(x, d.Mul(x, x)), d.full(0.044715))
    square = d.Add(d.Mul(d.Mul(x, x), d.full(0.044715)), d.full(1))
    square2 = d.Add(d.Mul(d.Pow(x, d.full(2)), d.full(0.044715)), d.full(1))
    return (
        outer(d.Mul(d.Add(x, cube), d.full(GELU)), True),
        outer(d.Mul(d.full(GELU), d.Add(product, x)), False),
        outer(d.Mul(d.Mul(d.full(GELU), x), square), True),
        outer(d.Mul(d.Mul(x, square2), d.full(GELU)), True),
    )


@miss(A.GeluOfTanh)
def almost_gelu_by_tanh(d):
    x = _x(d)
    inner = d.Mul(d.Add(x, d.Mul(d.Pow(x, d.full(3)), d.full(0.045))), d.full(GELU))
    return d.Mul(d.Mul(x, d.full(0.5)), d.Add(d.Tanh(inner), d.full(1)))


@match(A.SwishOfSigmoid, 2)
def swish(d):
    x = _x(d)
    return d.Mul(x, d.Sigmoid(x)), d.Mul(d.Sigmoid(d.Mul(x, d.full(1.702))), x)


@miss(A.SwishOfSigmoid)
def gates(d):
    x = _x(d)
    return d.Mul(x, d.Sigmoid(d.Neg(x))), d.Mul(x, d.Sigmoid(d.Mul(x, d.input(1))))


@miss(A.SwishOfSigmoid, reason="not one number")
def swish_with_a_vector(d):
    x = d.input("n", 5)
    return d.Mul(x, d.Sigmoid(d.Mul(x, d.weight(5))))


@miss(A.SwishOfSigmoid, reason="needs opset 24", make=lambda: A.SwishOfSigmoid(OpsetLimit(Graph())))
def swish_in_a_file_of_today(d):
    x = _x(d)
    return d.Mul(x, d.Sigmoid(x))


@match(A.MishOfSoftplus)
def mish(d):
    x = _x(d)
    return d.Mul(d.Tanh(d.Softplus(x)), x)


@miss(A.MishOfSoftplus)
def almost_mish(d):
    x = _x(d)
    return d.Mul(x, d.Sigmoid(d.Softplus(x))), d.Mul(x, d.Tanh(d.Softplus(d.Neg(x))))


@match(A.SoftplusOfLog)
def softplus(d):
    return d.Log(d.Add(d.full(1), d.Exp(_x(d))))


@miss(A.SoftplusOfLog)
def almost_softplus(d):
    x = _x(d)
    return d.Log(d.Add(d.Exp(x), d.full(2))), d.Log(d.Add(d.Exp(x), d.Exp(x)))


@match(A.SoftsignOfAbs)
def softsign(d):
    x = _x(d)
    return d.Div(x, d.Add(d.full(1), d.Abs(x)))


@miss(A.SoftsignOfAbs)
def almost_softsign(d):
    x = _x(d)
    return d.Div(d.Neg(x), d.Add(d.full(1), d.Abs(x))), d.Div(x, d.Add(d.full(2), d.Abs(x)))


def _six(d, x, form=0):
    shifted = d.Add(x, d.full(3))
    if form == 1:
        return d.Min(d.Relu(shifted), d.full(6))
    return d.Max(d.Min(shifted, d.full(6)), d.full(0)) if form else d.Clip(shifted, d.full(0), d.full(6))


@match(A.HardSigmoidOfClip, 4)
def hard_sigmoid(d):
    x = _x(d)
    line = d.Add(d.Mul(x, d.full(0.2)), d.full(0.5))
    divided = d.Add(d.full(0.25), d.Div(x, d.full(4)))
    return (
        d.Div(_six(d, x), d.full(6)),
        d.Mul(d.full(1 / 6), _six(d, x, 1)),
        d.Clip(line, d.full(0), d.full(1)),
        d.Clip(divided, d.full(0), d.full(1)),
    )


@miss(A.HardSigmoidOfClip)
def almost_hard_sigmoid(d):
    x = _x(d)
    return d.Div(_six(d, x), d.full(5)), d.Clip(d.Add(d.Mul(x, d.full(0.2)), d.full(0.5)), d.full(-1), d.full(1))


@miss(A.HardSigmoidOfClip, reason="one number each")
def hard_sigmoid_with_vectors(d):
    slopes = d.Add(d.Mul(d.input("n", 5), d.weight(5)), d.full(0.5))
    offsets = d.Add(d.Mul(d.input("n", 5), d.full(0.2)), d.weight(5))
    return d.Clip(slopes, d.full(0), d.full(1)), d.Clip(offsets, d.full(0), d.full(1))


@match(A.HardSwishOfClip, 4)
def hard_swish(d):
    x = _x(d)
    return (
        d.Div(d.Mul(x, _six(d, x)), d.full(6)),
        d.Mul(d.Mul(_six(d, x, 1), x), d.full(1 / 6)),
        d.Mul(d.Div(x, d.full(6)), _six(d, x, 2)),
        d.Mul(d.HardSigmoid(x, alpha=1 / 6, beta=0.5), x),
    )


@miss(A.HardSwishOfClip)
def almost_hard_swish(d):
    x = _x(d)
    return d.Mul(d.HardSigmoid(x), x), d.Div(d.Mul(x, _six(d, d.Neg(x))), d.full(6))


@match(A.LeakyReluOfWhere, 6)
def leaky_relu(d):
    x, a = d.input("n", 3), d.full(0.1)
    vector = d.weight(3)
    return (
        d.Where(d.Greater(x, d.full(0)), x, d.Mul(x, a)),
        d.Where(d.Less(x, d.full(0)), d.Mul(a, x), x),
        d.Where(d.GreaterOrEqual(x, d.full(0)), x, d.Mul(x, vector)),
        d.Max(d.Mul(x, a), x),
        d.Sub(d.Relu(x), d.Mul(d.Relu(d.Neg(x)), vector)),
        d.Add(d.Relu(x), d.Mul(vector, d.Neg(d.Relu(d.Neg(x))))),
    )


@miss(A.LeakyReluOfWhere)
def other_choices(d):
    x, a = d.input("n", 3), d.full(0.1)
    return (
        d.Where(d.Greater(x, d.full(0)), d.Mul(x, a), x),
        d.Where(d.Greater(x, d.full(1)), x, d.Mul(x, a)),
        d.Add(d.Relu(x), d.Mul(a, d.Relu(d.Neg(x)))),
    )


@miss(A.LeakyReluOfWhere, reason="outside of 0 to 1")
def maximum_with_a_steep_slope(d):
    x = _x(d)
    return d.Max(d.Mul(x, d.full(2)), x), d.Max(d.Mul(x, d.full(-0.5)), x)


@miss(A.LeakyReluOfWhere, reason="changes the shape")
def slope_that_stretches(d):
    x = d.input("n", 3)
    return d.Where(d.Greater(x, d.full(0)), x, d.Mul(x, d.weight(2, 1, 1)))


@match(A.SoftmaxOfExp, 2)
def softmax(d):
    x = d.input("n", d.size(3), 4)
    exp = d.Exp(d.Sub(x, d.ReduceMax(x, [1], keepdims=1)))
    plain = d.Exp(x)
    return d.Div(exp, d.ReduceSum(exp, [-2], keepdims=1)), d.Div(plain, d.ReduceSum(plain, [2], keepdims=1))


@miss(A.SoftmaxOfExp, reason="same axis")
def softmax_over_two_axes(d):
    x = d.input("n", 3, 4)
    exp = d.Exp(x)
    return d.Div(exp, d.ReduceSum(exp, [1, 2], keepdims=1))


@miss(A.SoftmaxOfExp)
def quotients_that_are_no_softmax(d):
    x = d.input(3, 3)
    exp = d.Exp(x)
    return d.Div(exp, d.ReduceSum(exp, [1], keepdims=0)), d.Div(d.Exp(x), d.ReduceMax(d.Exp(x), [1], keepdims=1))


@match(A.LogSoftmaxOfLog, 3)
def log_softmax(d):
    x = d.input("n", d.size(3), 4)
    total = d.Log(d.ReduceSum(d.Exp(x), [1], keepdims=1))
    return d.Log(d.Softmax(x, axis=1)), d.Sub(x, total), d.Sub(x, d.ReduceLogSumExp(x, [2], keepdims=1))


@miss(A.LogSoftmaxOfLog)
def logs_that_are_no_log_softmax(d):
    x = d.input(3, 3)
    return d.Log(d.Sigmoid(x)), d.Sub(x, d.ReduceLogSumExp(x, [1], keepdims=0))


@miss(A.LogSoftmaxOfLog, reason="one axis")
def log_softmax_over_two_axes(d):
    x = d.input("n", 3, 3)
    return d.Sub(x, d.ReduceLogSumExp(x, [1, 2], keepdims=1))
