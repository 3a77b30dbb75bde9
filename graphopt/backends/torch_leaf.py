"""Operators as functions that generated code can name and pickle can find.

An operator record whose computation is no module-level function (it comes out of a factory, say) gets one here, under
the operator's name: ``graphopt.backends.torch_leaf.ReduceL2``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.fx.node import _get_qualified_name

from graphopt.errors import DataError
from graphopt.ops import Operator, find

_FUNCTIONS: dict[str, Callable[..., Any]] = {}


def leaf(record: Operator) -> Callable[..., Any]:
    """The computation of a record, as a function that can be found again by its qualified name."""
    compute = record.compute
    assert compute is not None
    return compute if _is_findable(compute) else _named(record.name, record.domain)


def _is_findable(function: Callable[..., Any]) -> bool:
    if not hasattr(function, "__name__"):
        return False
    module, _, name = _get_qualified_name(function).rpartition(".")
    return getattr(sys.modules.get(module or "builtins"), name, None) is function


def _named(op: str, domain: str) -> Callable[..., Any]:
    name = f"{domain}__{op}".replace(".", "_") if domain else op
    if name not in _FUNCTIONS:
        record = find(op, domain)
        if record is None or record.compute is None:
            raise AttributeError(name)
        compute = record.compute

        def function(*args: Any, **kwargs: Any) -> Any:
            return compute(*args, **kwargs)

        function.__name__ = function.__qualname__ = name
        _FUNCTIONS[name] = function
    return _FUNCTIONS[name]


def __getattr__(name: str) -> Callable[..., Any]:
    if name.startswith("__"):
        raise AttributeError(name)
    domain, _, op = name.rpartition("__")
    return _named(op, domain)


def first(result: Any) -> Any:
    """The first entry of a tuple, or what is no tuple."""
    return result[0] if isinstance(result, tuple) else result


def or_default(given: torch.Tensor | None, default: torch.Tensor) -> torch.Tensor:
    """The value of an input that a caller may leave out."""
    return default if given is None else given


def expect(given: Any, literal: Any, name: str) -> None:
    """Refuses a Python argument other than the one that the model was captured with.

    Raises:
        DataError: `given` is not `literal`.
    """
    if given is not literal and given != literal:
        raise DataError(
            f"argument '{name}' is {given!r}, but the model was captured with {literal!r}",
            hint="capture the model again with the value that you need",
        )


__all__ = ["expect", "first", "leaf", "or_default"]
