"""Matches and near misses of the rules that recognise operators in primitives."""

import math

from graphopt.ir import Graph
from graphopt.passes.fuse import activations as A
from graphopt.passes.fuse import attention as H
from graphopt.passes.fuse import fuse_gemm as G
from graphopt.passes.fuse import move_scales as M
from graphopt.passes.fuse import norms as N
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
    return d.Clip(d.Add(d.Mul(d.input("n", 5), d.weight(5)), d.full(0.5)), d.full(0), d.full(1))


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


# -- normalisations


def _normalised(d, x, axes, form=0, eps=1e-5):
    difference = d.Sub(x, d.ReduceMean(x, axes, keepdims=1))
    square = d.Pow(difference, d.full(2)) if form % 2 else d.Mul(difference, difference)
    variance = d.Add(d.ReduceMean(square, axes, keepdims=1), d.full(eps))
    if form == 0:
        return d.Div(difference, d.Sqrt(variance))
    if form == 1:
        return d.Mul(d.Reciprocal(d.Sqrt(variance)), difference)
    return d.Mul(difference, d.Pow(variance, d.full(-0.5)) if form == 2 else d.Div(d.full(1), d.Sqrt(variance)))


@match(N.NormOfMeans, 4)
def layer_norm(d):
    x = d.input("n", 3, d.size(4))
    return [_normalised(d, x, axes, form) for form, axes in enumerate(([-1], [2], [1, 2], [-1]))]


@match(N.NormOfMeans)
def instance_norm(d):
    return _normalised(d, d.input("n", d.size(3), 4, "m"), [2, 3])


@miss(N.NormOfMeans, reason="neither the last ones")
def norm_over_channels(d):
    return _normalised(d, d.input("n", 3, 4, 4), [1])


@miss(N.NormOfMeans, reason="same axes")
def norm_over_two_different_axes(d):
    x = d.input("n", 4, 4)
    difference = d.Sub(x, d.ReduceMean(x, [2], keepdims=1))
    return d.Div(difference, d.Sqrt(d.Add(d.ReduceMean(d.Mul(difference, difference), [1], keepdims=1), d.full(1e-5))))


@miss(N.NormOfMeans, reason="is an output of the graph")
def norm_whose_variance_is_read(d):
    x = d.input("n", 4)
    difference = d.Sub(x, d.ReduceMean(x, [1], keepdims=1))
    variance = d.ReduceMean(d.Mul(difference, difference), [1], keepdims=1)
    return d.Div(difference, d.Sqrt(d.Add(variance, d.full(1e-5)))), variance


@match(N.RmsOfMeans, 2)
def rms_norm(d):
    x = d.input("n", 3, d.size(4))

    def root(axes, square):
        return d.Sqrt(d.Add(d.ReduceMean(square, axes, keepdims=1), d.full(1e-6)))

    return d.Div(x, root([1, 2], d.Mul(x, x))), d.Mul(x, d.Reciprocal(root([-1], d.Pow(x, d.full(2)))))


@miss(N.RmsOfMeans, reason="last axes")
def rms_over_the_rows(d):
    x = d.input("n", 3, 4)
    return d.Div(x, d.Sqrt(d.Add(d.ReduceMean(d.Mul(x, x), [1], keepdims=1), d.full(1e-6))))


@miss(N.RmsOfMeans, reason="needs opset 23", make=lambda: N.RmsOfMeans(OpsetLimit(Graph(), 22)))
def rms_in_an_old_file(d):
    x = d.input("n", 4)
    return d.Div(x, d.Sqrt(d.Add(d.ReduceMean(d.Mul(x, x), [1], keepdims=1), d.full(1e-6))))


@match(N.GroupOfInstance)
def group_norm(d):
    x = d.input("n", 6, d.size(3), 4)
    norm = d.InstanceNormalization(d.Reshape(x, [0, 2, -1]), d.full(1, 2), d.full(0, 2), epsilon=1e-4)
    return d.Reshape(norm, d.Shape(x))


@miss(N.GroupOfInstance)
def scaled_instance_norm_between_reshapes(d):
    x = d.input("n", 6, 3, 4)
    norm = d.InstanceNormalization(d.Reshape(x, [0, 2, -1]), d.weight(2), d.full(0, 2))
    return d.Reshape(norm, d.Shape(x))


@miss(N.GroupOfInstance, reason="batch is reshaped")
def instance_norm_over_half_the_batch(d):
    x = d.input(4, 6, 3, 4)
    norm = d.InstanceNormalization(d.Reshape(x, [2, 12, -1]), d.full(1, 12), d.full(0, 12))
    return d.Reshape(norm, d.constant([4, 6, 3, 4]))


@match(N.NormScale, 4)
def scaled_norms(d):
    x, y = d.input("n", d.size(4), 3, 5), d.input("n", 4, 6)
    c = x.shape[1]
    a = d.Mul(d.InstanceNormalization(x, d.full(1, c), d.full(0, c)), d.weight(c, 1, 1))
    b = d.Mul(d.weight(6), d.LayerNormalization(y, d.weight(6), d.weight(6)))
    e = d.Mul(d.LayerNormalization(y, d.weight(4, 6), axis=1), d.weight(4, 1))
    return a, b, d.Mul(d.RMSNormalization(y, d.weight(6)), d.full(2)), e


@miss(N.NormScale, reason="not shaped as the scale")
def norms_scaled_along_other_dimensions(d):
    x, y = d.input("n", 4, 4), d.input("n", 4, 4, 4)
    a = d.Mul(d.LayerNormalization(x, d.weight(4)), d.weight(4, 1))
    return a, d.Mul(d.InstanceNormalization(y, d.weight(4), d.weight(4)), d.weight(4))


@miss(N.NormScale)
def norm_scaled_by_an_input(d):
    return d.Mul(d.LayerNormalization(d.input("n", 4), d.weight(4)), d.input(4))


@match(N.NormShift, 3)
def shifted_norms(d):
    x, y = d.input("n", d.size(4), 3), d.input("n", 4, 6)
    c = x.shape[1]
    a = d.Add(d.weight(1, c, 1), d.InstanceNormalization(x, d.weight(c), d.weight(c)))
    b = d.Add(d.LayerNormalization(y, d.weight(6)), d.weight(6))
    return a, b, d.Add(d.LayerNormalization(y, d.weight(6), d.weight(6)), d.full(0.5))


@miss(N.NormShift)
def norms_with_something_added(d):
    x = d.input("n", 4)
    return d.Add(d.RMSNormalization(x, d.weight(4)), d.weight(4)), d.Add(d.LayerNormalization(x, d.weight(4)), x)


@miss(N.NormShift, reason="not shaped as the scale")
def norm_shifted_along_the_rows(d):
    return d.Add(d.LayerNormalization(d.input("n", 4, 4), d.weight(4)), d.weight(4, 1))


# -- scales


@match(M.ScaledFactors, 2)
def both_factors_scaled(d):
    width = d.size(4)
    q, k = d.input("n", 3, width), d.input("n", 5, width)
    left = d.MatMul(d.Mul(q, d.full(0.5)), d.Mul(d.full(0.25, 1), d.Transpose(k, perm=[0, 2, 1])))
    return left, d.MatMul(d.Div(q, d.full(2)), d.Transpose(d.Mul(k, d.full(0.5)), perm=[0, 2, 1]))


@miss(M.ScaledFactors, reason="one number on both sides")
def factors_scaled_by_vectors(d):
    return d.MatMul(d.Mul(d.input("n", 4), d.weight(4)), d.Mul(d.input(4, 3), d.full(2)))


@miss(M.ScaledFactors, reason="change the shape")
def factors_that_the_scale_stretches(d):
    return d.MatMul(d.Mul(d.input(4, 4), d.full(2, 1, 1, 1)), d.Mul(d.input(4, 3), d.full(2)))


@miss(M.ScaledFactors, reason="used elsewhere")
def scaled_factor_that_is_read_elsewhere(d):
    a = d.Mul(d.input("n", 4), d.full(2))
    return d.MatMul(a, d.Mul(d.input(4, 3), d.full(2))), d.Relu(a)


@match(M.ScaledViews, 3)
def scaled_views_of_layers(d):
    x = d.input("n", 5, 8)

    def heads(bias=True):
        y = d.MatMul(x, d.weight(8, 8))
        y = d.Add(y, d.weight(8)) if bias else y
        return d.Transpose(d.Reshape(y, [0, 0, 2, 4]), perm=[0, 2, 1, 3])

    scores = d.MatMul(heads(), d.Transpose(heads(False), perm=[0, 1, 3, 2]))
    image = d.Reshape(d.Conv(d.input("n", 2, 3, 3), d.weight(4, 2, 1, 1)), [0, 4, 9])
    return d.Mul(heads(), d.full(0.5)), d.Div(scores, d.full(2.0)), d.Mul(image, d.full(0.1, 1))


@miss(M.ScaledViews, reason="no linear layer")
def scaled_views_of_something_else(d):
    x = d.Relu(d.input("n", 8))
    return d.Mul(d.Reshape(x, [0, 2, 4]), d.full(0.5)), d.Mul(d.MatMul(x, d.weight(8, 8)), d.full(0.5))


@miss(M.ScaledViews, reason="used elsewhere")
def scaled_view_that_is_read_elsewhere(d):
    y = d.Reshape(d.MatMul(d.input("n", 8), d.weight(8, 8)), [0, 2, 4])
    return d.Mul(y, d.full(0.5)), d.Relu(y)


@miss(M.ScaledViews, reason="no number")
def views_scaled_by_a_vector(d):
    return d.Mul(d.Reshape(d.MatMul(d.input("n", 8), d.weight(8, 8)), [0, 2, 4]), d.weight(4))


# -- linear layers between reshapes


@match(G.LinearBetweenViews)
def linear_between_reshapes(d):
    x = d.Relu(d.input("n", 3, d.size(4), 6))
    y = d.MatMul(d.Reshape(x, [-1, 3, 6]), d.weight(6, 8))
    return d.Reshape(d.Add(d.weight(8), y), [-1, 3, 2, 4])


@miss(G.LinearBetweenViews, reason="stands for dimensions")
def linear_before_a_reshape_that_copies_dimensions(d):
    y = d.Add(d.MatMul(d.Reshape(d.input("n", 18), [-1, 3, 6]), d.weight(6, 8)), d.weight(8))
    return d.Reshape(y, [0, 0, 2, 4])


@miss(G.LinearBetweenViews, reason="used elsewhere")
def linear_of_a_reshape_that_is_read_elsewhere(d):
    x = d.Reshape(d.input("n", 18), [-1, 3, 6])
    return d.Reshape(d.Add(d.MatMul(x, d.weight(6, 8)), d.weight(8)), [-1, 24]), d.Relu(x)


@miss(G.LinearBetweenViews, reason="no matrix")
def product_with_a_bias_per_row(d):
    x = d.Reshape(d.input("n", 18), [-1, 3, 6])
    return d.Reshape(d.Add(d.MatMul(x, d.weight(6, 8)), d.weight(3, 1)), [-1, 24])


# -- pooling


@match(N.GlobalPoolOfMean, 2)
def global_pools(d):
    x = d.input("n", d.size(3), 4, 5)
    return d.ReduceMean(x, [3, 2], keepdims=1), d.ReduceMean(d.input("n", 3, 4), [-1], keepdims=1)


@miss(N.GlobalPoolOfMean, reason="all dimensions")
def means_over_other_dimensions(d):
    x = d.input("n", 3, 4, 5)
    return d.ReduceMean(x, [1, 2, 3], keepdims=1), d.ReduceMean(x, [2], keepdims=1)


@miss(N.GlobalPoolOfMean)
def mean_that_drops_dimensions(d):
    return d.ReduceMean(d.input("n", 3, 4, 5), [2, 3], keepdims=0)


# -- attention


def _heads(d, length, size=4, heads=2):
    return d.input("n", heads, length, size)


@match(H.AttentionOfSoftmax, 4)
def attention(d):
    width = d.size(4)
    q, k, v = _heads(d, 3, width), _heads(d, 5, width), _heads(d, 5, 6)
    sideways = d.input("n", 5, 2, width)
    kt, kt2 = d.Transpose(k, perm=[0, 1, 3, 2]), d.Transpose(sideways, perm=[0, 2, 3, 1])
    kt3, kt4 = d.Transpose(k, perm=[0, 1, 3, 2]), d.Transpose(k, perm=[0, 1, 3, 2])
    mask, row = d.input(3, 5), d.input("n", 1, 3, 5)
    return (
        d.MatMul(d.Softmax(d.Mul(d.MatMul(q, kt), d.full(0.5)), axis=-1), v),
        d.MatMul(d.Softmax(d.Add(d.Div(d.MatMul(q, kt2), d.full(2, 1)), mask), axis=3), v),
        d.MatMul(d.Softmax(d.Add(row, d.MatMul(d.Mul(q, d.full(0.7)), kt3)), axis=-1), v),
        d.MatMul(d.Softmax(d.MatMul(q, kt4), axis=-1), v),
    )


@miss(H.AttentionOfSoftmax, reason="batch or heads")
def attention_with_fewer_key_heads(d):
    q, k, v = _heads(d, 3), _heads(d, 5, heads=1), _heads(d, 5, heads=1)
    return d.MatMul(d.Softmax(d.MatMul(q, d.Transpose(k, perm=[0, 1, 3, 2])), axis=-1), v)


@miss(H.AttentionOfSoftmax, reason="no positive number")
def attention_with_an_odd_scale(d):
    q, k, v = _heads(d, 3), _heads(d, 5), _heads(d, 5)
    scores = d.MatMul(q, d.Transpose(k, perm=[0, 1, 3, 2]))
    return d.MatMul(d.Softmax(d.Mul(scores, d.full(-0.5)), axis=-1), v)


@miss(H.AttentionOfSoftmax, reason="all queries and keys")
def attention_with_narrow_masks(d):
    q, k, v = _heads(d, 3), _heads(d, 5), _heads(d, 5)

    def masked(mask):
        scores = d.Add(d.MatMul(q, d.Transpose(k, perm=[0, 1, 3, 2])), mask)
        return d.MatMul(d.Softmax(scores, axis=-1), v)

    return masked(d.input(3, 1)), masked(d.input("n", 1, 1, 5)), masked(d.input(5))


@miss(H.AttentionOfSoftmax)
def attention_over_the_queries(d):
    q, k, v = _heads(d, 3), _heads(d, 5), _heads(d, 5)
    return d.MatMul(d.Softmax(d.MatMul(q, d.Transpose(k, perm=[0, 1, 3, 2])), axis=2), v)


@miss(H.AttentionOfSoftmax, reason="is an output of the graph")
def attention_whose_weights_are_returned(d):
    q, k, v = _heads(d, 3), _heads(d, 5), _heads(d, 5)
    weights = d.Softmax(d.MatMul(q, d.Transpose(k, perm=[0, 1, 3, 2])), axis=-1)
    return d.MatMul(weights, v), weights


@miss(H.AttentionOfSoftmax, reason="needs opset 23", make=lambda: H.AttentionOfSoftmax(OpsetLimit(Graph())))
def attention_in_a_file_of_today(d):
    q, k, v = _heads(d, 3), _heads(d, 5), _heads(d, 5)
    return d.MatMul(d.Softmax(d.MatMul(q, d.Transpose(k, perm=[0, 1, 3, 2])), axis=-1), v)
