"""Running torch.export, and saying in one line what went wrong."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from graphopt.errors import CaptureError, GraphoptError
from graphopt.frontends.dynamic import Example
from graphopt.frontends.recurrent import whole_recurrent_layers
from graphopt.frontends.source import current_user_line, user_frame, user_line

_SHAPES_LOG = "torch.fx.experimental.symbolic_shapes"


def export(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], shapes: Any, examples: Sequence[Example]
) -> ExportedProgram:
    """``torch.export.export`` in evaluation mode.

    Raises:
        CaptureError: whatever torch had to say, with the place in the user's source.
    """
    with evaluation(module), quiet(), _unmarked(args, kwargs):
        try:
            return _export(module, args, kwargs, shapes)
        except GraphoptError:
            raise
        except Exception as error:  # torch raises whatever the user's code and its own tracer raise
            reason = _reason(error, lambda: _decisions(module, args, kwargs, shapes), examples)
            raise reason from error


def _export(module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], shapes: Any) -> ExportedProgram:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with whole_recurrent_layers(module):
            return torch.export.export(module, args, dict(kwargs), dynamic_shapes=shapes, strict=False)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def _unmarked(*arguments: Any) -> Iterator[None]:
    """Takes away the marks that a trace that fails leaves on the caller's tensors: the next would mistake them."""
    tensors = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, torch.Tensor)]
    before = [set(vars(tensor)) for tensor in tensors]
    try:
        yield
    finally:
        for tensor, known in zip(tensors, before, strict=True):
            for name in [name for name in vars(tensor) if "_dynamo_" in name and name not in known]:
                delattr(tensor, name)


@contextlib.contextmanager
def evaluation(module: torch.nn.Module) -> Iterator[None]:
    """Puts a module into evaluation mode and every submodule back into its own afterwards."""
    modes = [(each, each.training) for each in module.modules()]
    try:
        for each, training in modes:
            if training:
                each.training = False
        yield
    finally:
        for each, training in modes:
            each.training = training


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps torch's own chatter about tracing from the terminal; what matters of it is in the errors."""
    logger = logging.getLogger("torch")
    level = logger.level
    shapes = logging.getLogger(_SHAPES_LOG)
    shapes_level = shapes.level
    logger.setLevel(logging.CRITICAL)
    shapes.setLevel(logging.CRITICAL)
    try:
        # It also prints the graph of a failed trace.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        shapes.setLevel(shapes_level)


# -- what went wrong


def _reason(
    error: Exception, decisions: Callable[[], Mapping[int, str | None]], examples: Sequence[Example]
) -> CaptureError:
    text = str(error)
    if type(error).__name__ == "GuardOnDataDependentSymNode" or "data-dependent" in text:
        place = user_line(text) or user_frame(error)
        return CaptureError(
            "data-dependent control flow: Python decides by the contents of a tensor",
            where=place,
            hint="use torch.where or torch.cond for the decision, or capture a submodule without it",
        )
    fixed = _specialised(text, examples)
    if fixed is not None:
        what, size = fixed
        return CaptureError(
            f"{what} cannot be dynamic: the module's code fixes it to the example's size",
            where=decisions().get(size),
            hint="leave it out of dynamic, or take the size from the tensor's shape there",
        )
    strange = _STRANGE.search(text)
    if strange is not None:
        return CaptureError(
            f"forward returns a {strange[1].rpartition('.')[2]}, which torch cannot take apart",
            where=strange[1],
            hint="register it with torch.export.register_dataclass, or return a tuple or a dict",
        )
    return CaptureError(
        f"torch.export: {type(error).__name__}: {_first_sentence(text)}",
        where=user_line(text) or user_frame(error),
        hint="run the module on the example arguments, and torch.export.draft_export for a full report",
    )


_STRANGE = re.compile(r"Found <class '([^']+)'> in output, which is not a known type")


def _first_sentence(text: str) -> str:
    """The first line, with those that it announces."""
    said: list[str] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        said.append(line)
        if not line.endswith(":"):
            break
    return " ".join(said)


_MARKED = re.compile(r"marked (\S.*?) as dynamic but your code specialized it to be a constant \((\d+)\)")
_HINTED = re.compile(r"specialized due to hint of (\d+) for dimension inputs(\S+)\.shape\[(\d+)\]")
_INFERRED = re.compile(r"valid because (\S.*?) was inferred to be a constant \((\d+)\)")  # torch 2.6
_SOURCE = re.compile(r"L(\S+?)\.size\(\)\[(\d+)\]$")


def _specialised(text: str, examples: Sequence[Example]) -> tuple[str, int] | None:
    """Which dimension torch took for fixed, in words, and at which size."""
    hinted = _HINTED.search(text)
    if hinted:
        return _dimension(hinted[2], int(hinted[3]), examples), int(hinted[1])
    marked = _MARKED.search(text) or _INFERRED.search(text)
    if marked is None:
        return None
    source = _SOURCE.search(marked[1])
    if source is None:
        return f"dimension '{marked[1]}'", int(marked[2])
    return _dimension(source[1], int(source[2]), examples), int(marked[2])


def _dimension(keys: str, dim: int, examples: Sequence[Example]) -> str:
    parts = re.findall(r"\[['\"]?([^\]'\"]+)['\"]?\]", keys)
    name = ".".join(parts)
    example = next((e for e in examples if e.name == name), None)
    if example is None and parts[:2] == ["args", "0"] and all(len(e.path) == 1 for e in examples):
        example = examples[int(parts[2])]  # torch 2.6 counts arguments instead of naming them
        name = example.name
    label = example.names.get(dim) if example is not None else None
    return f"dimension {dim} of input '{name}'" + (f" ('{label}')" if label else "")


_FIXED = re.compile(r"set_replacement \S+ = (\d+) ")


def _decisions(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], shapes: Any
) -> dict[int, str | None]:
    """Where in the user's source sizes were fixed, by size: traces again, listening to what torch logs."""
    places: dict[int, str | None] = {}

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fixed = _FIXED.match(record.getMessage())
            if fixed:
                places.setdefault(int(fixed[1]), current_user_line())

    logger = logging.getLogger(_SHAPES_LOG)
    handlers, level, upward = logger.handlers, logger.level, logger.propagate
    logger.handlers = [Listener()]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        with contextlib.suppress(Exception):
            _export(module, args, kwargs, shapes)
    finally:
        logger.handlers = handlers
        logger.setLevel(level)
        logger.propagate = upward
    return places
