"""Fourier transforms, and the windows and filter banks that go with them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from graphopt.errors import ShapeError
from graphopt.ir import Dim, DType, Node, TensorType, Value, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import input_type, integers, normalise_axis, static_integers
from graphopt.ops.record import Operator, attribute, register


def _scalar(value: Value | None) -> Dim:
    found = integers(value)
    return found[0] if found else None


def _as_complex(x: torch.Tensor) -> torch.Tensor:
    """[..., 1] as a real, [..., 2] as a complex tensor."""
    return x[..., 0] if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())


# -- DFT


def infer_dft(node: Node) -> list[ValueType]:
    """Type rule of DFT: the transformed dimension becomes as long as stated, the last one 2 (1 for a real result)."""
    x = input_type(node, 0)
    if x.shape is None:
        return [TensorType(x.dtype)]
    inverse, onesided = attribute(node, "inverse"), attribute(node, "onesided")
    shape = [*x.shape[:-1], 1 if inverse and onesided else 2]
    axes = static_integers(node.input(2)) if node.input(2) is not None else [-2]
    if not axes:
        return [TensorType(x.dtype, (*(None for _ in x.shape[:-1]), shape[-1]))]
    axis = normalise_axis(axes[0], len(shape), node)
    if axis == len(shape) - 1:
        raise ShapeError("the last dimension holds real and imaginary parts", where=node.describe())
    length: Dim = shape[axis]
    if node.input(1) is not None:
        length = _scalar(node.input(1))
    elif inverse and onesided:
        length = D.mul(D.add(length, -1), 2)
    shape[axis] = D.add(D.floor_div(length, 2), 1) if onesided and not inverse else length
    return [TensorType(x.dtype, tuple(shape))]


def dft(
    x: torch.Tensor,
    dft_length: torch.Tensor | None = None,
    axis: torch.Tensor | None = None,
    *,
    inverse: int = 0,
    onesided: int = 0,
) -> torch.Tensor:
    """ONNX DFT along `axis` of x [..., 1] (real) or [..., 2] (complex)."""
    dim = (-2 if axis is None else int(axis)) % x.dim()
    length = None if dft_length is None else int(dft_length)
    signal = _as_complex(x)
    if inverse and onesided:
        real: torch.Tensor = torch.fft.irfft(signal, length, dim)
        return real.unsqueeze(-1)
    if inverse:
        return torch.view_as_real(torch.fft.ifft(signal, length, dim).resolve_conj())
    if not onesided:
        return torch.view_as_real(torch.fft.fft(signal, length, dim))
    if not signal.is_complex():
        return torch.view_as_real(torch.fft.rfft(signal, length, dim))
    full = torch.fft.fft(signal, length, dim)
    return torch.view_as_real(full.narrow(dim, 0, full.shape[dim] // 2 + 1))


# -- STFT


def infer_stft(node: Node) -> list[ValueType]:
    """Type rule of STFT: [batch, frames, frequencies, 2]."""
    x, window = input_type(node, 0), input_type(node, 2).shape
    if x.shape is None:
        return [TensorType(x.dtype, (None, None, None, 2))]
    length: Dim = x.shape[1]
    if node.input(3) is not None:
        length = _scalar(node.input(3))
    elif node.input(2) is not None:
        length = None if window is None else window[0]
    frames = D.add(D.floor_div(D.add(x.shape[1], D.mul(length, -1)), _scalar(node.input(1))), 1)
    bins = D.add(D.floor_div(length, 2), 1) if attribute(node, "onesided") else length
    return [TensorType(x.dtype, (x.shape[0], frames, bins, 2))]


def stft(
    signal: torch.Tensor,
    frame_step: torch.Tensor,
    window: torch.Tensor | None = None,
    frame_length: torch.Tensor | None = None,
    *,
    onesided: int = 1,
) -> torch.Tensor:
    """ONNX STFT: signal [batch, length, 1 or 2] to [batch, frames, frequencies, 2]."""
    length = signal.shape[1]
    if frame_length is not None:
        length = int(frame_length)
    elif window is not None:
        length = window.shape[0]
    frames = _as_complex(signal).unfold(1, length, int(frame_step))
    frames = frames if window is None else frames * window
    if onesided and not frames.is_complex():
        return torch.view_as_real(torch.fft.rfft(frames))
    result = torch.view_as_real(torch.fft.fft(frames))
    return result[:, :, : length // 2 + 1] if onesided else result


# -- windows


def infer_window(node: Node) -> list[ValueType]:
    """Type rule of the windows: [size]."""
    return [TensorType(DType(attribute(node, "output_datatype")), (_scalar(node.input(0)),))]


def _window(coefficients: tuple[float, ...]) -> Callable[..., torch.Tensor]:
    def compute(size: torch.Tensor, *, output_datatype: int = 1, periodic: int = 1) -> torch.Tensor:
        count = int(size)
        angle = torch.arange(count, dtype=torch.float64, device=size.device)
        angle = angle * (2 * torch.pi / max(count if periodic else count - 1, 1))
        terms = [(-1) ** k * c * torch.cos(k * angle) for k, c in enumerate(coefficients)]
        return torch.stack(terms).sum(0).to(DType(output_datatype).torch)

    return compute


hann_window = _window((0.5, 0.5))
hamming_window = _window((25 / 46, 21 / 46))
blackman_window = _window((0.42, 0.5, 0.08))

# -- mel scale


def mel_weight_matrix(
    num_mel_bins: torch.Tensor,
    dft_length: torch.Tensor,
    sample_rate: torch.Tensor,
    lower_edge_hertz: torch.Tensor,
    upper_edge_hertz: torch.Tensor,
    *,
    output_datatype: int = 1,
) -> torch.Tensor:
    """ONNX MelWeightMatrix: triangles [dft_length // 2 + 1, num_mel_bins] with peaks of 1, evenly spaced in mel.

    Edges fall on whole bins, as in ONNX Runtime and onnx.reference; the mel step takes the number of edges.
    """
    count, length = int(num_mel_bins), int(dft_length)
    low, high = (2595 * math.log10(1 + float(edge) / 700) for edge in (lower_edge_hertz, upper_edge_hertz))
    mels = torch.arange(count + 2, dtype=torch.float64) * ((high - low) / (count + 2)) + low
    hertz = 700 * (10 ** (mels / 2595) - 1)
    edges = ((length + 1) * hertz / int(sample_rate)).floor()
    left, peak, right = edges[:-2], edges[1:-1], edges[2:]
    bins = torch.arange(length // 2 + 1, dtype=torch.float64)[:, None]
    rising = torch.where(peak > left, (bins - left) / (peak - left).clamp(min=1), (bins == peak).double())
    falling = (right - bins) / (right - peak).clamp(min=1)
    inside = (bins >= left) & (bins <= peak)
    weights = torch.where((bins >= peak) & (bins < right), falling, torch.where(inside, rising, 0.0))
    return weights.to(device=num_mel_bins.device, dtype=DType(output_datatype).torch)


def infer_mel_weight_matrix(node: Node) -> list[ValueType]:
    """Type rule of MelWeightMatrix."""
    rows = D.add(D.floor_div(_scalar(node.input(1)), 2), 1)
    return [TensorType(DType(attribute(node, "output_datatype")), (rows, _scalar(node.input(0))))]


register(
    Operator("MelWeightMatrix", infer_mel_weight_matrix, mel_weight_matrix),
    Operator("DFT", infer_dft, dft),
    Operator("STFT", infer_stft, stft),
    Operator("HannWindow", infer_window, hann_window),
    Operator("HammingWindow", infer_window, hamming_window),
    Operator("BlackmanWindow", infer_window, blackman_window),
)

__all__ = ["dft", "mel_weight_matrix", "stft"]
