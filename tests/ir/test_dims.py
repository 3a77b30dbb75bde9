import itertools
import keyword

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphopt.ir import DType, TensorType
from graphopt.ir import dims as D

n, m = D.symbol("n"), D.symbol("m")


@given(st.text(), st.integers(0, 9), st.integers(1, 9))
def test_any_name_comes_back_alone_and_in_expressions(name, addend, factor):
    size = D.symbol(name)
    for dim in (size, factor * size + addend, D.floor_div(size + 1, factor + 1)):
        assert D.parse_dim(D.format_dim(dim)) == dim


@pytest.mark.parametrize(
    "name", [*keyword.kwlist, "?", "", "Max", "floor", "2n", "a b", "ﬁ", "a\nb", '"', "\\", "\ud800"]
)
def test_odd_names_come_back(name):
    for dim in (D.symbol(name), 2 * D.symbol(name) + n):
        assert D.parse_dim(D.format_dim(dim)) == dim


@pytest.mark.parametrize(
    "dim",
    [0, 7, None, n, 2 * n, n * m, n**2, n - m, n / 2, sympy.floor(n / 2), sympy.ceiling((n + 1) / 3),
     sympy.Max(1, n - 3), sympy.Min(n, m), sympy.Mod(n, 4), (n + 1) * m, sympy.floor(sympy.floor(n / 2) / 2) + 1],
    ids=str,
)  # fmt: skip
def test_expressions_come_back(dim):
    assert D.parse_dim(D.format_dim(dim)) == dim


@pytest.mark.parametrize(
    "text",
    ["5 % 0", "n // 0", "1/0", "n/0", "floor(1, 2)", "n.real", "f(n)", "n[0]", "n if m else 1", "(n", "1.5*n", "n**99",
     "((((((((9**16)**16)**16)**16)**16)**16)**16)**16)", "(" * 300 + "n" + ")" * 300, "9" * 5000, "__import__('os')"],
)  # fmt: skip
def test_text_that_is_no_arithmetic_is_a_name(text):
    assert D.parse_dim(text) == D.symbol(text)


@pytest.mark.parametrize("text", ["?", "", "-1", "3 - 5"])
def test_unknown(text):
    assert D.parse_dim(text) is None


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(3, 3), (True, 1), (np.int64(4), 4), (torch.tensor(5), 5), (sympy.Integer(6), 6), (7.0, 7), ("n", n),
     ("2*n", 2 * n), (None, None), (n - n, 0), (n, n)],
)  # fmt: skip
def test_normalise(given, wanted):
    found = D.normalise(given)
    assert found == wanted
    assert type(found) is type(wanted)


def test_normalise_refuses_fractions():
    with pytest.raises(ValueError, match=r"whole number, not 2\.5"):
        D.normalise(2.5)


def test_substitute_goes_by_name():
    other = sympy.Symbol("n", positive=True, integer=True)
    assert D.substitute(2 * n + m, {"n": 3}) == m + 6
    assert D.substitute(2 * other, {"n": 3}) == 6
    assert D.substitute(None, {"n": 3}) is None


@pytest.mark.parametrize(
    ("dims", "wanted"),
    [
        ((), 1),
        ((2, 3), 6),
        ((2, None), None),
        ((0, None), 0),
        ((None, 0), 0),
        ((2, n), 2 * n),
        ((n, 0), 0),
        ((n, None), None),
    ],
)
def test_product(dims, wanted):
    assert D.product(dims) == wanted


def test_sizes_without_a_name():
    first, second = itertools.islice(D.unnamed({"?0", "n"}), 2)
    assert (str(first), str(second)) == ("?1", "?2")
    assert D.is_unnamed(first)
    assert D.is_unnamed(D.normalise(first // 2 + D.symbol("n")))
    assert not any(map(D.is_unnamed, (None, 3, D.symbol("n"), D.normalise(2 * D.symbol("m")))))
    assert D.parse_dim(D.format_dim(first // 2)) == first // 2


def test_same():
    assert D.same((n + 1) * m, n * m + m)
    assert not D.same(None, None)
    assert not D.same(n, m)
    assert D.same(3, 3)
    assert D.same(D.floor_div(4 * n, 4), n)
    assert D.same(D.ceil_div(4 * n, 4), n)


def test_dtypes():
    assert {DType.of(d.torch) for d in DType if d not in (DType.UNDEFINED, DType.STRING)} == {
        d for d in DType if d not in (DType.UNDEFINED, DType.STRING) and d.bits >= 8
    }
    assert DType.of(torch.uint8) is DType.UINT8
    assert DType.INT4.torch is torch.int8
    assert DType.parse("float8e4m3fn").bits == 8
    assert str(TensorType.make(DType.INT4, ("n", 2, None))) == "int4[n, 2, ?]"
