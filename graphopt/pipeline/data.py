"""Context data: the samples that calibration, training and checks read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphopt.analysis.cost import named_sizes, sample_sizes
from graphopt.errors import DataError, nearest
from graphopt.ir import DType, Graph, Value
from graphopt.ir.expect import expect_path, kind_of
from graphopt.pipeline.arrays import load_arrays

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
        self.inputs = tuple(graph.inputs)
        self._required = [value for value in self.inputs if value.data is None]
        self.names = [value.name for value in self._required]
        if isinstance(source, (str, Path)):
            self._source: Iterable[Any] = list(
                _read_arrays(expect_path(source, "data", DataError), *self._batch_size(batch_size))
            )
        elif isinstance(source, (Mapping, torch.Tensor, np.ndarray)):
            self._source = [source]
        elif hasattr(source, "__next__"):
            self._source = list(source)
        elif hasattr(source, "__iter__") or hasattr(source, "__getitem__"):
            self._source = source
        else:
            raise DataError(f"{kind_of(source)} is no data", hint="give an iterable of batches, or a file")

    def _batch_size(self, wanted: int) -> tuple[int, bool]:
        """Rows per batch, and whether the graph takes no other number."""
        shapes = [value.shape for value in self._required]
        fixed = [shape[0] for shape in shapes if shape and isinstance(shape[0], int)]
        return (fixed[0], True) if fixed else (wanted, False)

    def __iter__(self) -> Iterator[Batch]:
        """The batches, each checked. Raises DataError for one that does not fit, naming the array and the mend."""
        empty = True
        for number, raw in enumerate(self._source):
            empty = False
            yield self._batch(raw, f"batch {number}")
        if empty:
            raise DataError("the data holds no samples", hint="give at least one batch")

    def first(self) -> Batch:
        """The first batch."""
        return next(iter(self))

    def sizes(self) -> dict[str, int]:
        """Sizes of the named dimensions of one sample, as of the first batch; read only where there are any."""
        if not named_sizes(self.inputs):
            return {}
        return sample_sizes(self.inputs, self.first().inputs)

    def _batch(self, raw: Any, where: str) -> Batch:
        arrays, labels = self._from_mapping(raw, where) if isinstance(raw, Mapping) else self._in_order(raw, where)
        sizes: dict[str, tuple[int, str]] = {}
        tensors = []
        for value in self.inputs:
            if value in arrays:
                tensor = _checked(arrays[value], value, where)
                _bind(sizes, tensor, value, where)
            else:
                tensor = value.data  # type: ignore[assignment]  # inputs without a default are all there
            tensors.append(tensor)
        return Batch(tuple(tensors), None if labels is None else _labels(labels, tensors, where))

    def _in_order(self, raw: Any, where: str) -> tuple[dict[Value, Any], Any]:
        items = list(raw) if isinstance(raw, (tuple, list)) else [raw]
        needed = self._required
        if len(items) not in (len(needed), len(needed) + 1):
            raise DataError(
                f"a batch of {len(items)} arrays for {len(needed)} inputs", where=where,
                hint=f"give {', '.join(self.names)} and, at most, the labels",
            )  # fmt: skip
        labels = items[len(needed)] if len(items) > len(needed) else None
        return dict(zip(needed, items, strict=False)), labels

    def _from_mapping(self, raw: Mapping[str, Any], where: str) -> tuple[dict[Value, Any], Any]:
        by_name = {value.name: value for value in self.inputs}
        label_key = next((key for key in LABEL_KEYS if key in raw and key not in by_name), None)
        for name in raw:
            if name not in by_name and name != label_key:
                hint = nearest(str(name), by_name) or f"the inputs are: {', '.join(by_name)}"
                raise DataError(f"array '{name}' names no input of the model", where=where, hint=hint)
        for name in self.names:
            if name not in raw:
                raise DataError(f"there is no array for input '{name}'", where=where, hint=f"add an array '{name}'")
        return {by_name[name]: raw[name] for name in raw if name != label_key}, raw[label_key] if label_key else None


def _tensor(item: Any, name: str, where: str) -> torch.Tensor:
    if isinstance(item, torch.Tensor):
        if item.layout != torch.strided:
            raise DataError(f"array '{name}' is sparse ({item.layout})", where=where, hint="give tensor.to_dense()")
        return item
    try:
        array = np.asarray(item)
        return torch.as_tensor(array if array.flags.writeable else array.copy())
    except (TypeError, ValueError) as error:
        raise DataError(
            f"array '{name}' is not numeric: {error}", where=where, hint="give an array of numbers"
        ) from error


def _checked(item: Any, value: Value, where: str) -> torch.Tensor:
    name, kind = value.name, value.tensor_type
    tensor = _tensor(item, name, where)
    if kind.dtype not in (DType.UNDEFINED, DType.STRING) and tensor.dtype != kind.dtype.torch:
        raise DataError(
            f"array '{name}' has element type {str(tensor.dtype).removeprefix('torch.')}, the input wants {kind.dtype}",
            where=where, hint=f"convert it to {kind.dtype}",
        )  # fmt: skip
    if kind.shape is not None and not _fits(tensor.shape, kind.shape):
        raise DataError(
            f"array '{name}' has shape {list(tensor.shape)}, the input wants {kind}",
            where=where, hint=_shape_hint(tensor.shape, kind.shape),
        )  # fmt: skip
    _check_finite(tensor, name, where)
    return tensor


def _shape_hint(shape: Sequence[int], wanted: Sequence[Any]) -> str:
    if len(shape) + 1 == len(wanted) and _fits(shape, wanted[1:]):
        return "it is a single sample: give batches, such as torch.utils.data.DataLoader(dataset, batch_size=32)"
    return "give samples of that shape, or capture the model with dynamic dimensions"


def _check_finite(tensor: torch.Tensor, name: str, where: str) -> None:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise DataError(f"array '{name}' holds NaN or infinity", where=where, hint="remove the samples that hold them")


def _bind(sizes: dict[str, tuple[int, str]], tensor: torch.Tensor, value: Value, where: str) -> None:
    """A named dimension has one size in all inputs of a batch."""
    for extent, dim in zip(tensor.shape, value.shape or (), strict=False):
        if isinstance(dim, int) or dim is None or not dim.is_Symbol:
            continue
        known, first = sizes.setdefault(str(dim), (extent, value.name))
        if known != extent:
            raise DataError(
                f"dimension '{dim}' is {known} in array '{first}' and {extent} in array '{value.name}'",
                where=where, hint="give as many samples in each",
            )  # fmt: skip


def _labels(item: Any, inputs: Sequence[torch.Tensor], where: str) -> torch.Tensor:
    labels = _tensor(item, "labels", where)
    _check_finite(labels, "labels", where)
    rows = next((tensor.shape[0] for tensor in inputs if tensor.dim()), None)
    if labels.dim() and rows is not None and labels.shape[0] != rows:
        raise DataError(f"{labels.shape[0]} labels for {rows} samples", where=where, hint="give one label per sample")
    return labels


def _fits(shape: Sequence[int], wanted: Sequence[Any]) -> bool:
    return len(shape) == len(wanted) and all(
        not isinstance(w, int) or w == s for s, w in zip(shape, wanted, strict=True)
    )


def _read_arrays(path: Path, batch_size: int, fixed: bool) -> Iterator[dict[str, np.ndarray]]:
    """Batches of the rows of a file's arrays; where the graph takes one size only, the rest is left out."""
    arrays = load_arrays(path)
    lengths = {name: (array.shape[0] if array.ndim else 0) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise DataError(f"the arrays differ in length: {shown}", where=str(path), hint="one row per sample in each")
    rows = next(iter(lengths.values()), 0)
    if rows == 0:
        raise DataError(f"{path} holds no samples", hint="save arrays by input name, one row per sample in each")
    whole = rows - rows % batch_size if fixed and rows > batch_size else rows
    for start in range(0, whole, batch_size):
        yield {name: array[start : start + batch_size] for name, array in arrays.items()}
