"""Tensors whose bytes lie in other files beside an ONNX model."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx

from graphopt.errors import LoadError


class ExternalData:
    """Memory maps of the files beside a model; nothing is read before somebody looks at a tensor.

    Attributes:
        folder: the folder that locations are relative to.
        allowed: real paths of the folders that data may lie in: that of the path as given, and the one that a model
            which is itself a symbolic link points into (as in the cache of the Hugging Face hub).
    """

    def __init__(self, folder: str | os.PathLike[str], model: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(folder)
        self.allowed = [os.path.realpath(folder)]
        if model is not None:
            self.allowed.append(os.path.dirname(os.path.realpath(model)))
        self._maps: dict[str, np.ndarray] = {}

    def __call__(self, proto: onnx.TensorProto, size: int) -> np.ndarray:
        """The bytes of a tensor, uint8 [size], mapped copy-on-write.

        Raises:
            LoadError: the entry is malformed, leaves the model's folder, or asks for bytes that the file has not.
        """
        entries = {entry.key: entry.value for entry in proto.external_data}
        location = entries.get("location", "")
        where = f"tensor '{proto.name}'"
        mapped = self._map(location, where)
        offset = _number(entries, "offset", 0, where)
        length = _number(entries, "length", size, where)
        if length != size:
            raise LoadError(f"external data has {length} bytes where {size} are needed", where=where)
        if offset + size > mapped.size:
            raise LoadError(
                f"external file '{location}' is too short: {mapped.size} bytes, {offset + size} are needed",
                where=where,
                hint="the file is incomplete; fetch it again",
            )
        return mapped[offset : offset + size]

    def _map(self, location: str, where: str) -> np.ndarray:
        if location in self._maps:
            return self._maps[location]
        if not location:
            raise LoadError("external data without a location", where=where)
        path = self.folder / location
        real = os.path.realpath(path)
        if os.path.isabs(location) or not any(_inside(real, folder) for folder in self.allowed):
            raise LoadError(f"external file '{location}' lies outside the model's folder", where=where)
        try:
            mapped = np.asarray(np.memmap(path, np.uint8, mode="c")) if os.path.getsize(path) else np.empty(0, np.uint8)
        except OSError as error:
            reason = error.strerror or str(error)
            raise LoadError(f"external file '{location}' cannot be read: {reason}", where=where) from None
        self._maps[location] = mapped
        return mapped


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _number(entries: dict[str, str], key: str, default: int, where: str) -> int:
    written = entries.get(key, "")
    if not written:
        return default
    if not written.isdecimal():
        raise LoadError(f"external data has the {key} '{written}', which is no size", where=where)
    return int(written)
