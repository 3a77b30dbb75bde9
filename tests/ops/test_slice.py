"""Slice, Trilu and ReverseSequence against ONNX Runtime."""

import numpy as np
import pytest

from graphopt.errors import ShapeError
from graphopt.ir import dims as D
from graphopt.ops import record_of
from tests.ops.oracle import check, graph_of

RNG = np.random.default_rng(0)
FAR, BACK = 2**63 - 1, -(2**63)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*items, dtype=np.int64):
    return np.array(items, dtype=dtype)


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [((1,), (4,), None, None), ((0, 1), (FAR, -1), (0, 1), None), ((-3,), (FAR,), (-1,), (1,)),
     ((-1,), (BACK,), (1,), (-1,)), ((4, 5), (0, 1), (0, 2), (-2, -1)), ((0,), (FAR,), (2,), (3,)),
     ((3,), (1,), (1,), (1,)), ((-100,), (100,), (0,), (2,)), ((100,), (-100,), (0,), (-3,)), ((), (), (), ())],
)  # fmt: skip
def test_slice(starts, ends, axes, steps):
    inputs = [array(5, 6, 7), ints(*starts), ints(*ends)]
    inputs += [ints(*axes)] if axes is not None else []
    inputs += [ints(*steps)] if steps is not None else []
    check("Slice", inputs, constant=[1, 2, 3, 4], symbolic={0: ("a", "b", "c")})


def test_slice_without_axes_but_with_steps():
    check("Slice", [array(5), ints(0), ints(4), None, ints(2)], constant=[1, 2, 4], reference=True)


def test_slice_with_int32_bounds():
    check("Slice", [array(5, 3), ints(1, dtype=np.int32), ints(3, dtype=np.int32)], constant=[1, 2])


@pytest.mark.parametrize(
    ("start", "stop", "step", "want"),
    [(0, FAR, 1, "n"), (1, FAR, 1, "n - 1"), (0, -1, 1, "n - 1"), (0, 1, 1, "1"), (0, 4, 1, "Min(4, n)"),
     (-1, FAR, 1, "1"), (-1, BACK, -1, "n"), (0, FAR, 2, "ceiling(n/2)"), (2, FAR, 1, "Max(0, n - 2)")],
)  # fmt: skip
def test_slice_of_a_symbolic_dimension(start, stop, step, want):
    inputs = [array(5), ints(start), ints(stop), ints(0), ints(step)]
    _, node = graph_of("Slice", inputs, 1, [1, 2, 3, 4], {0: ("n",)})
    assert D.format_dim(record_of(node).infer(node)[0].shape[0]) == want


def test_slice_with_bounds_that_are_not_known():
    _, node = graph_of("Slice", [array(5, 3), ints(1), ints(3), ints(0)], 1, [3])
    assert record_of(node).infer(node)[0].shape == (None, 3)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([array(5), ints(1), ints(2, 3)], "differ in length"),
        ([array(5), ints(0), ints(3), ints(0), ints(0)], "zero"),
    ],
)
def test_slice_rejects(inputs, message):
    _, node = graph_of("Slice", inputs, 1, [1, 2, 3, 4])
    with pytest.raises(ShapeError, match=message):
        record_of(node).infer(node)


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, 0, 1, -2, 10])
def test_trilu(upper, k):
    check(
        "Trilu",
        [array(2, 4, 5), None if k is None else np.array(k)],
        symbolic={0: ("n", "h", "w")},
        upper=upper,
    )


def test_trilu_of_bools():
    check("Trilu", [RNG.random((3, 3)) > 0.5])


@pytest.mark.parametrize(("batch_axis", "time_axis"), [(1, 0), (0, 1)])
def test_reverse_sequence(batch_axis, time_axis):
    x, lengths = array(4, 4, 3), ints(1, 2, 4, 3)
    check("ReverseSequence", [x, lengths], batch_axis=batch_axis, time_axis=time_axis)
