"""Matches and near misses of the rules about slices, limits, transposes and expansions."""

import torch

from graphopt.ir import DType
from graphopt.passes.simplify import clips as L
from graphopt.passes.simplify import selections as S
from graphopt.passes.simplify import spreads as E
from graphopt.passes.simplify import strength as P
from graphopt.passes.simplify import transposes as T
from tests.passes.rule_cases import Cases

CASES = Cases()
match, miss = CASES.match, CASES.miss
FAR = 1 << 62


# -- slices


@match(S.MergeSlices)
def slices_of_other_axes(d):
    x = d.input("n", d.size(6), "m")
    return d.Slice(d.Slice(x, [1], [-1], [1]), [0], [FAR], [2], [2])


@match(S.MergeSlices, 2)
def slices_of_the_same_axis(d):
    x = d.input("n", d.size(9))
    y = d.Slice(x, [1], [8], [1], [2])
    return d.Slice(y, [-1], [-FAR], [-1], [-1]), d.Slice(y, [1], [3], [-1])


@match(S.MergeSlices)
def slices_backwards_twice(d):
    x = d.input("n", d.size(7))
    return d.Slice(d.Slice(x, [-1], [-FAR], [1], [-1]), [-2], [-FAR], [1], [-2])


@match(S.MergeSlices)
def slice_of_nothing(d):
    x = d.input("n", d.size(5))
    return d.Slice(d.Slice(x, [-90], [2], [1], [-1]), [0], [1], [1])


@miss(S.MergeSlices, reason="extent is not known")
def slices_of_an_open_axis(d):
    return d.Slice(d.Slice(d.input("n", 3), [1], [FAR], [0]), [0], [-1], [0])


@miss(S.MergeSlices, reason="not constant")
def slices_with_computed_bounds(d):
    return d.Slice(d.Slice(d.input("n", 5), d.input(1, dtype=DType.INT64), [4], [1]), [0], [1], [0])


@match(S.SqueezedSlice, 3)
def single_elements(d):
    x = d.input("n", d.size(4), 3)
    first = d.Squeeze(d.Slice(x, [0], [1], [1]), [1])
    last = d.Squeeze(d.Slice(x, [-1], [FAR], [1]), [-2])
    return first, last, d.Squeeze(d.Slice(x, [2], [FAR], [2]), [2])


@match(S.SqueezedSlice)
def single_element_of_an_open_axis(d):
    return d.Squeeze(d.Slice(d.input("n", 4), [-1], [FAR], [0]), [0])


@miss(S.SqueezedSlice)
def slice_of_two_elements(d):
    return d.Squeeze(d.Slice(d.input("n", 4, 1), [0], [2], [1]), [2])


@miss(S.SqueezedSlice, reason="other axes")
def slice_and_squeeze_of_different_axes(d):
    return d.Squeeze(d.Slice(d.input("n", 4, 1), [0], [1], [1]), [2])


@miss(S.SqueezedSlice, reason="used elsewhere")
def slice_that_is_read_twice(d):
    y = d.Slice(d.input("n", 4), [0], [1], [1])
    return d.Squeeze(y, [1]), d.Relu(y)


@match(S.SqueezedSplit, 3)
def split_into_single_elements(d):
    parts = d.Split(d.input("n", 3, d.size(4)), axis=-2, num_outputs=3, outputs=3)
    return [d.Squeeze(part, [1]) for part in parts]


@miss(S.SqueezedSplit)
def split_one_part_of_which_is_not_squeezed(d):
    parts = d.Split(d.input("n", 3, 1), axis=1, num_outputs=3, outputs=3)
    return d.Squeeze(parts[0], [1]), d.Relu(parts[1]), d.Squeeze(parts[2], [1])


@miss(S.SqueezedSplit, reason="other axes")
def split_and_squeeze_of_different_axes(d):
    parts = d.Split(d.input("n", 2, 1), axis=1, num_outputs=2, outputs=2)
    return [d.Squeeze(part, [2]) for part in parts]


@match(S.SequenceElement, 3)
def elements_of_sequences(d):
    x = d.input("n", 6)
    pairs = d.SplitToSequence(x, d.constant(2), axis=1)
    uneven = d.SplitToSequence(x, d.constant([1, 3, 2]), axis=1)
    single = d.SplitToSequence(x, axis=1, keepdims=0)
    return d.SequenceAt(pairs, d.constant(1)), d.SequenceAt(uneven, d.constant(-1)), d.SequenceAt(single, d.constant(4))


@miss(S.SequenceElement, reason="extents of the parts")
def element_of_a_sequence_of_unknown_length(d):
    return d.SequenceAt(d.SplitToSequence(d.input("n", 6), axis=0), d.constant(0))


@miss(S.SequenceElement)
def element_at_a_computed_position(d):
    return d.SequenceAt(d.SplitToSequence(d.input("n", 6), d.constant(2), axis=1), d.input(dtype=DType.INT64))


# -- parts put together again


@match(S.ConcatOfParts, 2)
def parts_in_order(d):
    x = d.Relu(d.input("n", 6))
    y = d.Concat(d.Slice(x, [0], [2], [1]), d.Slice(x, [2], [FAR], [1]), axis=1)
    return d.Neg(y), d.Neg(d.Concat(*d.Split(x, d.constant([2, 4]), axis=1, outputs=2), axis=1))


@match(S.ConcatOfParts)
def parts_rolled(d):
    x = d.input("n", d.size(6), 3)
    return d.Concat(d.Slice(x, [2], [FAR], [1]), d.Slice(x, [0], [2], [1]), axis=-2)


@match(S.ConcatOfParts)
def neighbouring_parts(d):
    x = d.input("n", 8)
    return d.Concat(d.Slice(x, [1], [3], [1]), d.Slice(x, [3], [6], [1]), axis=1)


@miss(S.ConcatOfParts)
def parts_of_different_tensors(d):
    x, y = d.input("n", 6), d.input("n", 6)
    return d.Concat(d.Slice(x, [0], [2], [1]), d.Slice(y, [2], [6], [1]), axis=1)


@miss(S.ConcatOfParts)
def parts_along_another_axis(d):
    x = d.input("n", 4)
    return d.Concat(d.Slice(x, [0], [2], [1]), d.Slice(x, [2], [4], [1]), axis=0)


@miss(S.ConcatOfParts)
def parts_that_are_read_elsewhere(d):
    x = d.input("n", 6)
    y = d.Slice(x, [0], [2], [1])
    return d.Concat(d.Slice(x, [2], [6], [1]), y, axis=1), d.Relu(y)


@match(S.MergeConcats)
def concat_of_concat(d):
    x, y = d.input("n", 2), d.input("n", d.size(3))
    return d.Concat(d.Relu(x), d.Concat(x, y, axis=-1), y, axis=1)


@miss(S.MergeConcats)
def concat_that_is_read_twice(d):
    x = d.input("n", 2)
    inner = d.Concat(x, x, axis=1)
    return d.Concat(inner, x, axis=1), d.Relu(inner)


@miss(S.MergeConcats)
def concats_along_different_axes(d):
    x = d.input("n", 2)
    return d.Concat(d.Concat(x, x, axis=1), d.input("n", 4), axis=0)


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


# -- transposes


@match(T.TransposeSandwich, 3)
def transposes_around_one_operator(d):
    def around(f, x, back):
        return d.Transpose(f(d.Transpose(x, perm=[0, 2, 3, 1])), perm=back)

    x = d.input("n", d.size(3), 4, d.size(5))
    a = around(d.Relu, x, [0, 3, 1, 2])
    b = around(lambda y: d.Softmax(y, axis=-1), x, [0, 3, 1, 2])
    return a, b, around(lambda y: d.Mul(y, d.full(0.5)), x, [2, 0, 1, 3])


@miss(T.TransposeSandwich)
def transposes_around_a_vector(d):
    x = d.Transpose(d.input("n", 3, 4), perm=[0, 2, 1])
    return d.Transpose(d.Add(x, d.weight(3)), perm=[0, 2, 1])


@miss(T.TransposeSandwich)
def transposes_around_what_is_read_elsewhere(d):
    y = d.Relu(d.Transpose(d.input("n", 3, 4), perm=[0, 2, 1]))
    return d.Transpose(y, perm=[0, 2, 1]), d.Neg(y)


@match(T.TransposedOperands, 2)
def operands_transposed_alike(d):
    x, y = d.input("n", d.size(3), 4), d.input("n", 1, 4)
    t = [d.Transpose(v, perm=[2, 0, 1]) for v in (x, y, x, y)]
    return d.Add(t[0], t[1]), d.Sub(t[3], t[2])


@miss(T.TransposedOperands, reason="different ways")
def operands_transposed_differently(d):
    x = d.input(3, 3, 3)
    return d.Add(d.Transpose(x, perm=[2, 0, 1]), d.Transpose(x, perm=[1, 2, 0]))


@match(T.TransposedReduction, 3)
def reductions_of_transposes(d):
    x = d.input("n", d.size(3), 4, 5)
    y = d.Transpose(x, perm=[0, 2, 3, 1])
    kept = d.ReduceMax(d.Transpose(x, perm=[0, 1, 3, 2]), [2, -1], keepdims=1)
    return d.ReduceMean(y, [1, 2], keepdims=0), d.ReduceSum(y, [3], keepdims=0), kept


@miss(T.TransposedReduction, reason="have to be transposed")
def reductions_after_which_the_order_matters(d):
    y = d.Transpose(d.input("n", 3, 4, 5), perm=[0, 2, 3, 1])
    return d.ReduceMean(y, [1], keepdims=0), d.ReduceMean(y, [1, 2], keepdims=1)


@match(T.TransposedFactor, 2)
def gemm_of_transposes(d):
    a, b = d.input(d.size(3), "n"), d.input(5, 3)
    left = d.Gemm(d.Transpose(a, perm=[1, 0]), d.input(a.shape[0], 4))
    return left, d.Gemm(d.input("n", 3), d.Transpose(b, perm=[1, 0]), d.weight(5), alpha=0.5)


@miss(T.TransposedFactor)
def gemm_of_a_transposed_weight(d):
    return d.Gemm(d.input("n", 3), d.Transpose(d.weight(5, 3), perm=[1, 0]))


@match(T.TransposedConcat)
def concat_of_transposes(d):
    x, y = d.input("n", d.size(3), 4), d.input("n", 2, 4)
    return d.Concat(*(d.Transpose(v, perm=[0, 2, 1]) for v in (x, y)), axis=-1)


@miss(T.TransposedConcat)
def concat_of_different_transposes(d):
    x = d.input(3, 3, 3)
    return d.Concat(d.Transpose(x, perm=[0, 2, 1]), d.Transpose(x, perm=[1, 0, 2]), axis=0)


@miss(T.TransposedConcat)
def concat_of_a_transpose_that_is_read_elsewhere(d):
    y = d.Transpose(d.input("n", 3, 3), perm=[0, 2, 1])
    return d.Concat(y, d.Transpose(d.input("n", 3, 3), perm=[0, 2, 1]), axis=0), d.Relu(y)


@match(T.TransposeOfOnes)
def transpose_of_ones_before_a_reshape(d):
    return d.Reshape(d.Transpose(d.input("n", 1, d.size(4)), perm=[0, 2, 1]), [-1])


@miss(T.TransposeOfOnes)
def transpose_that_moves_more(d):
    x = d.Transpose(d.input("n", 2, 4), perm=[0, 2, 1])
    return d.Reshape(x, [-1]), d.Reshape(d.Transpose(d.input("n", 1, 4), perm=[0, 2, 1]), [0, -1])


@match(T.ReshapedTranspose, 2)
def batched_transposes(d):
    x = d.input("n", 2, d.size(3), 4)
    y = d.Transpose(d.Reshape(d.input(2, 3, 4, 5), [6, 4, 5]), perm=[0, 2, 1])
    z = d.Transpose(d.Reshape(x, [0, 0, -1]), perm=[0, 2, 1])
    return d.Reshape(y, [2, 3, 5, 4]), d.Reshape(z, [-1, 2])


@match(T.ReshapedTranspose)
def keys_that_are_transposed_head_by_head(d):
    x = d.Relu(d.input("n", 2, "m", 3))
    batch, rows = d.Shape(x, start=0, end=2), d.Shape(x, start=2, end=3)
    merged = d.Reshape(x, d.Concat(d.constant([-1]), rows, d.constant([3]), axis=0))
    return d.Reshape(d.Transpose(merged, perm=(0, 2, 1)), d.Concat(batch, d.constant([3]), rows, axis=0))


@miss(T.ReshapedTranspose, reason="not known beforehand")
def rows_that_are_cut_anew(d):
    x = d.Relu(d.input("n", 2, "m", 3))
    rows = d.Shape(x, start=2, end=3)
    merged = d.Reshape(x, d.Concat(d.constant([-1]), rows, d.constant([3]), axis=0))
    return d.Reshape(d.Transpose(merged, perm=(0, 2, 1)), d.Concat(d.constant([-1]), rows, axis=0))


@miss(T.ReshapedTranspose, reason="splits a dimension")
def depth_to_space(d):
    x = d.Reshape(d.input(2, 8, 3, 3), [2, 2, 2, 2, 3, 3])
    return d.Reshape(d.Transpose(x, perm=[0, 3, 4, 1, 5, 2]), [2, 2, 6, 6])


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


@match(P.DivideByConstant, 2)
def divisions(d):
    x = d.input("n", 3)
    return d.Div(x, d.full(3)), d.Div(x, d.weight(3, positive=True))


@miss(P.DivideByConstant, reason="no inverse")
def divisions_by_zero_or_almost(d):
    x = d.input("n", 2)
    return d.Div(x, d.constant(torch.tensor([1.0, 0.0]))), d.Div(x, d.full(1e-39)), d.Div(x, d.full(float("inf")))


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


@match(P.MergeBranches, 2)
def branches_with_constants(d):
    x = d.input("n", d.size(3))
    y = d.Relu(x)
    return d.Add(d.Add(x, d.full(1)), d.Add(d.full(2, 1), y)), d.Mul(d.Mul(x, d.full(2)), d.Mul(y, d.full(0.5)))


@miss(P.MergeBranches, reason="one number each")
def branches_with_vectors_or_stretched(d):
    x, y = d.input("n", 3), d.input(3)
    a = d.Add(d.Add(x, d.weight(3)), d.Add(d.Relu(x), d.full(1)))
    return a, d.Add(d.Add(x, d.full(1)), d.Add(y, d.full(1)))


@miss(P.MergeBranches)
def branches_of_different_operators(d):
    x = d.input("n", 3)
    return d.Add(d.Mul(x, d.full(2)), d.Add(d.Relu(x), d.full(1)))
