"""Matches and near misses of slices, and of parts that are put together again."""

from graphopt.ir import DType
from graphopt.passes.simplify import selections as S
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
