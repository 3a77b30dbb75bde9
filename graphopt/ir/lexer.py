"""The tokens of the text form."""

from __future__ import annotations

import json
import re
from typing import NoReturn

from graphopt.errors import LoadError

_SKIP = re.compile(r"(?:\s+|//[^\n]*)*")
_TOKEN = re.compile(
    r"""(?P<value>%(?:"(?:[^"\\\n]|\\.)*"|[\w.$/-]*)(?:\#\d+)?)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<number>-?(?:0x[0-9a-f]+\b|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|inf\b|nan\b))
      | (?P<word>[A-Za-z_][\w.$]*)
      | (?P<mark>::|[()\[\]{}<>,:=@])
      | (?P<end>\Z)""",
    re.VERBOSE | re.ASCII,
)
WORD = re.compile(r"[A-Za-z_][\w.$]*", re.ASCII)
BARE_VALUE = re.compile(r"[\w.$/-]+", re.ASCII)
_TENSOR_TYPE = re.compile(r'(sparse\s+)?(\w+)\[((?:[^\]"\n]|"(?:[^"\\\n]|\\.)*")*)\]')


class Lexer:
    """Reads a text token by token, with one token in view.

    Attributes:
        kind: of the token in view: ``value``, ``string``, ``number``, ``word``, ``mark`` or ``end``.
        text: the token in view.
        start: where it begins.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._end = 0
        self.kind = ""
        self.text = ""
        self.start = 0
        self.advance()

    def advance(self) -> str:
        """Goes on to the next token; returns the one that was in view."""
        previous = self.text
        skipped = _SKIP.match(self._source, self._end)
        assert skipped is not None
        self.start = skipped.end()
        match = _TOKEN.match(self._source, self.start)
        if match is None:
            self.fail(f"unexpected character {self._source[self.start]!r}")
        self.kind = match.lastgroup or ""
        self.text = match.group()
        self._end = match.end()
        return previous

    def sees(self, text: str) -> bool:
        """True when the token in view is this mark or word."""
        return self.text == text and self.kind in ("mark", "word")

    def accept(self, text: str) -> bool:
        """Steps over the mark or word `text` when it is in view."""
        if not self.sees(text):
            return False
        self.advance()
        return True

    def expect(self, text: str) -> None:
        """Steps over the mark or word `text`, which must be in view."""
        if not self.accept(text):
            self.fail(f"expected '{text}', found {self.found}")

    def take(self, kind: str, what: str) -> str:
        """Steps over a token of the given kind and returns it."""
        if self.kind != kind:
            self.fail(f"expected {what}, found {self.found}")
        return self.advance()

    def string(self) -> str:
        """Steps over a string literal and returns what it stands for."""
        start, text = self.start, self.take("string", "a string")
        return self.unquoted(text, start)

    def unquoted(self, text: str, start: int) -> str:
        """What a string literal that begins at `start` stands for."""
        try:
            return str(json.loads(text))
        except json.JSONDecodeError as error:
            self.fail(f"malformed string: {error.msg}", start + error.pos)

    def tensor_type(self) -> tuple[str, str, str] | None:
        """Steps over a tensor's type, if one is in view: prefix, element type and dimensions as text."""
        match = _TENSOR_TYPE.match(self._source, self.start)
        if match is None:
            return None
        self._end = match.end()
        self.advance()
        return match.group(1) or "", match.group(2), match.group(3)

    @property
    def found(self) -> str:
        """The token in view, for an error."""
        return "the end of the text" if self.kind == "end" else f"'{self.text}'"

    def fail(self, what: str, at: int | None = None) -> NoReturn:
        """Raises LoadError with line and column of the token in view, or of offset `at`."""
        offset = self.start if at is None else at
        line = self._source.count("\n", 0, offset) + 1
        column = offset - (self._source.rfind("\n", 0, offset) + 1) + 1
        raise LoadError(what, where=f"line {line}, column {column}")
