"""Reading targets from TOML, with what they inherit."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.errors import OptionError, nearest
from graphopt.targets.rules import Target
from graphopt.targets.schema import KEYS, known, target_of

_FOLDER = Path(__file__).parent


def available() -> list[str]:
    """Names of the targets that come with graphopt."""
    return sorted(file.stem for file in _FOLDER.glob("*.toml"))


def load_target(name: str) -> Target:
    """Reads a target: a name from `available`, or the path of a TOML file.

    Raises:
        OptionError: no such target, or a file that is not as it should be, with the key that is wrong.
    """
    path = _file(name, Path())
    try:
        return target_of(_table(path, ()))
    except KeyError as error:
        problem = f"{error.args[0]} is missing"
    except (ValueError, TypeError, AttributeError, UnicodeDecodeError) as error:  # TOMLDecodeError is a ValueError
        problem = str(error)
    raise OptionError(
        f"target file {path.name} is not valid: {problem}", where="target",
        hint="docs/quantization.md explains the keys; graphopt/targets/ort-cpu.toml is an example",
    )  # fmt: skip


def _file(name: str, folder: Path) -> Path:
    """The file of a target that is named in `folder`."""
    path = folder / name if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    if not path.is_file():
        hint = nearest(name, available()) or f"one of: {', '.join(available())}, or a .toml file"
        raise OptionError(f"there is no target '{name}'", where="target", hint=hint)
    return path


def _table(path: Path, heirs: tuple[Path, ...]) -> dict[str, Any]:
    """The table of a file, over the table of the target that it extends."""
    if path.resolve() in heirs:
        raise ValueError(f"{path.name} extends itself")
    raw = tomllib.loads(path.read_text(encoding="utf8"))
    known(raw, KEYS, "")
    base, without = raw.pop("extends", None), raw.pop("without", [])
    if base is None:
        if without:
            raise ValueError("without leaves out inherited operators, and extends is missing")
        return raw
    table = merged(_table(_file(str(base), path.parent), (*heirs, path.resolve())), raw)
    for op in without:
        if op not in table["operators"]:
            raise ValueError(f"without has '{op}', which {base} has no rule for")
        del table["operators"][op]
    return table


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the entries of `over` in place of its own; tables are merged entry by entry."""
    table = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(table.get(key), Mapping)
        table[key] = merged(table[key], value) if both else value
    return table
