"""Contents of small tensors through elementwise operators: shape arithmetic on numbers and expressions.

An element is an ``int``, a sympy expression, or ``None`` when it is not known. Truth values are 0 and 1. Shape
arithmetic that takes a detour through floating point (``floor(cast(size) * 0.5)``) is followed as long as it is exact:
elements of float tensors may be sympy rationals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from graphopt.ir import Dim, DType, Node, Value
from graphopt.ir import dims as D
from graphopt.ops.infer import MAX_KNOWN, contents, object_array
from graphopt.ops.record import Evaluate

# Float arithmetic on sizes is exact while coefficients are dyadic and this small: sizes up to 2**12 fit into float32.
_MAX_COEFFICIENT = 1 << 12
# Floats take part in shape arithmetic a few at a time (scales, quotients); exact ones are slow.
_MAX_FLOATS = 64
_ARITHMETIC_FLOATS = frozenset({DType.FLOAT16, DType.FLOAT32, DType.FLOAT64, DType.BFLOAT16})


def exact(number: float) -> Dim:
    """A finite float as an ``int`` or a sympy rational; ``None`` for infinities and NaN."""
    if not math.isfinite(number):
        return None
    if number == int(number):
        return int(number)
    import sympy

    fraction = Fraction(number)
    return D.normalise(sympy.Rational(fraction.numerator, fraction.denominator))


def elements(value: Value) -> np.ndarray | None:
    """The elements of a small tensor as an object array, ``None`` where not known; ``None`` for a large tensor."""
    known = contents(value)
    if known is not None:
        return object_array(list(known.flat), known.shape)
    data = value.data
    if value.is_constant and data is not None and data.is_floating_point() and data.numel() <= _MAX_FLOATS:
        return object_array([exact(x) for x in data.double().flatten().tolist()], tuple(data.shape))
    if not _is_small(value):
        return None
    return np.full([d for d in value.shape or () if isinstance(d, int)], None, dtype=object)


def _is_small(value: Value) -> bool:
    size = value.tensor_type.numel
    return isinstance(size, int) and size <= MAX_KNOWN


def operands(node: Node) -> list[np.ndarray] | None:
    """`elements` of all inputs that are there; ``None`` when there is nothing to go by."""
    values = [v for v in node.inputs if v is not None]
    if not any(v.known is not None or (v.is_constant and not v.dtype.is_float) for v in values):
        return None
    if any(v.known is None and not _is_small(v) for v in values):
        return None
    arrays = []
    for value in values:
        array = elements(value)
        if array is None:
            return None
        arrays.append(array)
    return arrays


def fit(element: Dim, dtype: DType) -> Dim:
    """`element` as a tensor of `dtype` holds it; ``None`` when that would not be exact."""
    if element is None:
        return None
    if dtype.is_integer:
        return element if _in_range(element, dtype) else None
    if dtype is DType.BOOL:
        return element
    if dtype not in _ARITHMETIC_FLOATS:
        return None
    if isinstance(element, int) or element.is_Rational:
        rounded = torch.tensor(float(element), dtype=torch.float64).to(dtype.torch)
        return exact(float(rounded.double()))
    return element if all(_small_dyadic(r) for r in element.atoms() if r.is_number) else None


def _in_range(element: Any, dtype: DType) -> bool:
    if not isinstance(element, int):
        return bool(element.is_integer)
    signed = dtype.name.startswith("INT")
    low, high = (-(1 << dtype.bits - 1), (1 << dtype.bits - 1) - 1) if signed else (0, (1 << dtype.bits) - 1)
    return low <= element <= high


def _small_dyadic(number: Any) -> bool:
    if not number.is_Rational:
        return False
    numerator, denominator = abs(int(number.p)), int(number.q)
    return max(numerator, denominator) <= _MAX_COEFFICIENT and denominator & (denominator - 1) == 0


def pointwise(function: Callable[..., Dim], dtype: DType | None = None, source: int = 0) -> Evaluate:
    """Rule: each output element is `function` of the broadcast inputs' elements.

    Args:
        function: takes one element per input that is there; any of them may be ``None``.
        dtype: element type of the outputs; that of input `source` by default.
        source: see `dtype`.
    """

    def evaluate(node: Node) -> Sequence[np.ndarray | None]:
        nothing: list[np.ndarray | None] = [None] * len(node.outputs)
        arrays = operands(node)
        if arrays is None:
            return nothing
        spread = np.broadcast_arrays(*arrays)
        kind = node.operand(source).dtype if dtype is None else dtype
        if spread[0].size > (MAX_KNOWN if kind.is_integer else _MAX_FLOATS):
            return nothing
        found = [fit(function(*each), kind) for each in zip(*(a.flat for a in spread), strict=True)]
        if found and all(element is None for element in found):
            return nothing
        return [object_array(found, spread[0].shape), *nothing[1:]]

    return evaluate


def strict(function: Callable[..., Dim]) -> Callable[..., Dim]:
    """`function`, unknown as soon as one argument is."""

    def guarded(*arguments: Dim) -> Dim:
        return None if any(a is None for a in arguments) else function(*arguments)

    return guarded


def is_number(element: Dim) -> bool:
    """True for an integer or a rational, False for an expression in named sizes and for an unknown."""
    return isinstance(element, int) or (element is not None and bool(element.is_Rational))


def non_negative(element: Any) -> bool:
    """True when `element` is known to be at least 0."""
    return element >= 0 if isinstance(element, int) else bool(element.is_nonnegative)


def positive(element: Any) -> bool:
    """True when `element` is known to be greater than 0."""
    return element > 0 if isinstance(element, int) else bool(element.is_positive)


def non_positive(element: Any) -> bool:
    """True when `element` is known to be at most 0."""
    return element <= 0 if isinstance(element, int) else bool(element.is_nonpositive)


def difference(a: Any, b: Any) -> Any:
    """``a - b``, simplified."""
    return D.normalise(a - b if isinstance(a, int) and isinstance(b, int) else (a - b).expand())


def quotient(a: Any, b: Any) -> Dim:
    """``a / b`` where `b` divides `a` as a polynomial (``4*n / n``) or is a number; ``None`` elsewhere."""
    import sympy

    ratio = sympy.cancel(sympy.sympify(a) / sympy.sympify(b))
    return D.normalise(ratio) if ratio.as_numer_denom()[1].is_number and ratio.is_finite is not False else None


def divide_integers(a: Any, b: Any) -> Dim:
    """``a / b`` rounded towards zero; ``None`` when it divides by zero or the direction of rounding is open."""
    if b == 0:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    ratio = quotient(a, b)
    if isinstance(ratio, int) or (ratio is not None and ratio.is_integer):
        return ratio
    return D.floor_div(a, b) if non_negative(a) and positive(b) else None


def divide_floats(a: Any, b: Any) -> Dim:
    """``a / b`` exactly; ``None`` when it divides by zero or by an expression that does not cancel."""
    return None if b == 0 else quotient(a, b)


def modulo(a: Any, b: Any) -> Dim:
    """``a`` modulo ``b``, with the sign of `b`."""
    if b == 0 or not (isinstance(b, int) or positive(b)):
        return None
    return D.normalise(a % b)


def remainder(a: Any, b: Any) -> Dim:
    """The remainder of the division rounded towards zero, with the sign of `a`."""
    if b == 0:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) % abs(b) * (-1 if a < 0 else 1)
    return modulo(a, b) if non_negative(a) and positive(b) else None


def power(a: Any, b: Any) -> Dim:
    """``a ** b`` for small natural exponents."""
    return D.normalise(a**b) if isinstance(b, int) and 0 <= b <= 16 else None


def maximum(a: Any, b: Any) -> Dim:
    """The larger element; an expression with ``Max`` when that depends on the sizes."""
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    import sympy

    return D.normalise(sympy.Max(a, b))


def minimum(a: Any, b: Any) -> Dim:
    """The smaller element; an expression with ``Min`` when that depends on the sizes."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    import sympy

    return D.normalise(sympy.Min(a, b))


def floor(a: Any) -> Dim:
    """The largest integer that is not above `a`."""
    if isinstance(a, int):
        return a
    import sympy

    return D.normalise(sympy.floor(a))


def ceiling(a: Any) -> Dim:
    """The smallest integer that is not below `a`."""
    if isinstance(a, int):
        return a
    import sympy

    return D.normalise(sympy.ceiling(a))


def truncate(a: Any) -> Dim:
    """`a` rounded towards zero; ``None`` when its sign is open and it is not an integer."""
    if isinstance(a, int) or a.is_integer:
        return D.normalise(a)
    if non_negative(a):
        return floor(a)
    return ceiling(a) if non_positive(a) else None


def absolute(a: Any) -> Dim:
    """The magnitude; ``None`` when the sign is open."""
    if non_negative(a):
        return D.normalise(a)
    return D.normalise(-a) if non_positive(a) else None


def sign(a: Any) -> Dim:
    """-1, 0 or 1; ``None`` when it is open."""
    if positive(a):
        return 1
    if non_negative(a):
        return 0 if non_positive(a) else None
    return -1 if positive(-a) else None


def equal(a: Any, b: Any) -> Dim:
    """1 or 0; ``None`` when it depends on the sizes."""
    gap = difference(a, b)
    if gap == 0:
        return 1
    return 0 if isinstance(gap, int) or gap.is_zero is False else None


def less(a: Any, b: Any) -> Dim:
    """1 when ``a < b``, 0 when not; ``None`` when it depends on the sizes."""
    gap = difference(b, a)
    if positive(gap):
        return 1
    return 0 if non_positive(gap) else None


def truth(a: Any) -> Dim:
    """1 for an element that cannot be zero, 0 for zero; ``None`` when it depends on the sizes."""
    return negation(equal(a, 0))


def negation(a: Dim) -> Dim:
    """Logical not of a truth value."""
    return None if a is None else int(a == 0)


def conjunction(a: Dim, b: Dim) -> Dim:
    """Logical and of two truth values; one 0 decides it."""
    if a == 0 or b == 0:
        return 0
    return None if a is None or b is None else 1


def disjunction(a: Dim, b: Dim) -> Dim:
    """Logical or of two truth values; one 1 decides it."""
    if a == 1 or b == 1:
        return 1
    return None if a is None or b is None else 0


def choose(condition: Dim, a: Dim, b: Dim) -> Dim:
    """`a` where `condition` holds, else `b`; either when they are the same."""
    if condition is None:
        return a if D.same(a, b) else None
    return b if condition == 0 else a
