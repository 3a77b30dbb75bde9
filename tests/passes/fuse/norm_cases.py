"""Matches and near misses of recognised normalisations and poolings."""

from graphopt.ir import Graph
from graphopt.passes.fuse import norms as N
from graphopt.passes.fuse.recognition import OpsetLimit
from tests.passes.rule_cases import Cases

CASES = Cases()
match, miss = CASES.match, CASES.miss


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


@miss(N.RmsOfMeans, reason="stretches x")
def rms_norm_whose_epsilon_adds_a_dimension(d):
    x = d.input("n", 8)
    return d.Div(x, d.Sqrt(d.Add(d.ReduceMean(d.Mul(x, x), [-1], keepdims=1), d.full(1e-5, 1, 1, 1))))


@miss(N.RmsOfMeans, reason="last axes")
def rms_over_the_rows(d):
    x = d.input("n", 3, 4)
    return d.Div(x, d.Sqrt(d.Add(d.ReduceMean(d.Mul(x, x), [1], keepdims=1), d.full(1e-6))))


@miss(N.RmsOfMeans, reason="needs opset 23", make=lambda: N.RmsOfMeans(OpsetLimit(Graph(), 22)))
def rms_in_an_old_file(d):
    x = d.input("n", 4)
    return d.Div(x, d.Sqrt(d.Add(d.ReduceMean(d.Mul(x, x), [1], keepdims=1), d.full(1e-6))))


@match(N.RmsAsExported, 3)
def rms_in_forms_that_runtimes_do_not_know(d):
    x = d.input("n", 3, d.size(4))

    def root(square):
        return d.Sqrt(d.Add(d.ReduceMean(square, [-1], keepdims=1), d.full(1e-6)))

    inverse = d.Pow(d.Add(d.ReduceMean(d.Mul(x, x), [2], keepdims=1), d.full(1e-5)), d.full(-0.5))
    by_factor = d.Mul(x, d.Reciprocal(root(d.Pow(x, d.full(2)))))
    return d.Mul(d.Div(x, root(d.Mul(x, x))), d.weight(1)), by_factor, d.Mul(x, inverse)


@miss(N.RmsAsExported, reason="it is in the form that runtimes compute in one kernel")
def rms_in_the_form_that_runtimes_know(d):
    x = d.input("n", 4)
    mean = d.ReduceMean(d.Pow(x, d.full(2)), [-1], keepdims=1)
    return d.Mul(d.Div(x, d.Sqrt(d.Add(mean, d.full(1e-6)))), d.weight(4))


@miss(N.RmsAsExported)
def root_of_a_mean_of_cubes(d):
    x = d.input("n", 4)
    mean = d.ReduceMean(d.Pow(x, d.full(3)), [-1], keepdims=1)
    return d.Div(x, d.Sqrt(d.Add(mean, d.full(1e-6))))


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


# -- pooling


@match(N.GlobalPoolOfMean, 2)
def global_pools(d):
    x = d.input("n", d.size(3), 4, 5)
    return d.ReduceMean(x, [3, 2], keepdims=1), d.ReduceMean(d.input("n", 3, 4), [-1], keepdims=1)


@miss(N.GlobalPoolOfMean, reason="the mean of squares")
def means_of_squares(d):
    x = d.input("n", 3, 4)
    y = d.Neg(x)
    means = (d.ReduceMean(square, [2], keepdims=1) for square in (d.Mul(x, x), d.Pow(y, d.full(2))))
    return tuple(means)


@miss(N.GlobalPoolOfMean, reason="all dimensions")
def means_over_other_dimensions(d):
    x = d.input("n", 3, 4, 5)
    return d.ReduceMean(x, [1, 2, 3], keepdims=1), d.ReduceMean(x, [2], keepdims=1)


@miss(N.GlobalPoolOfMean)
def mean_that_drops_dimensions(d):
    return d.ReduceMean(d.input("n", 3, 4, 5), [2, 3], keepdims=0)
