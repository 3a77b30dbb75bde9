"""The registry: passes and aliases by name, the built-in ones found the same way as anybody else's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TypeVar

from graphopt.errors import OptionError, PipelineError, nearest
from graphopt.pipeline.base import Pass

P = TypeVar("P", bound=type[Pass])

#: Packages put their passes here: ``[project.entry-points."graphopt.passes"] mine = "my_package.passes"``.
ENTRY_POINT_GROUP = "graphopt.passes"


@dataclass(frozen=True)
class Alias:
    """A pipeline under a name of its own.

    Attributes:
        name: of the alias.
        pipeline: its text. Options given to the alias go to every pass in it that has them.
        repeat: how often the pipeline runs at most; it stops as soon as a round changes nothing.
        doc: what it is for.
        levels: other pipelines that ``level=NAME`` chooses.
    """

    name: str
    pipeline: str
    repeat: int = 1
    doc: str = ""
    levels: Mapping[str, str] = field(default_factory=dict)

    def at(self, level: object) -> str:
        """The pipeline of a level; ``None`` for the usual one. Raises OptionError when there is no such level."""
        if level is None or level == self.name:
            return self.pipeline
        if str(level) in self.levels:
            return self.levels[str(level)]
        known = [self.name, *self.levels]
        raise OptionError(
            f"'{level}' is no level of '{self.name}'", where=self.name,
            hint=nearest(str(level), known) or f"its levels are: {', '.join(known)}",
        )  # fmt: skip


_NAME = re.compile(r"[^\s{}\[\],=:\"']+")

_PASSES: dict[str, type[Pass]] = {}
_ALIASES: dict[str, Alias] = {}
_loaded = False


def register(name: str) -> Callable[[P], P]:
    """Class decorator: makes a pass known by `name`. Raises PipelineError when the name is taken by another class."""

    def decorate(cls: P) -> P:
        _check_free(name, cls)
        cls.name = name
        _PASSES[name] = cls
        return cls

    return decorate


def register_alias(
    name: str, pipeline: str, *, repeat: int = 1, doc: str = "", levels: Mapping[str, str] | None = None
) -> None:
    """Makes a pipeline known by `name`, and others by ``name{level=...}``. Raises PipelineError for a taken name."""
    _check_free(name, None)
    _ALIASES[name] = Alias(name, pipeline, repeat, doc, levels or {})


def _check_free(name: str, cls: type[Pass] | None) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PipelineError(f"'{name}' is no name that a pipeline's text could hold", hint="write it like merge-relu")
    if cls is not None and not (isinstance(cls, type) and issubclass(cls, Pass)):
        raise PipelineError(
            f"{getattr(cls, '__qualname__', cls)} is no pass",
            where=name,
            hint="derive it from go.Pass or go.RewritePass",
        )
    taken = _PASSES.get(name)
    if taken is not None and (
        cls is None or (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__)
    ):
        raise PipelineError(f"pass name '{name}' is taken by {taken.__module__}.{taken.__qualname__}", where=name)
    if name in _ALIASES and cls is not None:
        raise PipelineError(f"pass name '{name}' is taken by an alias", where=name)


def load_plugins() -> None:
    """Imports every installed package that offers passes; done once, when a name is first looked up.

    Raises:
        PipelineError: a package's module cannot be imported, with its name.
    """
    global _loaded
    if _loaded:
        return
    _loaded = True
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: (p.value, p.name)):
        try:
            point.load()
        except Exception as error:  # importing runs the package's code, which may raise anything
            _loaded = False
            raise PipelineError(
                f"the pass package '{point.name}' ({point.value}) failed to import: {type(error).__name__}: {error}",
                hint="repair or uninstall it",
            ) from error


def find_pass(name: str) -> type[Pass] | Alias:
    """The pass or alias called `name`. Raises PipelineError, with the nearest name, when there is none."""
    load_plugins()
    if name in _PASSES:
        return _PASSES[name]
    if name in _ALIASES:
        return _ALIASES[name]
    known = sorted([*_PASSES, *_ALIASES])
    raise PipelineError(f"there is no pass '{name}'", hint=nearest(name, known) or "'graphopt passes' lists them")


def all_passes() -> dict[str, type[Pass]]:
    """Every registered pass by name, plug-ins included."""
    load_plugins()
    return dict(sorted(_PASSES.items()))


def all_aliases() -> dict[str, Alias]:
    """Every registered alias by name."""
    load_plugins()
    return dict(sorted(_ALIASES.items()))
