"""The table of converters: which function turns a torch operator into canonical ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

#: Takes the builder, then the operator's arguments under torch's own names: a `Value` for each tensor and each size
#: that is not a number. Returns a `Value`, or a tuple of them for an operator with several results.
Converter: TypeAlias = Callable[..., Any]

_F = TypeVar("_F", bound=Converter)
_TABLE: dict[str, Converter] = {}


class NoConversion(Exception):
    """Raised by a converter that has no canonical form for these arguments; the reason is the message."""


def converts(*targets: str) -> Callable[[_F], _F]:
    """Registers a converter for torch operators given by full name (``"aten.relu.default"``).

    Raises:
        ValueError: there is a converter for one of them already.
    """

    def register(converter: _F) -> _F:
        for target in targets:
            if target in _TABLE:
                raise ValueError(f"there are two converters for {target}")
            _TABLE[target] = converter
        return converter

    return register


def find_converter(target: str) -> Converter | None:
    """The converter of a torch operator, or ``None``."""
    return _TABLE.get(target)


def converted() -> list[str]:
    """The names of all torch operators that have a converter."""
    return sorted(_TABLE)


def target_name(target: Any) -> str:
    """The name under which an fx target is looked up: ``aten.add.Tensor``, ``_operator.mul``, ``higher_order.cond``."""
    if hasattr(target, "_schema"):
        return str(target)
    if type(target).__name__.endswith("HigherOrderOperator") or hasattr(target, "py_kernels"):
        return f"higher_order.{target.name() if callable(target.name) else target._name}"
    return f"{target.__module__}.{target.__name__}"
