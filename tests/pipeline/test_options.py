from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from graphopt.errors import OptionError
from graphopt.pipeline import Pass
from graphopt.pipeline.options import build, option_infos


@dataclass(frozen=True)
class Everything(Pass):
    """A pass with options of every kind.

    Attributes:
        needed: has no default.
        number: a whole number,
            explained on two lines.

    More text, which belongs to no option.
    """

    name = "everything"

    needed: str
    number: int = 1
    ratio: float = 0.5
    flag: bool = False
    names: tuple[str, ...] = ()
    sizes: tuple[int, ...] = field(default_factory=lambda: (1, 2))
    kind: Literal["none", "some", 3] = "some"
    limit: float | None = None
    either: int | str = 0
    table: dict[str, float] = field(default_factory=dict)
    file: Path = Path(".")
    anything: Any = None
    function: Callable[[int], int] = abs

    def __post_init__(self):
        if self.number < 0:
            raise ValueError("number is negative")


@pytest.mark.parametrize(
    ("name", "raw", "want"),
    [("number", 3, 3), ("number", "3", 3), ("number", 3.0, 3), ("ratio", 1, 1.0), ("ratio", "1e-3", 1e-3),
     ("flag", True, True), ("flag", "yes", True), ("flag", "OFF", False), ("names", ["a", "b"], ("a", "b")),
     ("names", "a", ("a",)), ("names", [1], ("1",)), ("sizes", [1, "2"], (1, 2)), ("kind", None, "none"),
     ("kind", "none", "none"), ("kind", 3, 3), ("limit", None, None), ("limit", "none", None), ("limit", 2, 2.0),
     ("either", "x", "x"), ("either", "4", 4), ("table", {"a": 1}, {"a": 1.0}), ("needed", True, "true"),
     ("needed", 1.5, "1.5"), ("file", "a/b", Path("a/b")), ("anything", [1], [1]), ("function", len, len)],
)  # fmt: skip
def test_values_become_the_field_s_type(name, raw, want):
    got = getattr(build(Everything, {"needed": "", name: raw}), name)
    assert got == want
    assert type(got) is type(want)


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [("number", 1.5, "'1.5' is not a whole number"), ("number", "x", "not a whole number"),
     ("number", True, "not a whole number"), ("number", float("inf"), "not a whole number"),
     ("ratio", "half", "not a number"), ("ratio", [1], "not a number"), ("flag", 2, "neither true nor false"),
     ("sizes", ["a"], "not a whole number"), ("kind", "som", "did you mean 'some'"), ("kind", "xyz", "one of: none"),
     ("limit", "x", "not a number"), ("table", 3, "not a mapping"), ("function", "abs", "from Python"),
     ("number", -1, "number is negative")],
)  # fmt: skip
def test_bad_values_name_the_option(name, raw, words):
    with pytest.raises(OptionError, match=words) as caught:
        build(Everything, {"needed": "", name: raw})
    assert "everything" in caught.value.where


def test_unknown_and_missing_options():
    with pytest.raises(OptionError, match=r"pass 'everything' has no option 'numbr'.*did you mean 'number'"):
        build(Everything, {"needed": "", "numbr": 1})
    with pytest.raises(OptionError, match="its options are: needed, number"):
        build(Everything, {"needed": "", "zzz": 1})
    with pytest.raises(OptionError, match=r"needs option 'needed'.*everything\{needed=...\}"):
        build(Everything, {})


def test_infos_tell_name_type_default_and_meaning():
    infos = {info.name: info for info in option_infos(Everything)}
    assert list(infos)[:2] == ["needed", "number"]
    assert infos["needed"].default == ""
    assert infos["number"].doc == "a whole number, explained on two lines."
    assert infos["sizes"].default == "[1,2]"
    assert {name: info.type for name, info in infos.items()} == {
        "needed": "text", "number": "whole number", "ratio": "number", "flag": "true | false", "names": "list of text",
        "sizes": "list of whole number", "kind": '"none" | some | 3', "limit": "number | none",
        "either": "whole number | text", "table": "{text: number}", "file": "path", "anything": "anything",
        "function": "from Python only",
    }  # fmt: skip


def test_numbers_of_more_bits_than_machines_have():
    with pytest.raises(OptionError, match="999999999999999999999 is too large a number"):
        build(Everything, {"needed": "1", "number": "999999999999999999999"})
