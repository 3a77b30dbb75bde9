"""What a trace assumes about open dimensions: torch keeps it as Python text over the inputs' sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from types import CodeType
from typing import Any

import sympy
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils._sympy.printers import PythonPrinter

from graphopt.errors import CaptureError
from graphopt.frontends.dynamic import Example
from graphopt.frontends.symbols import expression, is_open

_SOURCE = re.compile(r"L((?:\[[^\]]+\])+)\.size\(\)\[(\d+)\]")
_KEY = re.compile(r"\['?([^\]']+)'?\]")
# Tracing takes sizes for neither 0 nor 1; the graph works there all the same.
_ABOUT_ONE = re.compile(r"(!= [01]|>= [012])$")
# As far as sizes are tried. A divisor of a size may be larger than most sizes are.
_TRIED, _TRIED_FOR_DIVISORS = range(2, 1025), range(2, 1 << 14)


_BUILTINS = {"max": max, "min": min, "abs": abs, "float": float, "int": int}


class OtherWayError(CaptureError):
    """The trace, made with larger sizes than the example's, does not hold for the example."""


def assumptions(program: ExportedProgram, examples: Sequence[Example]) -> list[str]:
    """The conditions under which the traced graph is the module, in the names of the dimensions.

    Raises:
        CaptureError: the example, with its own sizes, does not meet one, or hardly any size does.
    """
    by_name = {example.name: example for example in examples}
    found = []
    for guard in _conditions(program, examples):
        if _ABOUT_ONE.search(guard):
            continue
        text = _SOURCE.sub(lambda match: _label(match, by_name), guard)
        left, equals, right = text.partition(" == ")
        if equals and left == right:  # two inputs of one name, which says as much
            continue
        _check_open(guard, text, by_name)
        _check_example(guard, text, by_name)
        found.append(text)
    return found


def _conditions(program: ExportedProgram, examples: Sequence[Example]) -> Sequence[str]:
    """The conditions as Python text over ``L['x'].size()[0]``; torch up to 2.8 keeps them with its symbols only."""
    written: Sequence[str] | None = getattr(program, "_guards_code", None)
    if written is not None:
        return written
    places: dict[Any, Any] = {}
    environment: Any = None
    for node, example in zip(_placeholders(program), examples, strict=True):
        traced = node.meta.get("val")
        sizes: Sequence[Any] = traced.shape if isinstance(traced, torch.Tensor) else ()
        for dim, size in enumerate(sizes):
            if is_open(size) and expression(size).is_Symbol:
                environment = size.node.shape_env
                places.setdefault(expression(size), sympy.Symbol(f"L['{example.name}'].size()[{dim}]"))
    if environment is None:
        return ()
    found = [environment.replace(guard.expr) for guard in environment.guards]
    mine = [expr.xreplace(places) for expr in found if expr.free_symbols and expr.free_symbols <= places.keys()]
    return list(dict.fromkeys(PythonPrinter().doprint(expr) for expr in mine))


def _placeholders(program: ExportedProgram) -> list[fx.Node]:
    """The nodes of the user's inputs."""
    kinds = {spec.arg.name: spec.kind for spec in program.graph_signature.input_specs}
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    return [node for node in nodes if kinds[node.name] == InputKind.USER_INPUT]


def holds(assumed: str, sizes: Mapping[str, int]) -> bool:
    """Whether sizes meet what a graph assumes.

    Args:
        assumed: the conditions, as the graph's metadata have them: ``"n % 2 == 0; n > 3"``.
        sizes: by the name of the dimension. Conditions about others count as met.
    """
    return all(_holds(text, **sizes) for text in assumed.split("; ") if text)


def _place(match: re.Match[str], by_name: dict[str, Example]) -> tuple[Example | None, int]:
    return by_name.get(".".join(_KEY.findall(match[1]))), int(match[2])


def _label(match: re.Match[str], by_name: dict[str, Example]) -> str:
    example, dim = _place(match, by_name)
    if example is None:
        return match[0]
    return example.names.get(dim, f"{example.name}_{dim}")


def _check_example(guard: str, text: str, by_name: dict[str, Example]) -> None:
    def size(match: re.Match[str]) -> str:
        example, dim = _place(match, by_name)
        known = example is not None and isinstance(example.value, torch.Tensor)
        return str(example.value.shape[dim]) if known and example is not None else "?"

    concrete = _SOURCE.sub(size, guard)
    if "?" not in concrete and not _holds(concrete):
        raise OtherWayError(
            f"the module takes another way where {text} does not hold, as in the example",
            hint="give an example of the sizes that are wanted, or leave the dimension out of dynamic",
        )


def _check_open(guard: str, text: str, by_name: dict[str, Example]) -> None:
    if " == " not in guard or not any(_place(match, by_name)[0] for match in _SOURCE.finditer(guard)):
        return
    condition = compile(_SOURCE.sub("size", guard), "<guard>", "eval")
    tried = _TRIED_FOR_DIVISORS if "%" in guard else _TRIED
    fits = [size for size in tried if _holds(condition, size=size)]
    # Sizes between a number and its double (a rounded eighth that has to be 4 allows 32 to 39) are one size, rounded.
    if not fits or max(fits) < 2 * min(fits):
        raise CaptureError(
            f"a dimension cannot be dynamic: the module's code needs {text}",
            hint="leave it out of dynamic, or compute with the tensor's shape without int() or float()",
        )


def _holds(condition: str | CodeType, **sizes: int) -> bool:
    """Evaluates a condition that torch printed, with numbers or names in the place of sizes."""
    names: dict[str, Any] = {"math": math, "torch": torch, "__builtins__": _BUILTINS, **sizes}
    try:
        return bool(eval(condition, names))
    except (ZeroDivisionError, NameError, AttributeError, TypeError, ValueError):
        return True
