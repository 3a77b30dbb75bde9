"""Tensor elements as text, exactly: what the text form writes for a small constant, and how it is read back."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Digits tried for element types whose shortest decimal numpy does not know (bfloat16 and float8).
_DIGITS = range(1, 5)


def flat(data: torch.Tensor) -> torch.Tensor:
    """The elements in row-major order, side by side in memory on the CPU: [numel], copied only where they are not."""
    elements = data.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    # torch takes a single element for contiguous whatever its stride is, and then cannot view it as bytes.
    return elements.clone(memory_format=torch.contiguous_format) if elements.numel() == 1 else elements


def quote(text: str) -> str:
    """A string literal, read back by ``json.loads``."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def quote_bytes(data: bytes) -> str:
    """A literal for bytes."""
    return f'bytes"{base64.b64encode(data).decode("ascii")}"'


def element_texts(data: torch.Tensor | np.ndarray) -> list[str]:
    """One literal for each element of a tensor in row-major order, or of an object array of strings and bytes."""
    if isinstance(data, np.ndarray):
        return [quote_bytes(item) if isinstance(item, bytes) else quote(str(item)) for item in data.flat]
    flat = data.detach().cpu().reshape(-1)
    if flat.is_complex():
        parts = _float_texts(torch.view_as_real(flat.resolve_conj()).reshape(-1))
        return [f"({re}, {im})" for re, im in zip(parts[::2], parts[1::2], strict=True)]
    if flat.is_floating_point():
        return _float_texts(flat)
    if flat.dtype == torch.bool:
        return ["true" if item else "false" for item in flat.tolist()]
    return [str(item) for item in flat.tolist()]


def nested(texts: Sequence[str], shape: Sequence[int]) -> str:
    """Brackets around literals, as the shape has them."""
    if not shape:
        return texts[0]
    if 0 in shape:
        return "[]"
    rows = list(texts)
    for size in reversed(shape):
        rows = [f"[{', '.join(rows[i : i + size])}]" for i in range(0, len(rows), size)]
    return rows[0]


def _float_texts(flat: torch.Tensor) -> list[str]:
    if flat.dtype == torch.float64:
        texts = [repr(item) for item in flat.tolist()]
    elif flat.dtype in (torch.float32, torch.float16):
        texts = [str(item) for item in flat.numpy()]
    else:
        texts = _shortest(flat)
    texts = [text + ".0" if text.lstrip("-").isdigit() else text for text in texts]
    # Whatever does not come back to the bit (NaNs with a payload, double rounding) is written as its bits.
    wanted = flat.view(_BITS[flat.element_size()])
    unsigned = 1 << (8 * flat.element_size())
    for index in (_floats(texts, flat.dtype).view(wanted.dtype) != wanted).nonzero().reshape(-1).tolist():
        texts[index] = hex(int(wanted[index]) % unsigned)
    return texts


def _shortest(flat: torch.Tensor) -> list[str]:
    values = flat.double().tolist()
    texts: list[str] = [repr(value) for value in values]
    pending = list(range(len(values)))
    for digits in _DIGITS:
        tried = [f"{values[i]:.{digits}g}" for i in pending]
        back = _floats(tried, flat.dtype).double().tolist()
        for i, text, value in zip(pending, tried, back, strict=True):
            if value == values[i]:
                texts[i] = text
        pending = [i for i, value in zip(pending, back, strict=True) if value != values[i]]
    return texts


def _floats(texts: Sequence[str], dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor([float(text) for text in texts], dtype=torch.float64).to(dtype)


def tensor_of(elements: Sequence[Any], dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor:
    """The tensor that `element_texts` wrote.

    Args:
        elements: numbers as text (``"0x..."`` are the bits of a float), bools, or pairs of numbers for complex types.
        dtype: the torch dtype.
        shape: its shape.

    Raises:
        ValueError: an element that the dtype cannot hold, or too few or many for the shape.
    """
    if dtype.is_complex:
        real = torch.float32 if dtype == torch.complex64 else torch.float64
        parts = [part for element in elements for part in _pair(element)]
        return torch.view_as_complex(_float_tensor(parts, real).reshape(*shape, 2))
    if dtype.is_floating_point:
        return _float_tensor(elements, dtype).reshape(tuple(shape))
    if dtype == torch.bool:
        if not all(isinstance(element, bool) for element in elements):
            raise ValueError("elements of type bool are true and false")
        return torch.tensor(list(elements), dtype=torch.bool).reshape(tuple(shape))
    return _integer_tensor(elements, dtype).reshape(tuple(shape))


def _pair(element: Any) -> tuple[Any, Any]:
    if not isinstance(element, tuple):
        raise ValueError("elements of a complex type are pairs (real, imaginary)")
    return element[0], element[1]


def _float_tensor(elements: Sequence[Any], dtype: torch.dtype) -> torch.Tensor:
    if not all(isinstance(element, str) for element in elements):
        raise ValueError("elements of a floating-point type are numbers")
    bits = {i: int(element, 16) for i, element in enumerate(elements) if "x" in element}
    tensor = _floats(["0" if i in bits else element for i, element in enumerate(elements)], dtype)
    width = 8 * tensor.element_size()
    view = tensor.view(_BITS[tensor.element_size()])
    for index, value in bits.items():
        if value >> width:
            raise ValueError(f"{hex(value)} has more than {width} bits")
        signed = width > 8 and value >> (width - 1)
        view[index] = value - (1 << width) if signed else value
    return tensor


def _integer_tensor(elements: Sequence[Any], dtype: torch.dtype) -> torch.Tensor:
    if not all(isinstance(element, str) for element in elements):
        raise ValueError("elements of an integer type are numbers")
    numbers = [int(element) for element in elements]
    limits = torch.iinfo(dtype)
    beyond = next((number for number in numbers if not limits.min <= number <= limits.max), None)
    if beyond is not None:
        raise ValueError(f"{beyond} does not fit into {dtype}")
    # numpy knows all integer types in full; torch has no way to write large uint64 elements.
    return torch.from_numpy(np.array(numbers, dtype=str(dtype).removeprefix("torch.")))
