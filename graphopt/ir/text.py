"""The text form of a graph: readable, and read back to an equal graph.

    graphopt 1
    graph "main" (
        %x: float32[batch, 3, 8, 8]
      ) {
      %w: float32[4, 3, 1, 1] = dense<[[[[0.5]], ...> parameter "conv.weight"
      %"conv:0": float32[batch, 4, 8, 8] = Conv(%x, %w, none) {strides = [1, 1]} in "conv" by ["fuse"]
      %#1: bool[] = Greater(%limit, %zero)
      %y: float32[batch, 4, 8, 8] = If(%#1) {then_branch = graph "then" () {...}, else_branch = ...}
      return %y as "logits"
    }

One statement defines constants (``dense<...>``) or the outputs of a node; ``none`` is an input that is left out, ``_``
an output that is. Names of values are their labels; ``#2`` tells a second value of the same name, ``%#1`` one without
a name. Constants of up to 16 elements are written out, exactly; larger ones as ``dense<"key">``, with the tensor in a
safetensors file beside the text. After a node follow its name, where it came from (``in`` a module, ``from`` nodes of a
file, touched ``by`` passes), ``doc`` and ``meta``. ``//`` begins a comment.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from graphopt.errors import LoadError, SaveError
from graphopt.ir.dense import flat
from graphopt.ir.expect import expect_graph, expect_path, kind_of
from graphopt.ir.graph import Graph
from graphopt.ir.lexer import Lexer
from graphopt.ir.parser import Parser
from graphopt.ir.printer import Printer

__all__ = ["parse", "print_graph", "read_text", "write_text"]

# What every version of safetensors knows; other element types are stored as bytes.
_STORABLE = frozenset(
    (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
     torch.uint8, torch.bool)
)  # fmt: skip


def print_graph(graph: Graph, weights: bool = False) -> str:
    """The text form of `graph`; O(size of the graph).

    Args:
        graph: the graph, with its bodies.
        weights: write out the elements of large constants too.
    """
    return Printer(weights).document(graph)


def parse(text: str, weights: Mapping[str, torch.Tensor] | None = None) -> Graph:
    """Reads a graph from its text form.

    Args:
        text: what `print_graph` wrote, or a person.
        weights: the tensors that were elided; without them they come back on the meta device.

    Raises:
        LoadError: the text is malformed (with line and column), or names weights that are not there.
    """
    if not isinstance(text, str):
        raise LoadError(f"{kind_of(text)} is no text", where="parse", hint="give what str(graph) returns")
    try:
        return Parser(Lexer(text), weights).document()
    except RecursionError:
        raise LoadError("the text is nested too deeply") from None


def write_text(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Writes the text form to `path`, and its large constants to ``<path>.safetensors``; atomically.

    Raises:
        SaveError: the files cannot be written.
    """
    expect_graph(graph, "write_text")
    path = expect_path(path, "write_text", SaveError)
    printer = Printer()
    text = printer.document(graph)
    if printer.elided:
        _atomically(weights_path(path), lambda file: save_file(_storable(printer.elided), file))
    _atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def read_text(path: str | os.PathLike[str]) -> Graph:
    """Reads what `write_text` wrote. Without the file of the weights they come back on the meta device.

    Raises:
        LoadError: a file cannot be read, or is malformed.
    """
    path = expect_path(path, "read_text", LoadError)
    side = weights_path(path)
    try:
        text = path.read_text(encoding="utf-8")
        weights = load_file(side) if side.exists() else None
    except (OSError, UnicodeDecodeError, SafetensorError) as error:
        raise LoadError(f"cannot read the text form: {error}", where=str(path)) from error
    try:
        return parse(text, weights)
    except LoadError as error:
        raise LoadError(error.what, where=f"{path}, {error.where}" if error.where else str(path)) from error


def weights_path(path: str | os.PathLike[str]) -> Path:
    """Where the weights of the text form at `path` are."""
    return Path(f"{os.fspath(path)}.safetensors")


def _atomically(path: Path, write: Callable[[Path], object]) -> None:
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".graphopt-") as folder:
            draft = Path(folder) / path.name
            write(draft)
            os.replace(draft, path)
    except (OSError, SafetensorError) as error:
        raise SaveError(f"cannot write: {error}", where=str(path)) from error


def _storable(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    stored: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for key, tensor in tensors.items():
        plain = tensor.detach().cpu().resolve_conj().contiguous()
        if plain.dtype not in _STORABLE:
            plain = flat(plain).view(torch.uint8)
        storage = plain.untyped_storage().data_ptr()
        # safetensors refuses tensors that share memory.
        stored[key] = plain.clone() if storage in storages else plain
        storages.add(storage)
    return stored
