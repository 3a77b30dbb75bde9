"""Reduction: the smallest part of a graph on which a pipeline still fails in the same way.

Delta debugging (Zeller and Hildebrandt 2002) over nodes: those that are not needed for the failure are cut out, what
others read of them becoming inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from graphopt.analysis.shapes import propagate
from graphopt.errors import GraphoptError, OptionError
from graphopt.ir import Graph, Node, TensorType, Value
from graphopt.pipeline.base import Pass
from graphopt.pipeline.context import Context, Progress, no_progress
from graphopt.pipeline.instruments import Equivalence, Instrument, Verify
from graphopt.pipeline.manager import resolve, run_pipeline
from graphopt.runtime.samples import example_inputs, runnable_inputs


@dataclass(frozen=True)
class Failing:
    """How a pipeline fails.

    Attributes:
        step: the pass that fails.
        kind: type of its error, and of what caused that.
        message: the error in one line.
    """

    step: str
    kind: tuple[str, str]
    message: str

    def is_like(self, other: Failing | None) -> bool:
        """True for a failure of the same pass with the same types of errors, whatever the message."""
        return other is not None and (self.step, self.kind) == (other.step, other.kind)


class _Witness(Instrument):
    """Remembers which pass failed."""

    def __init__(self) -> None:
        self.step = ""

    def failed(self, step: Pass, graph: Graph, context: Context, error: Exception, rest: str) -> str:
        self.step = step.name
        return ""


def failure_of(graph: Graph, pipeline: str, *, seed: int = 0, tolerance: float | None = None) -> Failing | None:
    """How `pipeline` fails on a copy of `graph` with random inputs as data; ``None`` when it does not.

    Args:
        graph: the graph; it is left alone.
        pipeline: its text.
        seed: of the random inputs and of the run.
        tolerance: largest relative difference that passes may make; as in `graphopt.optimize` by default.

    Raises:
        PipelineError: the text is malformed.
        OptionError: an option of a pass has a value that cannot be used.
    """
    resolve(pipeline)
    twin = graph.clone()
    witness = _Witness()
    try:
        context = Context(twin, [tuple(_inputs(twin, seed))], seed=seed)
        run_pipeline(twin, pipeline, context, [Verify(), Equivalence(tolerance), witness])
    except Exception as error:  # whatever escapes is what is looked for
        cause = type(error.__cause__).__name__ if error.__cause__ is not None else ""
        return Failing(witness.step, (type(error).__name__, cause), " ".join(str(error).split()))
    return None


def _inputs(graph: Graph, seed: int) -> list[torch.Tensor]:
    try:
        return runnable_inputs(graph, seed).inputs
    except GraphoptError:  # the pipeline will say what is wrong with the graph, or with these inputs
        return example_inputs(graph, seed)


def reduce_graph(
    graph: Graph, pipeline: str, *, seed: int = 0, tolerance: float | None = None, progress: Progress = no_progress
) -> Failing:
    """Cuts `graph` down, in place, to a part on which `pipeline` still fails in the same way.

    The result is minimal in that no single node can be cut out of it. Takes a run of the pipeline for every try.

    Args:
        graph: the graph.
        pipeline: text of the pipeline.
        seed: of the random inputs and of the runs.
        tolerance: largest relative difference that passes may make; as in `graphopt.optimize` by default.
        progress: shows that work goes on.

    Returns:
        How the pipeline fails on what is left.

    Raises:
        OptionError: the pipeline does not fail on the graph.
    """
    propagate(graph)
    first = failure_of(graph, pipeline, seed=seed, tolerance=tolerance)
    if first is None:
        raise OptionError(
            "the pipeline does not fail on this model with random inputs", where="reduce",
            hint="give the model and the pipeline from graphopt-crash/crash.json, or another --seed",
        )  # fmt: skip
    graph.signature = None  # the inputs will be others
    found = [first]

    def still_fails() -> bool:
        failing = failure_of(graph, pipeline, seed=seed, tolerance=tolerance)
        if failing is None or not first.is_like(failing):
            return False
        found.append(failing)
        return True

    size = max(sum(1 for _ in graph.nodes), 1)
    while True:
        before = sum(1 for _ in graph.nodes)
        pieces = list(_pieces(list(graph.nodes), size))
        for piece in progress(pieces, f"cutting out {size} of {before} nodes at a time", len(pieces)):
            _try_without(graph, piece, still_fails)
        after = sum(1 for _ in graph.nodes)
        if size == 1 and after == before:
            return found[-1]
        size = max(min(size // 2, after), 1)


def _pieces(nodes: Sequence[Node], size: int) -> Iterator[Sequence[Node]]:
    """Runs of neighbouring nodes, the last ones first: what nothing reads goes without a trace."""
    for stop in range(len(nodes), 0, -size):
        yield nodes[max(stop - size, 0) : stop]


class _Kept(Exception):
    """Rolls a try back."""


def _try_without(graph: Graph, nodes: Sequence[Node], still_fails: Callable[[], bool]) -> None:
    present = [node for node in nodes if node.graph is graph]
    if not present or len(present) == sum(1 for _ in graph.nodes):
        return
    try:
        with graph.transaction():
            _cut(graph, present)
            if not any(True for _ in graph.nodes) or not still_fails():
                raise _Kept
    except _Kept:
        return


def _cut(graph: Graph, nodes: Sequence[Node]) -> None:
    """Erases nodes; what others read of them becomes inputs, what only callers read is no output any longer."""
    gone = {value for node in nodes for value in node.outputs}
    outputs = [(v, n) for v, n in zip(graph.outputs, graph.output_names, strict=True) if v not in gone]
    taken = {name for _, name in outputs}
    ends = {value for node in nodes for value in node.inputs if value is not None and _can_end(value, gone)}
    extra = [(value, value.name) for value in sorted(ends, key=lambda value: value.name) if value.name not in taken]
    graph.set_outputs([v for v, _ in outputs + extra], [n for _, n in outputs + extra])
    names = {value.name for value in graph.values()}
    for node in reversed(nodes):
        for value in node.outputs:
            if value.uses:
                name = _free_name(names, value.name)
                names.add(name)
                value.replace_uses(graph.add_input(name, value.type))
        graph.erase(node)
    _sweep(graph)
    propagate(graph)


def _can_end(value: Value, gone: set[Value]) -> bool:
    """True for a computed tensor that only cut nodes read."""
    if value in gone or value.producer is None or not isinstance(value.type, TensorType):
        return False
    return all(isinstance(user, Node) and any(out in gone for out in user.outputs) for user in value.users)


def _free_name(taken: set[str], name: str) -> str:
    if name and name not in taken:
        return name
    return next(
        each for each in (f"{name or 'input'}_{number}" for number in range(len(taken) + 1)) if each not in taken
    )


def _sweep(graph: Graph) -> None:
    """Removes what nothing reads any longer: nodes, constants, inputs."""
    for node in reversed(list(graph.nodes)):
        if node.graph is graph and not any(value.uses for value in node.outputs):
            graph.erase(node)
    for constant in list(graph.constants):
        if not constant.uses:
            graph.remove_constant(constant)
    for value in list(graph.inputs):
        if not value.uses:
            graph.remove_input(value)
