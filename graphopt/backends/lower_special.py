"""Special functions, by series and rational approximations that reach the precision of float32."""

from __future__ import annotations

import math

from graphopt.backends.lower import NoLowering, lowers, polynomial, real, scalar
from graphopt.ir import DType, Value
from graphopt.ops.builder import Builder

# Lanczos approximation with g = 7 and nine coefficients (Godfrey 2001, "A note on the computation of the convergent
# Lanczos complex Gamma approximation").
_G = 7
_LANCZOS = (
    0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059,
    12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
)  # fmt: skip


def _wide(b: Builder, x: Value) -> Value:
    """In double precision: the terms of these series cancel."""
    return b.Cast(real(x), to=int(DType.FLOAT64))


def _like(b: Builder, result: Value, x: Value) -> Value:
    if not x.dtype.is_float:
        raise NoLowering("a special function of integers")
    return b.Cast(result, to=int(x.dtype))


@lowers("lgamma", "special_gammaln")
def _lgamma(b: Builder, self: Value) -> Value:
    """The logarithm of |gamma|; below one half by reflection, log(pi / |sin(pi x)|) - lgamma(1 - x)."""
    return _like(b, _log_gamma(b, _wide(b, self)), self)


def _log_gamma(b: Builder, x: Value) -> Value:
    one, half = scalar(b, 1, x), scalar(b, 0.5, x)
    small = b.Less(x, half)
    z = b.Sub(b.Where(small, b.Sub(one, x), x), one)
    series = scalar(b, _LANCZOS[0], x)
    for number, coefficient in enumerate(_LANCZOS[1:], 1):
        series = b.Add(series, b.Div(scalar(b, coefficient, x), b.Add(z, scalar(b, number, x))))
    t = b.Add(z, scalar(b, _G + 0.5, x))
    # (z + 1/2) log t - t, ordered so that an infinite argument gives infinity.
    body = b.Sub(b.Mul(b.Add(z, half), b.Sub(b.Log(t), one)), scalar(b, _G, x))
    value = b.Add(b.Add(body, b.Log(series)), scalar(b, 0.5 * math.log(2 * math.pi), x))
    nearest = b.Sub(x, b.Round(x))
    sine = b.Abs(b.Sin(b.Mul(nearest, scalar(b, math.pi, x))))
    mirrored = b.Sub(b.Log(b.Div(scalar(b, math.pi, x), sine)), value)
    low = b.IsInf(x, detect_positive=0)
    return b.Where(low, scalar(b, math.inf, x), b.Where(small, mirrored, value))


@lowers("mvlgamma", "special_multigammaln")
def _mvlgamma(b: Builder, self: Value, p: int) -> Value:
    """The logarithm of the multivariate gamma function: a sum of p of lgamma."""
    x = _wide(b, self)
    total = scalar(b, p * (p - 1) / 4 * math.log(math.pi), x)
    for number in range(p):
        total = b.Add(total, _log_gamma(b, b.Sub(x, scalar(b, number / 2, x))))
    return _like(b, total, self)


@lowers("digamma", "special_digamma", "special_psi")
def _digamma(b: Builder, self: Value) -> Value:
    """Asymptotic series beyond six, which recurrence reaches; reflection below one half (Abramowitz, Stegun 6.3)."""
    x = _wide(b, self)
    one, half, zero, pi = (scalar(b, number, x) for number in (1, 0.5, 0, math.pi))
    small = b.Less(x, half)
    z = b.Where(small, b.Sub(one, x), x)
    shift = zero
    for _ in range(6):
        shift = b.Add(shift, b.Reciprocal(z))
        z = b.Add(z, one)
    inverse = b.Reciprocal(b.Mul(z, z))
    series = b.Mul(inverse, polynomial(b, [-1 / 132, 1 / 240, -1 / 252, 1 / 120, -1 / 12], inverse))
    value = b.Sub(b.Add(b.Sub(b.Log(z), b.Div(half, z)), series), shift)
    nearest = b.Mul(b.Sub(x, b.Round(x)), pi)
    mirrored = b.Sub(value, b.Div(b.Mul(pi, b.Cos(nearest)), b.Sin(nearest)))
    pole = b.And(small, b.And(b.Equal(nearest, zero), b.Not(b.Equal(x, zero))))
    result = b.Where(pole, scalar(b, math.nan, x), b.Where(small, mirrored, value))
    at_zero = b.Neg(b.Reciprocal(x))  # minus infinity at zero, plus at minus zero
    return _like(b, b.Where(b.Equal(x, zero), at_zero, result), self)


@lowers("erfinv", "special_erfinv")
def _erfinv(b: Builder, self: Value) -> Value:
    return _like(b, _inverse_erf(b, _wide(b, self)), self)


def _inverse_erf(b: Builder, x: Value) -> Value:
    """Giles (2012), "Approximating the erfinv function", table 1."""
    one, five = scalar(b, 1, x), scalar(b, 5, x)
    w = b.Neg(b.Log(b.Mul(b.Sub(one, x), b.Add(one, x))))
    central = polynomial(b, _CENTRAL, b.Sub(w, scalar(b, 2.5, x)))
    tail = polynomial(b, _TAIL, b.Sub(b.Sqrt(w), scalar(b, 3, x)))
    inner = b.Mul(b.Where(b.Less(w, five), central, tail), x)
    edge = b.Equal(b.Abs(x), one)
    return b.Where(edge, b.Mul(x, scalar(b, math.inf, x)), inner)


_CENTRAL = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
    0.246640727, 1.50140941,
)  # fmt: skip
_TAIL = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
    1.00167406, 2.83297682,
)  # fmt: skip


@lowers("special_ndtri")
def _ndtri(b: Builder, self: Value) -> Value:
    """The quantile of the normal distribution."""
    x = _wide(b, self)
    twice = b.Sub(b.Mul(x, scalar(b, 2, x)), scalar(b, 1, x))
    return _like(b, b.Mul(_inverse_erf(b, twice), scalar(b, math.sqrt(2), x)), self)


@lowers("i0", "special_i0")
def _i0(b: Builder, self: Value) -> Value:
    x = b.Abs(_wide(b, self))
    return _like(b, b.Mul(_bessel(b, x), b.Exp(x)), self)


@lowers("special_i0e")
def _i0e(b: Builder, self: Value) -> Value:
    return _like(b, _bessel(b, b.Abs(_wide(b, self))), self)


def _bessel(b: Builder, x: Value) -> Value:
    """``exp(-x) I0(x)`` for x >= 0; Abramowitz and Stegun 9.8.1 and 9.8.2."""
    bound = scalar(b, 3.75, x)
    t = b.Div(x, bound)
    near = b.Mul(polynomial(b, _NEAR, b.Mul(t, t)), b.Exp(b.Neg(x)))
    far = b.Max(x, bound)
    away = b.Div(polynomial(b, _AWAY, b.Div(bound, far)), b.Sqrt(far))
    return b.Where(b.Less(x, bound), near, away)


_NEAR = (0.0045813, 0.0360768, 0.2659732, 1.2067492, 3.0899424, 3.5156229, 1.0)
_AWAY = (
    0.00392377, -0.01647633, 0.02635537, -0.02057706, 0.00916281, -0.00157565, 0.00225319, 0.01328592, 0.39894228,
)  # fmt: skip
