"""Weights inside an ONNX file, without reading the file as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from graphopt.errors import LoadError
from graphopt.ops.protos import ReadExternal, borrow, element_type
from graphopt.ops.wire import IN_FILE, without_weights

#: Files (and bytes) beyond this size are taken apart; parsing them whole takes three times their size.
TAKEN_APART = 1 << 24
#: Files beyond this size stay mapped: who overwrites one in place then changes the graphs that were read from it.
MAPPED = 1 << 28


class EmbeddedData:
    """Reads the weights that `without_weights` left in a file, and others from where their entries say.

    A weight is a buffer of its own, read when it is asked for. In a file beyond `MAPPED`, and in bytes, a weight that
    is aligned to its elements stays where it is.

    Args:
        source: path of the file, or its bytes.
        elsewhere: reads other external data.

    Attributes:
        data: the whole file, uint8 [size].
    """

    def __init__(self, source: Path | bytes, elsewhere: ReadExternal | None) -> None:
        self._path = source if isinstance(source, Path) else None
        self._elsewhere = elsewhere
        self.data: np.ndarray = (
            borrow(source) if isinstance(source, bytes) else np.asarray(np.memmap(source, np.uint8, "c"))
        )

    def model(self) -> bytes:
        """The serialized model without the weights. Raises ValueError when it is malformed."""
        return without_weights(self.data.data)

    def __call__(self, proto: onnx.TensorProto, size: int) -> np.ndarray:
        """The bytes of a tensor, uint8 [size]. Raises LoadError when there are more, fewer, or none."""
        entries = {entry.key: entry.value for entry in proto.external_data}
        label = f"tensor '{proto.name}'"
        if entries.get("location") != IN_FILE:
            if self._elsewhere is None:
                raise LoadError(f"{label} is kept in another file", hint="load by path, or say folder=")
            return self._elsewhere(proto, size)
        offset, length = int(entries["offset"]), int(entries["length"])
        if length != size:
            dtype = element_type(proto.data_type, label)
            raise LoadError(f"{label} has {length} bytes of data, {dtype}{list(proto.dims)} takes {size}")
        part = self.data[offset : offset + size]
        itemsize = max(element_type(proto.data_type, label).bits // 8, 1)
        stays = self._path is None or self.data.size > MAPPED
        if self._path is None or (stays and part.__array_interface__["data"][0] % itemsize == 0):
            return part
        return np.fromfile(self._path, np.uint8, size, offset=offset)
