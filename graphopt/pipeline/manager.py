"""The pass manager: resolves a pipeline, runs it, and leaves either the whole result of a pass or nothing of it."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from graphopt.analysis.shapes import propagate
from graphopt.errors import (
    DataError,
    EquivalenceError,
    GraphoptError,
    OptionError,
    PassError,
    PipelineError,
    ShapeError,
    VerifyError,
    nearest,
)
from graphopt.ir import Graph
from graphopt.ir.expect import expect_graph, kind_of
from graphopt.pipeline.base import Changes, Pass
from graphopt.pipeline.context import Context
from graphopt.pipeline.instruments.base import Instrument
from graphopt.pipeline.options import build
from graphopt.pipeline.registry import Alias, all_passes, find_pass
from graphopt.pipeline.report import PassReport, Report
from graphopt.pipeline.text import Step, format_value, parse_steps


@dataclass(frozen=True)
class Group:
    """The passes of an alias, run up to `repeat` times."""

    name: str
    passes: tuple[Pass | Group, ...]
    repeat: int


def resolve(pipeline: str | Sequence[Pass | str]) -> list[Pass | Group]:
    """Turns pipeline text, or a mixed list of passes and texts, into passes.

    Raises:
        PipelineError: malformed text, or an unknown pass.
        OptionError: an unknown option or a bad value.
    """
    if isinstance(pipeline, str):
        return [_resolve_step(step) for step in parse_steps(pipeline)]
    if not isinstance(pipeline, Iterable):
        raise _no_pass(pipeline)
    resolved: list[Pass | Group] = []
    for item in pipeline:
        if not isinstance(item, (Pass, str)):
            raise _no_pass(item)
        resolved.extend([item] if isinstance(item, Pass) else resolve(item))
    return resolved


def check_taken(steps: Sequence[Pass | Group], names: Iterable[str]) -> None:
    """Raises OptionError for the name of a value that no pass asks for, in this pipeline or elsewhere."""
    kinds: list[type[Pass]] = [*all_passes().values(), *(type(step) for step in flatten(steps))]
    taken = sorted(frozenset[str]().union(*(kind.takes for kind in kinds)))
    for name in names:
        if name not in taken:
            hint = nearest(name, taken) or f"passes ask for: {', '.join(taken)}"
            raise OptionError(f"no pass asks for '{name}'", where="optimize", hint=hint)


def _no_pass(given: object) -> PipelineError:
    return PipelineError(
        f"{kind_of(given)} is no pass", where="pipeline", hint="give text such as 'simplify,fuse', or passes"
    )


def _resolve_step(step: Step) -> Pass | Group:
    found = find_pass(step.name)
    if not isinstance(found, Alias):
        return build(found, step.options)
    return _expand(found, step)


def _expand(alias: Alias, step: Step) -> Group:
    """Hands an alias's options, but for its level, to the passes in it that have them."""
    options = dict(step.options)
    inner = parse_steps(alias.at(options.pop("level", None)) if alias.levels else alias.pipeline)
    unused = set(options)
    passes = []
    for each in inner:
        target = find_pass(each.name)
        names = _option_names(target)
        mine = {name: value for name, value in options.items() if name.replace("_", "-") in names}
        unused -= set(mine)
        passes.append(_resolve_step(Step(each.name, {**each.options, **mine})))
    if unused:
        name = sorted(unused)[0]
        known = sorted(set().union(*(_option_names(find_pass(each.name)) for each in inner), _level(alias)))
        raise OptionError(
            f"'{alias.name}' has no option '{name}'", where=alias.name,
            hint=nearest(name, known) or f"its options are: {', '.join(known)}",
        )  # fmt: skip
    return Group(str(step), tuple(passes), alias.repeat)


def _level(alias: Alias) -> set[str]:
    return {"level"} if alias.levels else set()


def _option_names(target: type[Pass] | Alias) -> set[str]:
    if isinstance(target, Alias):
        inner = (find_pass(step.name) for step in parse_steps(target.pipeline))
        return set().union(*(_option_names(each) for each in inner), _level(target))
    return {field.name.replace("_", "-") for field in fields(target)}


def describe(step: Pass | Group) -> str:
    """Text of a pass with the options that differ from the defaults, or of a group."""
    if isinstance(step, Group):
        return step.name
    options: dict[str, Any] = {}
    for field in fields(step):
        value = getattr(step, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if value != default and not callable(value):
            options[field.name] = value
    return str(Step(step.name or type(step).__name__, options))


def run_pipeline(
    graph: Graph,
    pipeline: str | Sequence[Pass | str],
    context: Context,
    instruments: Sequence[Instrument] = (),
) -> Report:
    """Runs a pipeline on `graph`, in place.

    Every pass is a transaction: when it, or an instrument's check of it, fails, the graph is as before that pass.

    Raises:
        DataError: a pass needs data that the run was not given; nothing has run then.
        GraphoptError: whatever the pass or a check raised; a foreign exception becomes a PassError that names the pass.
    """
    expect_graph(graph, "optimize")
    steps = resolve(pipeline)
    _check_needs(steps, context)
    text = pipeline if isinstance(pipeline, str) else ",".join(describe(step) for step in steps)
    runner = _Runner(graph, context, tuple(instruments), Report(text))
    with _gc_paused():
        propagate(graph)
        runner.run_all(steps)
    return runner.report


@contextmanager
def _gc_paused() -> Iterator[None]:
    """Pauses the cyclic garbage collector: graphs are one big cycle, and scanning them slows edits 3-5 times."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Runner:
    def __init__(self, graph: Graph, context: Context, instruments: Sequence[Instrument], report: Report) -> None:
        self.graph = graph
        self.context = context
        self.instruments = instruments
        self.report = report
        # Within a group: the passes that found nothing to do, with the version of the graph that they found it in.
        self.settled: dict[int, int] | None = None

    def run_all(self, steps: Sequence[Pass | Group]) -> None:
        count = sum(1 for _ in flatten(steps))
        progress = self.context.progress(range(count), "passes", count)
        try:
            self.run_steps(steps, progress, ())
        finally:
            close = getattr(progress, "close", None)
            if close is not None:  # takes the progress bar away, also when a pass failed
                close()

    def run_steps(self, steps: Sequence[Pass | Group], progress: Iterator[Any], rest: Sequence[str]) -> bool:
        """Runs steps in order; `rest` is the text of what comes after them."""
        changed = False
        texts = [describe(step) for step in steps]
        for position, step in enumerate(steps):
            after = (*texts[position + 1 :], *rest)
            if isinstance(step, Group):
                changed |= self.run_group(step, progress, after)
            else:
                next(progress, None)
                changed |= self.run_pass(step, ",".join((texts[position], *after)))
        return changed

    def run_group(self, group: Group, progress: Iterator[Any], rest: Sequence[str]) -> bool:
        changed = False
        outer, self.settled = self.settled, {}
        for _ in range(group.repeat):
            if not self.run_steps(group.passes, progress, rest):
                break
            changed = True
        self.settled = outer
        return changed

    def run_pass(self, step: Pass, rest: str) -> bool:
        """Runs one pass as a transaction; `rest` is the pipeline from it on."""
        entry = PassReport(describe(step))
        self.report.passes.append(entry)
        if not step.applies_to(self.graph):
            entry.skipped = f"the graph has none of {', '.join(sorted(step.looks_for))}"
            return False
        if self.settled is not None and self.settled.get(id(step)) == self.graph.version:
            entry.skipped = "nothing has changed since it found nothing to do"
            return False
        try:
            with self.graph.transaction():
                changes = self._run_watched(step, entry)
        except (VerifyError, ShapeError, EquivalenceError) as error:
            hint = "; ".join(filter(None, [error.hint, self._hints(step, error, rest)]))
            raise type(error)(f"after pass '{entry.name}': {error.what}", where=error.where, hint=hint) from error
        except GraphoptError:
            raise
        except Exception as error:  # a pass is anybody's code, and the graph is rolled back whatever it raised
            raise PassError(
                f"pass '{entry.name}' failed with {type(error).__name__}: {error}", where=entry.name,
                hint=self._hints(step, error, rest) or "the graph is as before the pass; please report this",
            ) from error  # fmt: skip
        if self.settled is not None and not changes.modified:
            self.settled[id(step)] = self.graph.version
        return changes.modified

    def _hints(self, step: Pass, error: Exception, rest: str) -> str:
        return "; ".join(
            filter(None, [i.failed(step, self.graph, self.context, error, rest) for i in self.instruments])
        )

    def _run_watched(self, step: Pass, entry: PassReport) -> Changes:
        for instrument in self.instruments:
            instrument.before(step, self.graph, self.context, entry)
        version = self.graph.version
        started = time.perf_counter()
        result = step.run(self.graph, self.context)
        edited = self.graph.version != version
        propagate(self.graph)
        entry.seconds = time.perf_counter() - started
        changes = result if isinstance(result, Changes) else Changes(bool(result))
        if edited and not changes.modified:  # checks must not be fooled by a pass that keeps its edits to itself
            changes = replace(changes, modified=True)
        entry.modified, entry.counts, entry.notes = changes.modified, changes.counts, changes.notes
        entry.kept, entry.details = changes.kept, changes.details
        for instrument in self.instruments:
            instrument.after(step, self.graph, self.context, changes, entry)
        return changes


def flatten(steps: Sequence[Pass | Group]) -> Iterator[Pass]:
    """The passes of a resolved pipeline, one by one."""
    for step in steps:
        if isinstance(step, Group):
            yield from flatten(step.passes)
        else:
            yield step


def _check_needs(steps: Sequence[Pass | Group], context: Context) -> None:
    for step in flatten(steps):
        if "data" in step.needs and not context.has_data:
            raise DataError(
                f"pass '{describe(step)}' needs data and the run was given none", where=step.name,
                hint="pass data=..., or --data FILE.npz",
            )  # fmt: skip


__all__ = ["Group", "describe", "flatten", "format_value", "resolve", "run_pipeline"]
