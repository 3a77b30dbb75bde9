"""Fourier transforms as ONNX's DFT and STFT, which take and give real and imaginary parts in the last dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch

from graphopt.backends.lower import Complex, NoLowering, cut, extent_of, lowers, rank_of, real, scalar
from graphopt.backends.lower_complex import Operand, conjugate, promoted, split
from graphopt.ir import Value
from graphopt.ops.builder import Builder


def _scaled(b: Builder, x: Value, count: int, norm: str | None, inverse: bool) -> Value:
    """DFT divides by the length on the way back only; `norm` may want it otherwise."""
    usual = "backward" if norm is None else norm
    wanted = {"backward": inverse, "forward": not inverse, "ortho": 0.5}[usual]
    power = float(inverse) - float(wanted)
    return x if power == 0 else b.Mul(x, scalar(b, count**power, x))


def _sized(b: Builder, x: Value, axis: int, count: int) -> Value:
    """A dimension cut, or filled up with zeros, to `count`."""
    extent = extent_of(x, axis)
    if extent > count:
        return cut(b, x, axis, 0, count)
    if extent == count:
        return x
    pads = [0] * (2 * rank_of(x))
    pads[rank_of(x) + axis] = count - extent
    return b.Pad(x, pads)


def _dft(b: Builder, x: Value, axis: int, **attributes: Any) -> Value:
    """DFT; ONNX Runtime wants a dimension in front of the signal's."""
    if axis:
        whole: Value = b.DFT(x, None, axis, **attributes)
        return whole
    found: Value = b.Squeeze(b.DFT(b.Unsqueeze(x, [0]), None, 1, **attributes), [0])
    return found


def _full(b: Builder, x: Operand, n: int | None, dim: int, norm: str | None, inverse: bool) -> Complex:
    """The transform of a complex, or real, tensor along one dimension."""
    rank = x.rank if isinstance(x, Complex) else rank_of(x)
    parts, axis = promoted(b, x).parts, dim % rank
    count = extent_of(parts, axis) if n is None else n
    result = _dft(b, _sized(b, parts, axis, count), axis, inverse=int(inverse))
    return Complex(_scaled(b, result, count, norm, inverse))


def _half(b: Builder, x: Value, n: int | None, dim: int, norm: str | None) -> Complex:
    """The transform of a real tensor, without the half that the other tells."""
    axis = dim % rank_of(real(x))
    count = extent_of(x, axis) if n is None else n
    signal = b.Unsqueeze(_sized(b, x, axis, count), [-1])
    return Complex(_scaled(b, _dft(b, signal, axis, onesided=1), count, norm, False))


def _back(b: Builder, x: Operand, n: int | None, dim: int, norm: str | None, inverse: bool = True) -> Value:
    """The real tensor whose transform `x` is the first half of; the other half is its mirror image."""
    x = promoted(b, x)
    axis = dim % x.rank
    count = 2 * (extent_of(x.parts, axis) - 1) if n is None else n
    half = Complex(_sized(b, x.parts, axis, count // 2 + 1))
    rest = count - count // 2 - 1
    whole = half.parts
    if rest:
        mirrored = cut(b, conjugate(b, half).parts, axis, rest, 0, -1)
        whole = b.Concat(whole, mirrored, axis=axis)
    result = _dft(b, whole, axis, inverse=int(inverse))
    return split(b, Complex(_scaled(b, result, count, norm, inverse)))[0]


@lowers("fft_fft")
def _fft(b: Builder, self: Operand, n: int | None = None, dim: int = -1, norm: str | None = None) -> Complex:
    return _full(b, self, n, dim, norm, False)


@lowers("fft_ifft")
def _ifft(b: Builder, self: Operand, n: int | None = None, dim: int = -1, norm: str | None = None) -> Complex:
    return _full(b, self, n, dim, norm, True)


@lowers("fft_rfft")
def _rfft(b: Builder, self: Value, n: int | None = None, dim: int = -1, norm: str | None = None) -> Complex:
    return _half(b, self, n, dim, norm)


@lowers("fft_irfft")
def _irfft(b: Builder, self: Operand, n: int | None = None, dim: int = -1, norm: str | None = None) -> Value:
    return _back(b, self, n, dim, norm)


@lowers("fft_hfft")
def _hfft(b: Builder, self: Operand, n: int | None = None, dim: int = -1, norm: str | None = None) -> Value:
    """The forward transform of a signal that equals its mirror image."""
    return _back(b, self, n, dim, norm, inverse=False)


@lowers("fft_ihfft")
def _ihfft(b: Builder, self: Value, n: int | None = None, dim: int = -1, norm: str | None = None) -> Complex:
    turned = {"forward": "backward", "ortho": "ortho"}.get(norm or "backward", "forward")
    return conjugate(b, _half(b, self, n, dim, turned))


# -- several dimensions


def _places(x: Operand, s: Sequence[int] | None, dim: Any) -> list[tuple[int | None, int]]:
    """Length and dimension of each transform."""
    rank = x.rank
    if rank is None:
        raise NoLowering("the rank of an operand is unknown")
    if dim is None:
        dims = list(range(rank)) if s is None else list(range(rank - len(s), rank))
    else:
        dims = [dim] if isinstance(dim, int) else list(dim)
    lengths: list[int | None] = [None] * len(dims) if s is None else [None if n == -1 else n for n in s]
    return list(zip(lengths, dims, strict=True))


def _each(b: Builder, x: Operand, places: Sequence[tuple[int | None, int]], norm: str | None, inverse: bool) -> Any:
    return reduce(lambda found, place: _full(b, found, place[0], place[1], norm, inverse), places, x)


@lowers("fft_fft2", "fft_fftn")
def _fftn(b: Builder, self: Operand, s: Any = None, dim: Any = None, norm: str | None = None) -> Any:
    return _each(b, self, _places(self, s, dim), norm, False)


@lowers("fft_ifft2", "fft_ifftn")
def _ifftn(b: Builder, self: Operand, s: Any = None, dim: Any = None, norm: str | None = None) -> Any:
    return _each(b, self, _places(self, s, dim), norm, True)


@lowers("fft_rfft2", "fft_rfftn")
def _rfftn(b: Builder, self: Value, s: Any = None, dim: Any = None, norm: str | None = None) -> Any:
    *others, last = _places(self, s, dim)
    return _each(b, _half(b, self, *last, norm), others, norm, False)


@lowers("fft_irfft2", "fft_irfftn")
def _irfftn(b: Builder, self: Operand, s: Any = None, dim: Any = None, norm: str | None = None) -> Value:
    *others, last = _places(self, s, dim)
    return _back(b, _each(b, self, others, norm, True), *last, norm)


@lowers("_fft_r2c")
def _r2c(b: Builder, self: Value, dim: Sequence[int], normalization: int, onesided: bool) -> Any:
    norm = _NORMS[normalization]
    if not onesided:
        return _each(b, self, [(None, d) for d in dim], norm, False)
    return _each(b, _half(b, self, None, dim[-1], norm), [(None, d) for d in dim[:-1]], norm, False)


@lowers("_fft_c2c")
def _c2c(b: Builder, self: Complex, dim: Sequence[int], normalization: int, forward: bool) -> Any:
    norm = _NORMS[normalization] if forward else _BACK_NORMS[normalization]
    return _each(b, self, [(None, d) for d in dim], norm, not forward)


@lowers("_fft_c2r")
def _c2r(b: Builder, self: Complex, dim: Sequence[int], normalization: int, last_dim_size: int) -> Value:
    norm = _BACK_NORMS[normalization]
    return _back(b, _each(b, self, [(None, d) for d in dim[:-1]], norm, True), last_dim_size, dim[-1], norm)


# ATen's fft_norm_mode: none, by the root of the length, by the length.
_NORMS = {0: "backward", 1: "ortho", 2: "forward"}
_BACK_NORMS = {0: "forward", 1: "ortho", 2: "backward"}


# -- short-time transforms


@lowers("stft")
def _stft(
    b: Builder,
    self: Value,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Value | None = None,
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Any:
    """STFT gives frames before frequencies, torch the other way round."""
    if align_to_window:
        raise NoLowering("a transform aligned to its window")
    rank, length = rank_of(real(self)), win_length or n_fft
    signal = self if rank == 2 else b.Unsqueeze(self, [0])
    frame = b.constant(torch.ones(length), like=self) if window is None else window
    if length < n_fft:
        left = (n_fft - length) // 2
        frame = b.Pad(frame, [left, n_fft - length - left])
    found = b.STFT(
        b.Unsqueeze(signal, [-1]), hop_length or n_fft // 4, frame, n_fft, onesided=int(onesided is not False)
    )
    found = b.Transpose(found, perm=(0, 2, 1, 3))
    if normalized:
        found = b.Mul(found, scalar(b, 1 / math.sqrt(n_fft), found))
    found = found if rank == 2 else b.Squeeze(found, [0])
    return found if return_complex is False else Complex(found)
