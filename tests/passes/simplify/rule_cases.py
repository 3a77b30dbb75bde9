"""Matches and near misses of the rules of `simplify`."""

import torch

from graphopt.ir import DType
from graphopt.passes.simplify import chains as C
from graphopt.passes.simplify import identity_arithmetic as A
from graphopt.passes.simplify import identity_views as V
from graphopt.passes.simplify import moved_views as W
from tests.passes.rule_cases import Cases

CASES = Cases()
match, miss = CASES.match, CASES.miss


# -- arithmetic


@match(A.DropIdentity)
def identity_between(d):
    return d.Relu(d.Identity(d.Relu(d.input("n", 3))))


@match(A.DropIdentity)
def identity_at_the_output(d):
    return d.Identity(d.Relu(d.input("n", 3)))


@miss(A.DropIdentity, reason="hands an input")
def identity_from_input_to_output(d):
    return d.Identity(d.input("n", 3))


@match(A.DropNeutral, 6)
def neutral_elements(d):
    x = d.Relu(d.input("n", 3))
    x = d.Add(d.full(0, 3), d.Mul(d.full(1, 1), x))
    x = d.Sub(d.Div(x, d.full(1)), d.full(0, 1, 1))
    return d.Relu(d.Pow(d.Mul(x, d.full(1.0, 1, 3)), d.full(1)))


@match(A.DropNeutral, 2)
def neutral_truth_values(d):
    x = d.Not(d.input("n", 3, dtype=DType.BOOL))
    return d.Not(d.Or(d.And(x, d.full(True, dtype=torch.bool)), d.full(False, 3, dtype=torch.bool)))


@miss(A.DropNeutral, reason="may change the shape")
def one_that_stretches(d):
    return d.Relu(d.Mul(d.input("n", 3), d.full(1, 2, 1, 3)))


@miss(A.DropNeutral)
def one_on_the_wrong_side(d):
    x = d.input("n", 3)
    return d.Div(d.full(1), x), d.Sub(d.full(0), x), d.Pow(d.full(1), x)


@miss(A.DropNeutral)
def one_that_is_trained(d):
    gamma = d.weight(3, name="gamma")
    gamma.data = torch.ones(3)
    return d.Relu(d.Mul(d.input("n", 3), gamma))


@miss(A.DropNeutral)
def one_that_a_caller_may_override(d):
    return d.Relu(d.Mul(d.input("n", 3), d.input(3, default=torch.ones(3))))


@miss(A.DropNeutral)
def almost_one(d):
    return d.Relu(d.Mul(d.input("n", 2), d.constant(torch.tensor([1.0, 1.000001]))))


@match(A.DropDoubled, 2)
def doubled(d):
    x = d.Neg(d.Neg(d.Relu(d.input("n", 3))))
    y = d.Not(d.Not(d.Not(d.input("n", 3, dtype=DType.BOOL))))
    return d.Relu(x), y


@match(A.DropDoubled)
def doubled_and_read_in_between(d):
    inner = d.Neg(d.Relu(d.input("n", 3)))
    return d.Relu(d.Neg(inner)), d.Relu(inner)


@miss(A.DropDoubled)
def different_involutions(d):
    return d.Neg(d.Reciprocal(d.Neg(d.input("n", 3))))


@match(A.DropRepeated, 3)
def repeated(d):
    x = d.input("n", 3)
    return d.Abs(d.Abs(x)), d.Floor(d.Floor(x)), d.Relu(d.Relu(x))


@miss(A.DropRepeated)
def different_roundings(d):
    return d.Abs(d.Relu(d.Abs(d.input("n", 3)))), d.Neg(d.Neg(d.input("n", 3)))


@match(A.DropSameCast, 2)
def cast_to_the_same(d):
    x = d.Relu(d.input("n", 3))
    return d.Relu(d.CastLike(d.Cast(x, to=DType.FLOAT32), x))


@miss(A.DropSameCast)
def cast_to_another(d):
    x = d.Relu(d.input("n", 3))
    return d.Cast(x, to=DType.FLOAT64), d.CastLike(x, d.input(1, dtype=DType.INT64))


@match(A.DropLoneOperand, 5)
def lone_operands(d):
    x = d.Relu(d.input("n", 4))
    x = d.Concat(d.Max(d.Sum(d.Clip(x))), axis=1)
    return d.Relu(d.Split(x, axis=1, num_outputs=1))


@miss(A.DropLoneOperand)
def two_operands(d):
    x = d.Relu(d.input("n", 4))
    a, b = d.Split(x, axis=1, num_outputs=2, outputs=2)
    return d.Concat(a, b, axis=1), d.Clip(x, None, d.full(1)), d.Max(x, d.Neg(x))


@match(A.DropEqualChoice)
def equal_choice(d):
    x = d.Relu(d.input("n", 3))
    return d.Relu(d.Where(d.input("n", 3, dtype=DType.BOOL), x, x))


@miss(A.DropEqualChoice, reason="may broadcast")
def choice_that_broadcasts(d):
    x = d.Relu(d.input("n", 3))
    return d.Where(d.input(2, "n", 3, dtype=DType.BOOL), x, x)


@miss(A.DropEqualChoice)
def real_choice(d):
    x = d.Relu(d.input("n", 3))
    return d.Where(d.input("n", 3, dtype=DType.BOOL), x, d.Neg(x))


@match(A.DropZeroBias, 3)
def zero_biases(d):
    x, w = d.input("n", 4, 5, 5), d.weight(4, 4, 1, 1)
    zeros = d.Expand(d.full(0), d.input(1, dtype=DType.INT64, default=torch.tensor([4])))
    return (
        d.Conv(x, w, zeros),
        d.Conv(x, w, d.full(0, 4), strides=[2, 2]),
        d.Gemm(d.input("n", 4), d.weight(4, 6), d.full(0)),
    )


@miss(A.DropZeroBias)
def biases_that_are_not_or_need_not_stay_zero(d):
    x, w, trained = d.input("n", 4, 5, 5), d.weight(4, 4, 1, 1), d.weight(4, name="conv.bias")
    trained.data = torch.zeros(4)
    return d.Conv(x, w, trained), d.Conv(x, w, d.constant(torch.tensor([0.0, 0, 0, 1e-9]))), d.Conv(x, w)


@match(A.DropDropout)
def dropout_at_inference(d):
    x = d.Relu(d.input("n", 3))
    return d.Relu(d.Dropout(x, d.full(0.5), d.full(False, dtype=torch.bool), outputs=2)[0])


@miss(A.DropDropout, reason="another output")
def dropout_whose_mask_is_read(d):
    return d.Dropout(d.Relu(d.input("n", 3)), outputs=2)


@miss(A.DropDropout, reason="training mode")
def dropout_that_trains(d):
    return d.Relu(d.Dropout(d.Relu(d.input("n", 3)), d.full(0.5), d.full(True, dtype=torch.bool)))


# -- views


@match(V.DropReshape, 4)
def views_that_change_nothing(d):
    x = d.Relu(d.input("n", 3, 4))
    x = d.Reshape(x, [0, 3, -1])
    x = d.Flatten(d.Reshape(x, [-1, 12]), axis=1)
    x = d.Expand(x, [1, 12])
    return d.Relu(d.Squeeze(x, d.constant(torch.zeros(0, dtype=torch.int64))))


@miss(V.DropReshape)
def views_that_change_something(d):
    x = d.input("n", 4)
    return d.Reshape(x, [4, -1]), d.Expand(x, [2, 1, 4]), d.Unsqueeze(x, [0]), d.Flatten(x, axis=0)


@miss(V.DropReshape)
def expand_by_an_unknown_size(d):
    return d.Expand(d.input(None, 4), d.input(2, dtype=DType.INT64))


@match(V.DropTranspose, 2)
def transposes_that_move_nothing(d):
    x = d.Relu(d.input(1, 3, 1, 4))
    return d.Relu(d.Transpose(x, perm=[0, 1, 2, 3])), d.Relu(d.Transpose(x, perm=[2, 1, 0, 3]))


@miss(V.DropTranspose)
def transposes_of_equal_extents(d):
    return d.Transpose(d.input(3, 3)), d.Transpose(d.input("n", 2, 2), perm=[0, 2, 1])


@miss(V.DropTranspose)
def transpose_that_moves_a_one_to_another_place(d):
    return d.Transpose(d.input(1, 3), perm=[1, 0])


@match(V.DropSlice, 2)
def slices_of_everything(d):
    x = d.Relu(d.input("n", 4))
    return d.Relu(d.Slice(d.Slice(x, [0], [4], [1]), [0, 0], [1 << 62, 4], [0, 1], [1, 1]))


@miss(V.DropSlice)
def slice_backwards(d):
    return d.Slice(d.Relu(d.input("n", 4)), [-1], [-(1 << 62)], [1], [-1])


@miss(V.DropSlice)
def slice_of_a_part(d):
    return d.Slice(d.Relu(d.input("n", 4)), [0], [3], [1])


@match(V.DropPad, 2)
def pads_of_nothing(d):
    x = d.Relu(d.input("n", 4))
    return d.Relu(d.Tile(d.Pad(x, [0, 0, 0, 0], mode="edge"), [1, 1]))


@miss(V.DropPad)
def pads_that_balance(d):
    x = d.Relu(d.input("n", 4))
    return d.Pad(x, [0, 1, 0, -1]), d.Tile(x, [1, 2])


@match(V.DropReduction, 2)
def reductions_of_one_element(d):
    x = d.Relu(d.input("n", 1, 4))
    none = d.constant(torch.zeros(0, dtype=torch.int64))
    return d.Relu(d.ReduceSum(d.ReduceMean(x, [1]), none, noop_with_empty_axes=1))


@miss(V.DropReduction)
def reductions_of_more(d):
    x = d.Relu(d.input("n", 1, 4))
    return d.ReduceSum(x, [2]), d.ReduceMax(x, [1], keepdims=0), d.ReduceSum(x), d.ReduceL1(x, [1])


@match(V.DropPool, 2)
def pools_of_one_element(d):
    x = d.Relu(d.input("n", 2, 4, 4))
    return d.Relu(d.AveragePool(d.MaxPool(x, kernel_shape=[1, 1]), kernel_shape=[1, 1], strides=[1, 1]))


@miss(V.DropPool)
def pools_that_skip(d):
    x = d.Relu(d.input("n", 2, 4, 4))
    return d.MaxPool(x, kernel_shape=[1, 1], strides=[2, 2]), d.AveragePool(x, kernel_shape=[2, 2])


# -- chains


@match(C.MergeViews, 3)
def views_of_views(d):
    x = d.Relu(d.input("n", 3, 4))
    x = d.Unsqueeze(d.Flatten(d.Reshape(x, [-1, 4, 3])), [2])
    return d.Relu(d.Reshape(x, [-1, 2, 6]))


@match(C.MergeViews)
def views_that_undo_each_other(d):
    x = d.Relu(d.input("n", "m"))
    return d.Relu(d.Squeeze(d.Unsqueeze(x, [1]), [1]))


@match(C.MergeViews)
def view_of_a_view_that_others_read(d):
    inner = d.Reshape(d.input("n", 3, 4), [-1, 12])
    return d.Reshape(inner, [-1, 6, 2]), d.Relu(inner)


@miss(C.MergeViews, reason="operand in between")
def zero_that_stands_for_the_operand_between(d):
    x = d.input("n", "m", 6)
    return d.Reshape(d.Transpose(d.Reshape(x, [0, -1, 2]), perm=[0, 2, 1]), [0, 0, 0, 1]), d.Reshape(
        d.Reshape(x, d.input(2, dtype=DType.INT64)), [0, 0, 1]
    )


@match(C.MergeUnsqueezes, 2)
def unsqueezes_and_squeezes(d):
    x = d.input("n", 3)
    y = d.input("n", 1, 3, 1)
    return d.Unsqueeze(d.Unsqueeze(x, [1]), [0, -1]), d.Squeeze(d.Squeeze(y, [-1]), [1])


@miss(C.MergeUnsqueezes)
def squeeze_of_unsqueeze(d):
    return d.Squeeze(d.Unsqueeze(d.input("n", 1, 3), [0]), [2])


@miss(C.MergeUnsqueezes)
def unsqueeze_at_axes_that_are_computed(d):
    return d.Unsqueeze(d.Unsqueeze(d.input("n", 3), d.input(1, dtype=DType.INT64)), [0])


@match(C.MergeTransposes)
def transposes(d):
    return d.Transpose(d.Transpose(d.input("n", 3, 4), perm=[1, 2, 0]), perm=[0, 2, 1])


@match(C.MergeTransposes)
def transposes_that_undo_each_other(d):
    return d.Relu(d.Transpose(d.Transpose(d.Relu(d.input("n", 3, 4)), perm=[1, 2, 0]), perm=[2, 0, 1]))


@match(C.MergeTransposes)
def transposes_without_perm(d):
    return d.Relu(d.Transpose(d.Transpose(d.Relu(d.input("n", 3, 4)))))


@miss(C.MergeTransposes)
def transposes_with_something_between(d):
    return d.Transpose(d.Softmax(d.Transpose(d.input("n", 3)), axis=-1))


@match(C.MergeCasts, 2)
def casts_without_loss(d):
    x = d.input("n", 3)
    y = d.input("n", 3, dtype=DType.INT32)
    return (
        d.Relu(d.Cast(d.Cast(d.Relu(x), to=DType.FLOAT64), to=DType.FLOAT32)),
        d.Cast(d.Cast(y, to=DType.FLOAT64), to=DType.FLOAT32),
    )


@miss(C.MergeCasts, reason="loses something")
def casts_with_loss(d):
    x = d.input("n", 3)
    y = d.input("n", 3, dtype=DType.INT64)
    return (
        d.Cast(d.Cast(x, to=DType.INT32), to=DType.FLOAT32),
        d.Cast(d.Cast(x, to=DType.FLOAT16), to=DType.FLOAT32),
        d.Cast(d.Cast(y, to=DType.FLOAT32), to=DType.INT64),
        d.Cast(d.Cast(x, to=DType.BOOL), to=DType.FLOAT32),
        d.Cast(d.Cast(y, to=DType.UINT8), to=DType.INT64),
    )


@match(C.MergeViews)
def views_of_nothing(d):
    return d.Relu(d.Reshape(d.Flatten(d.input(0, 3, 4)), [12, -1]))


@miss(C.MergeViews, reason="depends on the operand in between")
def views_of_nothing_whose_target_copies_an_extent(d):
    return d.Relu(d.Reshape(d.Flatten(d.input(0, 3, 4)), [0, 4, 3]))


@match(C.MergePads)
def pads(d):
    return d.Pad(d.Pad(d.input("n", 4), [0, 1, 0, 2], d.full(0)), [1, 0, 0, 1])


@match(C.MergePads, ort=False)
def pads_of_a_scalar(d):
    return d.Pad(
        d.Pad(d.input(), d.constant(torch.zeros(0, dtype=torch.int64))), d.constant(torch.zeros(0, dtype=torch.int64))
    )


@miss(C.MergePads, reason="different values")
def pads_with_integers_that_are_one_float(d):
    x, fills = d.input("n", dtype=DType.INT64), [d.constant((1 << 53) + i) for i in range(2)]
    return d.Pad(d.Pad(x, [1, 0], fills[0]), [1, 0], fills[1])


@miss(C.MergePads, reason="different values")
def pads_with_different_values(d):
    return d.Pad(d.Pad(d.input("n", 4), [0, 1, 0, 2], d.full(1)), [1, 0, 0, 1])


@miss(C.MergePads, reason="negative")
def pad_after_a_crop(d):
    return d.Pad(d.Pad(d.input("n", 4), [0, -1, 0, 0]), [0, 1, 0, 1])


@miss(C.MergePads)
def pads_of_different_modes(d):
    return d.Pad(d.Pad(d.input("n", 4), [0, 1, 0, 2], mode="edge"), [0, 1, 0, 1])


# -- views that move


@match(W.SoftmaxBetweenViews, 3)
def softmax_of_matrices(d):
    x = d.input("n", 3, "m", 5)
    rows = d.Flatten(x, axis=3)
    back = d.Shape(x)
    split = d.Reshape(d.LogSoftmax(d.Reshape(x, [0, -1, 5]), axis=2), back)
    return d.Reshape(d.Softmax(rows), back), split, d.Squeeze(d.Softmax(d.Unsqueeze(x, [1]), axis=4), [1])


@miss(W.SoftmaxBetweenViews, reason="the view changes the last dimension")
def softmax_over_two_dimensions(d):
    x = d.input("n", 3, 5)
    return d.Reshape(d.Softmax(d.Flatten(x)), d.Shape(x))


@miss(W.SoftmaxBetweenViews, reason="not run over the last dimension")
def softmax_over_rows(d):
    x = d.input("n", 3, 5)
    return d.Reshape(d.Softmax(d.Flatten(x, axis=2), axis=0), d.Shape(x))


@miss(W.SoftmaxBetweenViews, reason="does not undo the first")
def softmax_that_stays_a_matrix(d):
    x = d.input("n", 3, 4)
    return d.Reshape(d.Softmax(d.Flatten(x, axis=2)), [-1, 3, 2, 2])


@match(W.ReshapedConstant, 2)
def rounded_bias_of_a_dynamic_quantization(d):
    scale = d.Add(d.Squeeze(d.input(1)), d.full(3.0))
    bias = d.Cast(d.Floor(d.Div(d.weight(6), scale)), to=int(DType.INT32))
    return d.Reshape(bias, [1, -1, 1, 1]), d.Reshape(d.Neg(d.Mul(scale, d.weight(2, 3))), [3, 2])


@miss(W.ReshapedConstant, reason="for itself alone")
def computed_bias_that_is_no_constant(d):
    scale, bias = d.Squeeze(d.input(1)), d.weight(6)
    vector = d.Reshape(d.Div(d.weight(6), d.Add(d.input(6), scale)), [1, -1, 1])
    return d.Reshape(d.Div(bias, scale), [1, -1, 1]), d.Neg(bias), vector


@miss(W.ReshapedConstant, reason="for itself alone")
def trained_bias(d):
    return d.Reshape(d.Div(d.weight(6, name="fc.bias"), d.Squeeze(d.input(1))), [1, -1, 1])
