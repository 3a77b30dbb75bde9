"""Pipeline text: ``simplify,prune-channels{ratio=0.5,criterion=l1},quantize{target=ort-cpu}``.

Grammar:

    pipeline := step ("," step)*
    step     := name ("{" option ("," option)* "}")?
    option   := name "=" value
    value    := number | true | false | none | word | "string" | "[" value ("," value)* "]" | "{" key ":" value ... "}"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphopt.errors import PipelineError

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
    r"""|(?P<punct>[{}\[\],=:])|(?P<word>[^\s{}\[\],=:"']+))"""
)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$")
_INTEGER = re.compile(r"[+-]?\d+$")


@dataclass(frozen=True)
class Step:
    """One element of a pipeline's text."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.options:
            return self.name
        inside = ",".join(f"{name.replace('_', '-')}={format_value(value)}" for name, value in self.options.items())
        return f"{self.name}{{{inside}}}"


def format_value(value: Any) -> str:
    """Text of an option value that `parse_steps` reads back."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(format_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{format_value(k)}:{format_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str) and (not re.fullmatch(r"[^\s{}\[\],=:\"']+", value) or _is_literal(value)):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


def _is_literal(word: str) -> bool:
    return bool(_NUMBER.match(word)) or word.lower() in ("true", "false", "none")


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        position = 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None:
                raise self.error("unreadable character", position)
            kind = match.lastgroup or ""
            self.tokens.append((kind, match.group(kind), match.start(kind)))
            position = match.end()
        self.index = 0

    def error(self, what: str, position: int | None = None) -> PipelineError:
        if position is None:
            position = self.tokens[self.index][2] if self.index < len(self.tokens) else len(self.text)
        return PipelineError(
            f"{what} at column {position + 1} of the pipeline '{self.text}'",
            hint="write name{option=value,...},name,...",
        )

    def peek(self) -> str:
        return self.tokens[self.index][1] if self.index < len(self.tokens) else ""

    def take(self, punct: str) -> bool:
        if self.index < len(self.tokens) and self.tokens[self.index][:2] == ("punct", punct):
            self.index += 1
            return True
        return False

    def expect(self, punct: str) -> None:
        if not self.take(punct):
            raise self.error(f"expected '{punct}'")

    def word(self, what: str) -> str:
        if self.index >= len(self.tokens) or self.tokens[self.index][0] != "word":
            raise self.error(f"expected {what}")
        self.index += 1
        return self.tokens[self.index - 1][1]

    def value(self) -> Any:
        if self.take("["):
            return self.sequence("]", self.value)
        if self.take("{"):
            return dict(self.sequence("}", self.pair))
        if self.index < len(self.tokens) and self.tokens[self.index][0] == "string":
            raw = self.tokens[self.index][1]
            self.index += 1
            return re.sub(r"\\(.)", r"\1", raw[1:-1], flags=re.DOTALL)
        return literal(self.word("a value"))

    def pair(self) -> tuple[Any, Any]:
        key = self.value()
        self.expect(":")
        return key, self.value()

    def sequence(self, close: str, item: Callable[[], Any]) -> list[Any]:
        items: list[Any] = []
        if self.take(close):
            return items
        while True:
            items.append(item())
            if self.take(close):
                return items
            self.expect(",")

    def step(self) -> Step:
        name = self.word("a pass name")
        options: dict[str, Any] = {}

        def option() -> None:
            start = self.index
            key = self.word("an option name")
            if key.replace("_", "-") in {each.replace("_", "-") for each in options}:
                raise self.error(f"option '{key}' is given twice", self.tokens[start][2])
            self.expect("=")
            options[key] = self.value()

        if self.take("{"):
            self.sequence("}", option)
        return Step(name, options)


def literal(word: str) -> Any:
    """The Python value of an unquoted word."""
    if _INTEGER.match(word):
        return int(word)
    if _NUMBER.match(word):
        return float(word)
    return {"true": True, "false": False, "none": None}.get(word.lower(), word)


def parse_steps(text: str) -> list[Step]:
    """Reads a pipeline's text. Raises PipelineError with the column when it is malformed."""
    reader = _Reader(text)
    if not reader.tokens:
        return []
    steps = [reader.step()]
    while reader.take(","):
        steps.append(reader.step())
    if reader.index < len(reader.tokens):
        raise reader.error(f"unexpected '{reader.peek()}'")
    return steps
