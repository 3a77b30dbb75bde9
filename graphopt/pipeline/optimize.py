"""The one call that most users need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from graphopt.ir import Graph
from graphopt.pipeline.base import Pass
from graphopt.pipeline.context import Context, no_progress
from graphopt.pipeline.instruments import CostDelta, Equivalence, Instrument, Verify
from graphopt.pipeline.manager import check_taken, resolve, run_pipeline
from graphopt.pipeline.progress import RichProgress
from graphopt.pipeline.report import Report


def optimize(
    graph: Graph,
    pipeline: str | Sequence[Pass | str],
    data: Any = None,
    *,
    evaluate: Callable[[Graph], float] | None = None,
    check: bool = True,
    tolerance: float | None = None,
    seed: int = 0,
    progress: bool = False,
    instruments: Sequence[Instrument] = (),
    **options: Any,
) -> Report:
    """Runs a pipeline on `graph`, in place, and proves every step.

    Args:
        graph: the graph to rewrite.
        pipeline: text such as ``"simplify,fuse,prune-channels{ratio=0.5}"``, or passes.
        data: samples for calibration, training and checks; see `graphopt.pipeline.data.Data`.
        evaluate: measure of a graph, higher is better.
        check: hold every pass to its contract by running the graph before and after it on sample inputs.
        tolerance: largest relative difference that counts as equal; by default 1e-4, and more where the graph computes
            in float16 or bfloat16.
        seed: of all random choices.
        progress: show progress bars on standard error.
        instruments: further instruments.
        options: values that passes of the pipeline ask for from Python (``teacher=module``).

    Returns:
        What each pass did.

    Raises:
        GraphoptError: a subclass that says what went wrong; the graph is then as it was before the pass that failed.
    """
    if isinstance(pipeline, Iterable) and not isinstance(pipeline, str):
        pipeline = list(pipeline)  # it may be readable once only
    check_taken(resolve(pipeline), options)
    context = Context(
        graph, data, seed=seed, evaluate=evaluate, progress=RichProgress() if progress else no_progress, **options
    )
    watching: list[Instrument] = [Verify(), CostDelta()]
    if check:
        watching.append(Equivalence(tolerance))
    return run_pipeline(graph, pipeline, context, [*watching, *instruments])
