"""Matches and near misses of transposes that cancel or move."""

from graphopt.ir import DType, TensorType
from graphopt.passes.simplify import transposes as T
from tests.passes.rule_cases import Cases

CASES = Cases()
match, miss = CASES.match, CASES.miss


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


def _of_unknown_rank(d):
    return d.graph.add_input(f"x{len(d.graph.inputs)}", TensorType(DType.FLOAT32))


@miss(T.TransposeOfOnes, T.ReshapedTranspose)
def transpose_of_what_has_no_rank(d):
    merged = d.Reshape(_of_unknown_rank(d), [2, 3])
    return d.Reshape(d.Transpose(_of_unknown_rank(d), perm=[0, 2, 1]), [-1]), d.Reshape(
        d.Transpose(merged, perm=[1, 0]), [6]
    )


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
