"""Context data: the samples that calibration, training and checks read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphopt.errors import DataError, nearest
from graphopt.ir import DType, Graph, TensorType

#: Keys under which a mapping may hold the labels.
LABEL_KEYS = ("labels", "label", "target", "targets", "y")


@dataclass(frozen=True)
class Batch:
    """Tensors for the inputs of a graph, in order, and the labels when there are any."""

    inputs: tuple[torch.Tensor, ...]
    labels: torch.Tensor | None = None


class Data:
    """Samples for a graph, read any number of times.

    Args:
        source: an iterable of batches (a list, a DataLoader, a generator - which is read once and kept), or the path
            of an .npz file, or of a folder of .npy files, whose arrays are named as the graph's inputs and hold one
            sample per row. A batch is a tensor, a tuple in the order of the inputs with the labels after them when
            there is one more, or a mapping by input name with the labels under "labels", "label", "target" or "y".
        graph: the graph whose inputs the samples must fit.
        batch_size: rows per batch for arrays read from files.
    """

    def __init__(self, source: Iterable[Any] | str | Path, graph: Graph, batch_size: int = 32) -> None:
        self.names = [value.name for value in graph.inputs]
        self._types = [value.tensor_type for value in graph.inputs]
        if isinstance(source, (str, Path)):
            self._source: Iterable[Any] = list(_read_arrays(Path(source), self._batch_size(batch_size)))
        elif isinstance(source, Mapping):
            self._source = [source]
        elif iter(source) is source:
            self._source = list(source)
        else:
            self._source = source

    def _batch_size(self, wanted: int) -> int:
        fixed = [t.shape[0] for t in self._types if t.shape and isinstance(t.shape[0], int)]
        return fixed[0] if fixed else wanted

    def __iter__(self) -> Iterator[Batch]:
        """The batches, each checked. Raises DataError for one that does not fit, naming the array and the mend."""
        empty = True
        for number, raw in enumerate(self._source):
            empty = False
            yield self._batch(raw, number)
        if empty:
            raise DataError("the data holds no samples", hint="give at least one batch")

    def first(self) -> Batch:
        """The first batch."""
        return next(iter(self))

    def _batch(self, raw: Any, number: int) -> Batch:
        where = f"batch {number}"
        if isinstance(raw, Mapping):
            inputs, labels = self._from_mapping(raw, where)
        else:
            items = list(raw) if isinstance(raw, (tuple, list)) else [raw]
            if len(items) not in (len(self.names), len(self.names) + 1):
                raise DataError(
                    f"a batch of {len(items)} arrays for {len(self.names)} inputs", where=where,
                    hint=f"give {', '.join(self.names)} and, at most, the labels",
                )  # fmt: skip
            inputs, labels = items[: len(self.names)], (items[len(self.names) :] or [None])[0]
        tensors = [
            _checked(item, kind, name, where) for item, kind, name in zip(inputs, self._types, self.names, strict=True)
        ]
        return Batch(tuple(tensors), None if labels is None else _tensor(labels, "labels", where))

    def _from_mapping(self, raw: Mapping[str, Any], where: str) -> tuple[list[Any], Any]:
        label_key = next((key for key in LABEL_KEYS if key in raw and key not in self.names), None)
        for name in raw:
            if name not in self.names and name != label_key:
                hint = nearest(name, self.names) or f"the inputs are: {', '.join(self.names)}"
                raise DataError(f"array '{name}' names no input of the model", where=where, hint=hint)
        for name in self.names:
            if name not in raw:
                raise DataError(f"there is no array for input '{name}'", where=where, hint=f"add an array '{name}'")
        return [raw[name] for name in self.names], raw[label_key] if label_key else None


def _tensor(item: Any, name: str, where: str) -> torch.Tensor:
    if isinstance(item, torch.Tensor):
        return item
    try:
        return torch.as_tensor(np.asarray(item))
    except (TypeError, ValueError) as error:
        raise DataError(f"array '{name}' is not numeric: {error}", where=where) from error


def _checked(item: Any, kind: TensorType, name: str, where: str) -> torch.Tensor:
    tensor = _tensor(item, name, where)
    if kind.dtype is not DType.UNDEFINED and tensor.dtype != kind.dtype.torch:
        raise DataError(
            f"array '{name}' has element type {str(tensor.dtype).removeprefix('torch.')}, the input wants {kind.dtype}",
            where=where, hint=f"convert it to {kind.dtype}",
        )  # fmt: skip
    wanted = kind.shape
    if wanted is not None and not _fits(tensor.shape, wanted):
        raise DataError(
            f"array '{name}' has shape {list(tensor.shape)}, the input wants {kind.with_shape(wanted)}",
            where=where, hint="give samples of that shape, or capture the model with dynamic dimensions",
        )  # fmt: skip
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise DataError(f"array '{name}' holds NaN or infinity", where=where, hint="remove the samples that hold them")
    return tensor


def _fits(shape: Sequence[int], wanted: Sequence[Any]) -> bool:
    return len(shape) == len(wanted) and all(
        not isinstance(w, int) or w == s for s, w in zip(shape, wanted, strict=True)
    )


def _read_arrays(path: Path, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    arrays = _load_arrays(path)
    lengths = {name: (array.shape[0] if array.ndim else 0) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"the arrays differ in length: {lengths}", where=str(path), hint="one row per sample in each")
    rows = next(iter(lengths.values()), 0)
    whole = rows if rows < batch_size else rows - rows % batch_size
    for start in range(0, whole, batch_size):
        yield {name: array[start : start + batch_size] for name, array in arrays.items()}


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise DataError(f"no such file: {path}", hint="give an .npz file or a folder of .npy files")
    try:
        if path.is_dir():
            return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in sorted(path.glob("*.npy"))}
        with np.load(path, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise DataError(f"{path} holds a single array", hint="save with numpy.savez(path, input_name=array)")
            return {name: archive[name] for name in archive.files}
    except DataError:
        raise
    except Exception as error:  # numpy raises whatever zipfile, pickle or the header parser raise
        raise DataError(
            f"{path} cannot be read as numpy arrays ({type(error).__name__}: {error})",
            hint="save it with numpy.savez(path, input_name=array)",
        ) from error
