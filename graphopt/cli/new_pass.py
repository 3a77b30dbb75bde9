"""The command new-pass: a package with a pass of one's own to begin with."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template
from typing import Annotated

import typer
from rich.console import Console

from graphopt.errors import OptionError, SaveError

_FILES = {
    "pyproject.toml": """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$name"
version = "0.1.0"
dependencies = ["graphopt"]

[project.entry-points."graphopt.passes"]
$name = "$module"

[tool.setuptools]
package-dir = { "" = "src" }
py-modules = ["$module"]
""",
    "src/$module.py": '''\
"""$name: say here what the pass is for."""

from dataclasses import dataclass
from typing import ClassVar

import graphopt as go


class ReluOfRelu(go.Rule):
    """relu(relu(x)) is relu(x)."""

    def pattern(self, op, x):
        return op.Relu(op.Relu(x))

    def rewrite(self, op, m):
        return op.Relu(m["x"])


@go.register("$name")
@dataclass(frozen=True)
class $class_name(go.RewritePass):
    """Merge a chain of Relu into one.

    `graphopt explain $name` shows this text. Fields with a type and a default would be options.
    """

    rules: ClassVar = (ReluOfRelu,)
''',
    "tests/test_$module.py": """\
import $module  # registers the pass
import torch
from torch import nn

import graphopt as go


def run(*layers):
    module, x = nn.Sequential(*layers).eval(), torch.randn(2, 4)
    graph = go.capture(module, (x,))
    report = go.optimize(graph, "$name")  # the result is checked against the original on every run
    torch.testing.assert_close(go.to_torch(graph)(x), module(x))
    return graph, report


def test_it_matches():
    graph, report = run(nn.ReLU(), nn.ReLU(), nn.ReLU())
    assert [node.op for node in graph] == ["Relu"]
    assert report.of("$name").modified


def test_near_misses_are_left_alone():
    graph, report = run(nn.ReLU(), nn.Tanh(), nn.ReLU())
    assert [node.op for node in graph] == ["Relu", "Tanh", "Relu"]
    assert not report.of("$name").modified


def test_it_is_registered_under_its_name():
    assert $module.$class_name.name == "$name"
""",
}


def new_pass(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the pass, such as merge-relu.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder to make; ./NAME by default.")] = None,
) -> None:
    """Make a package with a pass of your own, its test, and the entry point that graphopt finds it by."""
    folder = _checked(name, output)
    module = name.replace("-", "_")
    words = {"name": name, "module": module, "class_name": "".join(part.capitalize() for part in name.split("-"))}
    written = []
    try:
        for path, text in _FILES.items():
            file = folder / Template(path).substitute(words)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(Template(text).substitute(words), encoding="utf8")
            written.append(file)
    except OSError as error:
        raise SaveError(f"it cannot be written: {error.strerror}", where=str(folder)) from error
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for file in written:
        console.print(f"wrote {file}")
    console.print(f"install it with: pip install -e {folder}    test it with: pytest {folder}")


def _checked(name: str, output: Path | None) -> Path:
    from graphopt.pipeline import all_aliases, all_passes

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise OptionError(f"'{name}' is no name for a pass", where="new-pass", hint="write it like merge-relu")
    if keyword.iskeyword(name):
        raise OptionError(f"'{name}' is a word of Python, which no module can be called", where="new-pass",
                          hint=f"write {name}-something")  # fmt: skip
    if name in all_passes() or name in all_aliases():
        raise OptionError(f"there is a pass '{name}' already", where="new-pass", hint="choose another name")
    folder = Path(name) if output is None else output
    if folder.exists():
        raise SaveError(f"'{folder}' exists already", where="new-pass", hint="name a folder to be made with -o")
    if not folder.parent.is_dir():
        raise SaveError(f"there is no folder '{folder.parent}'", where="new-pass", hint="make it first")
    return folder
