"""Strings in operators that move, compare and order elements, against the same on numbers or ONNX Runtime."""

import numpy as np
import pytest

from tests.ops.test_text import ort
from tests.ops.values import check, words

X = words("pear", "apple", "fig", "apple", "", "kiwi", shape=(2, 3))


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [("Gather", [X, np.array([2, 0])], {"axis": 1}), ("Reshape", [X, np.array([3, -1])], {}),
     ("Transpose", [X], {}), ("Slice", [X, np.array([1]), np.array([3]), np.array([1])], {}),
     ("Concat", [X, X], {"axis": 0}), ("Expand", [X, np.array([2, 2, 3])], {}),
     ("Where", [np.array([[True, False, True]]), X, words("no")], {}), ("Tile", [X, np.array([1, 2])], {}),
     ("Equal", [X, words("apple")], {}), ("Squeeze", [X[:1], np.array([0])], {}), ("Identity", [X], {}),
     ("GatherElements", [X, np.array([[1, 0, 0]])], {"axis": 0}), ("Shape", [X], {}), ("Size", [X], {}),
     ("ScatterElements", [X, np.array([[1, 0, 1]]), words("a", "b", "c", shape=(1, 3))], {"axis": 0}),
     ("GatherND", [X, np.array([[1, 2], [0, 0]])], {}), ("Compress", [X, np.array([True, False])], {"axis": 0})],
)  # fmt: skip
def test_as_onnx_runtime(op, inputs, attributes):
    check(op, inputs, want=ort(op, inputs, **attributes), **attributes)


def test_unique_goes_by_the_alphabet():
    x = words("pear", "apple", "fig", "apple")
    check("Unique", [x], 4, ort("Unique", [x], 4, sorted=1), sorted=1)


def test_split_gives_parts():
    check("Split", [X], 3, list(np.split(X, 3, 1)), axis=1, num_outputs=3)
