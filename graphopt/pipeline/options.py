"""Options: the fields of a pass, read from text and checked before anything runs."""

from __future__ import annotations

import dataclasses
import types
import typing
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.errors import OptionError, nearest
from graphopt.pipeline.base import Pass
from graphopt.pipeline.text import format_value


@dataclasses.dataclass(frozen=True)
class OptionInfo:
    """An option of a pass.

    Attributes:
        name: as written on the command line (dashes).
        type: readable type.
        default: its text; empty when the option is required.
        doc: what it means.
    """

    name: str
    type: str
    default: str
    doc: str


_types: weakref.WeakKeyDictionary[type[Pass], Mapping[str, Any]] = weakref.WeakKeyDictionary()


def _hints(cls: type[Pass]) -> Mapping[str, Any]:
    if cls not in _types:
        _types[cls] = typing.get_type_hints(cls)
    return _types[cls]


def option_infos(cls: type[Pass]) -> list[OptionInfo]:
    """The options of a pass, in the order of its fields. Their docs come from the class docstring's Attributes."""
    hints = _hints(cls)
    docs = _field_docs(cls)
    infos = []
    for field in dataclasses.fields(cls):
        default: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        shown = "" if default is dataclasses.MISSING else str(default) if callable(default) else format_value(default)
        name = field.name.replace("_", "-")
        infos.append(OptionInfo(name, type_text(hints[field.name]), shown, docs.get(field.name, "")))
    return infos


def type_text(kind: Any) -> str:
    """A type in words for those who write options as text: ``number``, ``list of text``, ``l1 | l2``."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " | ".join(format_value(choice) for choice in args)
    if origin in (typing.Union, types.UnionType):
        return " | ".join("none" if each is type(None) else type_text(each) for each in args)
    if origin in (tuple, list):
        return f"list of {type_text(args[0])}"
    if origin in (dict, Mapping):
        return f"{{{type_text(args[0])}: {type_text(args[1])}}}"
    words = {bool: "true | false", int: "whole number", float: "number", str: "text", Path: "path", Any: "anything"}
    return words.get(kind, "from Python only")


def _field_docs(cls: type[Pass]) -> dict[str, str]:
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        lines = (base.__doc__ or "").split("\n")
        start = next((i for i, line in enumerate(lines) if line.strip() == "Attributes:"), None)
        current = ""
        for line in lines[start + 1 :] if start is not None else ():
            text = line.strip()
            head, colon, rest = text.partition(":")
            if colon and head.isidentifier() and head in vars(base).get("__annotations__", {}):
                current = head
                docs[current] = rest.strip()
            elif text and current:
                docs[current] += " " + text
            elif not text:
                current = ""
    return docs


def build(cls: type[Pass], options: Mapping[str, Any]) -> Pass:
    """Makes a pass from option names (dashes or underscores) and raw values.

    Raises:
        OptionError: an option that the pass does not have (with the nearest one), a value of the wrong type, or one
            that the pass itself refuses.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = _hints(cls) if options else {}
    values = {}
    for name, raw in options.items():
        key = name.replace("-", "_")
        if key not in fields:
            shown = [f.replace("_", "-") for f in fields]
            hint = (
                _forgotten(cls, key)
                or nearest(name, shown)
                or (f"its options are: {', '.join(shown)}" if shown else "it has no options")
            )
            raise OptionError(f"pass '{cls.name}' has no option '{name}'", where=cls.name, hint=hint)
        values[key] = convert(raw, hints[key], f"{cls.name}{{{name}}}")
    missing = [
        f.name for f in fields.values()
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    if missing:
        raise OptionError(
            f"pass '{cls.name}' needs option '{missing[0].replace('_', '-')}'",
            hint=f"write {cls.name}{{{missing[0].replace('_', '-')}=...}}",
        )
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:  # what a pass's own checks raise
        raise OptionError(str(error), where=cls.name) from error


def _forgotten(cls: type[Pass], key: str) -> str | None:
    """Help for who wrote the option into the class, but did not make a dataclass of it."""
    mine = key in vars(cls).get("__annotations__", {}) and "__dataclass_params__" not in vars(cls)
    return f"{cls.__name__} is no dataclass: write @dataclass(frozen=True) above it" if mine else None


def convert(raw: Any, kind: Any, where: str) -> Any:
    """Turns a raw option value (text, or a Python value) into the type of its field. Raises OptionError."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return raw
    if origin in (typing.Union, types.UnionType):
        return _convert_union(raw, args, where)
    if origin is typing.Literal:
        for choice in args:
            if raw == choice or (isinstance(choice, str) and format_value(raw) == choice):  # `none` may be a word
                return choice
        hint = nearest(str(raw), [str(a) for a in args]) or f"one of: {', '.join(map(str, args))}"
        raise OptionError(f"'{raw}' is not a choice", where=where, hint=hint)
    if origin in (tuple, list):
        items = raw if isinstance(raw, (list, tuple)) else [raw]
        return tuple(convert(item, args[0], where) for item in items)
    if origin is dict or origin is Mapping:
        if isinstance(raw, Mapping):
            return {str(k): convert(v, args[1], where) for k, v in raw.items()}
        raise OptionError(f"'{raw}' is not a mapping", where=where, hint="write {key: value, ...}")
    return _convert_plain(raw, kind, where)


def _convert_union(raw: Any, choices: tuple[Any, ...], where: str) -> Any:
    if type(None) in choices and (raw is None or raw == "none"):
        return None
    failure: OptionError | None = None
    for choice in choices:
        if choice is type(None):
            continue
        try:
            return convert(raw, choice, where)
        except OptionError as error:
            failure = error
    raise failure or OptionError(f"'{raw}' fits no type of the option", where=where)


def _convert_plain(raw: Any, kind: Any, where: str) -> Any:
    if kind is bool:
        if isinstance(raw, bool):
            return raw
        words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
        if str(raw).lower() in words:
            return words[str(raw).lower()]
        raise OptionError(f"'{raw}' is neither true nor false", where=where)
    if kind in (int, float):
        try:
            if isinstance(raw, bool) or (kind is int and isinstance(raw, float) and raw != int(raw)):
                raise ValueError
            number = kind(raw)
            if kind is int and abs(number) >= 1 << 63:
                raise OptionError(f"{raw} is too large a number", where=where, hint="write one of at most 64 bits")
            return number
        except (TypeError, ValueError, OverflowError):
            wanted = "a whole number" if kind is int else "a number"
            raise OptionError(f"'{raw}' is not {wanted}", where=where) from None
    if kind is str:
        return raw if isinstance(raw, str) else format_value(raw)
    if kind is Path and isinstance(raw, (str, Path)):
        return Path(raw)
    if isinstance(kind, type) and isinstance(raw, kind):
        return raw
    if callable(raw):  # callables (a custom loss, a teacher module) can be given from Python only
        return raw
    raise OptionError(f"'{raw}' cannot be given as text", where=where, hint="set this option from Python")
