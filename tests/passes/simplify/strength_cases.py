"""Matches and near misses of limits, expansions and operators that have cheaper ones."""

import torch

from graphopt.ir import DType
from graphopt.passes.simplify import clips as L
from graphopt.passes.simplify import spreads as E
from graphopt.passes.simplify import strength as P
from tests.passes.rule_cases import Cases

CASES = Cases()
match, miss = CASES.match, CASES.miss


# -- limits


@match(L.MergeClips, 4)
def limits_of_limits(d):
    x = d.input("n", 3)
    a = d.Clip(d.Clip(x, d.full(-0.5), d.full(1.0)), d.full(0.0), d.full(2.0))
    b = d.Relu(d.Clip(x, d.full(-0.5), d.full(0.5)))
    c = d.Clip(d.Relu(x), None, d.full(0.5))
    return a, b, c, d.Relu(d.Max(x, d.full(-0.25)))


@match(L.MergeClips, 2)
def disjoint_limits(d):
    """onnxslim and ONNX Runtime take the tighter bounds of each side, which here gives another number."""
    x = d.input("n", 3)
    low = d.Clip(d.Clip(x, d.full(2.0), d.full(3.0)), d.full(0.0), d.full(1.0))
    return low, d.Clip(d.Clip(x, d.full(0.0), d.full(1.0)), d.full(2.0), d.full(3.0))


@match(L.MergeClips, 2)
def limits_whose_bounds_are_swapped(d):
    x = d.input("n", 3)
    return d.Relu(d.Clip(x, d.full(1.0), d.full(-1.0))), d.Clip(d.Relu(x), d.full(0.5), d.full(0.25))


@match(L.MergeClips)
def limits_of_integers(d):
    x = d.input("n", 3, dtype=DType.INT32)
    i = [d.full(value, dtype=torch.int32) for value in (-1, 1, 0)]
    return d.Clip(d.Clip(x, i[0], i[1]), i[2], None)


@miss(L.MergeClips, reason="not numbers")
def limits_per_channel(d):
    return d.Relu(d.Max(d.input("n", 3), d.weight(3)))


@miss(L.MergeClips, reason="used elsewhere")
def limit_that_is_read_elsewhere(d):
    y = d.Clip(d.input("n", 3), d.full(0.0), d.full(1.0))
    return d.Relu(y), d.Neg(y)


@miss(L.MergeClips, reason="not numbers")
def limits_of_numbers_that_a_double_does_not_hold(d):
    x = d.input("n", 3, dtype=DType.INT64)
    return d.Clip(d.Clip(x, d.constant((1 << 53) + 1), None), None, d.constant((1 << 60) + 1))


@match(L.ReluOfMax, 2)
def maxima_with_zero(d):
    x = d.input("n", 3)
    return d.Max(d.full(0.0, 1), x), d.Clip(x, d.full(0.0))


@miss(L.ReluOfMax, reason="broadcast")
def maximum_with_zeros_that_stretch(d):
    return d.Max(d.input("n", 3), d.full(0.0, 2, 1, 3))


@miss(L.ReluOfMax)
def limits_that_are_no_relu(d):
    x = d.input("n", 3)
    return d.Clip(x, d.full(0.0), d.full(6.0)), d.Max(x, d.full(1e-9)), d.Min(x, d.full(0.0))


# -- expansions


@match(E.ImplicitExpand, 3)
def expansions_that_broadcasting_does(d):
    x, y = d.input(1, 3), d.input("n", 3)
    shape = d.Shape(y)
    cond = d.input(1, dtype=DType.BOOL)
    both = d.Add(y, d.Expand(d.input(3), shape))
    return d.Add(d.Expand(x, shape), y), d.Where(d.Expand(cond, shape), y, both)


@miss(E.ImplicitExpand)
def expansion_that_shapes_the_result(d):
    return d.Add(d.Expand(d.input(1, 3), d.constant([4, 3])), d.input(1, 3))


@match(E.MergeExpands)
def expansion_of_an_expansion(d):
    x = d.Expand(d.input(d.size(3), 1), d.constant([1, 1, 4]))
    return d.Expand(x, d.constant([2, 1, 1]))


@miss(E.MergeExpands, reason="not known")
def expansions_of_an_open_dimension(d):
    return d.Expand(d.Expand(d.input("n", 1), d.constant([1, 3])), d.constant([2, 1, 1]))


# -- cheaper operators


@match(P.PowerOfNumber, 3)
def powers(d):
    x = d.input("n", d.size(3))
    positive = d.Add(d.Abs(x), d.full(0.5))
    return d.Pow(x, d.full(2)), d.Pow(positive, d.full(0.5, 1)), d.Pow(positive, d.full(-1))


@miss(P.PowerOfNumber)
def other_powers(d):
    x = d.input("n", 3)
    return d.Pow(x, d.full(3)), d.Pow(d.full(2), x)


@miss(P.PowerOfNumber, reason="not computed on floats")
def powers_of_integers(d):
    return d.Pow(d.input("n", dtype=DType.INT32), d.full(2, dtype=torch.int32))


@miss(P.PowerOfNumber, reason="stretches")
def powers_that_stretch(d):
    return d.Pow(d.input(3), d.full(2, 2, 1))


@miss(P.PowerOfNumber, reason="runtimes find a norm by this power")
def squares_of_which_the_mean_is_taken(d):
    return d.ReduceMean(d.Pow(d.input("n", 3), d.full(2)), [-1], keepdims=1)


@miss(P.DivideByConstant, reason="runtimes find a Gelu by this division")
def division_in_a_gelu(d):
    return d.Erf(d.Div(d.input("n", 3), d.full(2**0.5)))


@match(P.DivideByConstant, 2)
def divisions(d):
    x = d.input("n", 3)
    return d.Div(x, d.full(3)), d.Div(x, d.weight(3, positive=True))


@miss(P.DivideByConstant, reason="no inverse")
def divisions_by_zero_or_almost(d):
    x = d.input("n", 2)
    half = d.Div(d.input("n", 2, dtype=DType.FLOAT16), d.full(60000, dtype=torch.float16))
    far = d.Div(x, d.full(float("inf")))
    return d.Div(x, d.constant(torch.tensor([1.0, 0.0]))), d.Div(x, d.full(1e-39)), far, half


@miss(P.DivideByConstant)
def divisions_that_are_others(d):
    x = d.input("n", 3)
    y = d.Div(d.input("n", dtype=DType.INT32), d.full(2, dtype=torch.int32))
    return d.Div(d.full(1), x), y


@miss(P.DivideByConstant, reason="parameter")
def division_by_a_parameter(d):
    return d.Div(d.input("n", 3), d.weight(3, name="temperature", positive=True))


@match(P.ConstantChoice, 2)
def choices_made(d):
    x, y = d.Relu(d.input("n", 3)), d.Neg(d.input("n", 3))
    yes, no = (d.full(truth, 1, dtype=torch.bool) for truth in (True, False))
    return d.Relu(d.Where(yes, x, y)), d.Relu(d.Where(no, x, y))


@miss(P.ConstantChoice)
def choice_that_differs(d):
    return d.Where(d.constant(torch.tensor([True, False])), d.input("n", 2), d.input("n", 2))


@miss(P.ConstantChoice, reason="broadcast")
def choice_that_the_other_operand_stretches(d):
    return d.Relu(d.Where(d.full(True, 1, dtype=torch.bool), d.Relu(d.input(3)), d.input("n", 3)))


@match(P.MergeReflections, 6)
def reflections(d):
    x, c = d.input("n", 3), d.weight(3)
    return (
        d.Sub(d.full(1), d.Add(x, c)),
        d.Sub(c, d.Sub(x, d.full(2))),
        d.Sub(d.full(1), d.Sub(d.full(3), x)),
        d.Add(d.Sub(c, x), d.full(2)),
        d.Sub(d.Sub(d.full(2), x), c),
        d.Sub(c, d.Sub(c, x)),
    )


@miss(P.MergeReflections)
def differences_of_integers_and_values(d):
    x, i = d.input("n", 3), d.input("n", dtype=DType.INT64)
    return d.Sub(d.constant(1), d.Sub(d.constant(2), i)), d.Sub(x, d.Add(x, d.full(1)))


@miss(P.MergeReflections, reason="larger than the two")
def reflections_that_would_grow(d):
    return d.Sub(d.weight(3, 1), d.Add(d.input("n", 3, 3), d.weight(1, 3)))


@match(P.MergeBranches)
def sums_of_shifted_branches(d):
    x = d.input("n", d.size(3))
    return d.Add(d.Add(x, d.full(1)), d.Add(d.full(2, 1), d.Relu(x)))


@match(P.MergeBranches, without=(DType.FLOAT16,))
def products_of_scaled_branches(d):
    x = d.input("n", d.size(3))
    return d.Mul(d.Mul(x, d.full(2)), d.Mul(d.Relu(x), d.full(0.5)))


@miss(P.MergeBranches, reason="out of range")
def products_that_only_their_constants_keep_in_range(d):
    x, half = d.input("n", 3), d.input("n", 3, dtype=DType.FLOAT16)
    small, less = d.full(1e-15), d.full(0.01, dtype=torch.float16)
    return d.Mul(d.Mul(x, small), d.Mul(d.Relu(x), small)), d.Mul(d.Mul(half, less), d.Mul(d.Relu(half), less))


@miss(P.MergeBranches, reason="one number each")
def branches_with_vectors_or_stretched(d):
    x, y = d.input("n", 3), d.input(3)
    a = d.Add(d.Add(x, d.weight(3)), d.Add(d.Relu(x), d.full(1)))
    return a, d.Add(d.Add(x, d.full(1)), d.Add(y, d.full(1)))


@miss(P.MergeBranches)
def branches_of_different_operators(d):
    x = d.input("n", 3)
    return d.Add(d.Mul(x, d.full(2)), d.Add(d.Relu(x), d.full(1)))
