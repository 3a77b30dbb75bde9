"""The command bench: models measured beside one another."""

from __future__ import annotations

import enum
import json
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from graphopt.cli import models
from graphopt.errors import DataError, GraphoptError, OptionError


class Runtime(enum.StrEnum):
    """Where models run."""

    ort = "ort"
    torch = "torch"


def bench(
    model: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Models, as for the other commands; the first is the baseline."),
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="An .npz file or a folder of .npy files; with labels in it accuracy is measured, too."),
    ] = None,
    runtime: Annotated[Runtime, typer.Option(help="ONNX Runtime or torch, both on the CPU.")] = Runtime.ort,
    threads: Annotated[int, typer.Option(min=1, help="Threads that a run may use.")] = 1,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each model; they take turns.")] = 20,
    batch: Annotated[int, typer.Option(min=1, help="Size of open dimensions.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON instead.")] = False,
) -> None:
    """Measure models beside one another: time, size, modelled energy, accuracy or error against the first."""
    from graphopt.pipeline.report import plain
    from graphopt.runtime.measure import measure

    models.check_data(data)
    graphs = models.read_all(model)
    _check_alike(graphs, model)
    inputs, labelled = _inputs(graphs[0], data, batch)
    found = measure(graphs, inputs, runtime=runtime.value, threads=threads, runs=runs, labelled=labelled)
    if as_json:
        print(json.dumps(plain(dict(zip(model, found, strict=True))), indent=2))
        return
    shapes = ", ".join(f"{value.name} {list(each.shape)}" for value, each in zip(graphs[0].inputs, inputs, strict=True))
    title = f"{runtime.value}, {threads} thread{'s' * (threads > 1)}, median of {runs}, on {shapes}"
    table = Table(title=Text(title, style="table.title"), title_justify="left")
    accuracy = found[0].accuracy is not None
    for column in ("model", "ms", "x", "MACs", "weights, kB", "energy, mJ", "accuracy" if accuracy else "SQNR, dB"):
        table.add_column(Text(column), justify="left" if column == "model" else "right", overflow="fold")
    for spec, each in zip(model, found, strict=True):
        quality = f"{100 * each.accuracy:.2f}%" if each.accuracy is not None else f"{each.sqnr_db:.1f}"
        table.add_row(
            Text(spec), f"{1000 * each.seconds:.3f}", f"{each.seconds / found[0].seconds:.2f}", f"{each.macs:,}",
            f"{each.weight_bytes / 1000:,.1f}", f"{each.millijoules:.4f}", quality,
        )  # fmt: skip
    Console().print(table)


def _check_alike(graphs: list[Any], specs: list[str]) -> None:
    wanted = [value.type for value in graphs[0].inputs]
    for graph, spec in zip(graphs, specs, strict=True):
        if len(graph.inputs) != len(wanted):
            raise OptionError(
                f"'{spec}' has {len(graph.inputs)} inputs and '{specs[0]}' has {len(wanted)}", where="bench",
                hint="compare models for the same inputs",
            )  # fmt: skip
        for value, kind in zip(graph.inputs, wanted, strict=True):
            if not _fits(value.type, kind):
                raise OptionError(
                    f"input '{value.name}' of '{spec}' is {value.type}, and that of '{specs[0]}' {kind}", where="bench",
                    hint="compare models for the same inputs",
                )  # fmt: skip


def _fits(own: Any, other: Any) -> bool:
    """Whether one tensor can be given to both; what is open, or not known, fits anything."""
    mine, theirs = getattr(own, "shape", None), getattr(other, "shape", None)
    if mine is None or theirs is None:
        return True
    pairs = list(zip(mine, theirs, strict=False))
    return len(mine) == len(theirs) and all(a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in pairs)


def _inputs(graph: Any, data: Path | None, batch: int) -> tuple[list[Any], list[tuple[Any, Any]]]:
    """What models are timed on, and batches with labels when there are any."""
    from graphopt.ir.dims import free_names
    from graphopt.pipeline import Data
    from graphopt.runtime.samples import runnable_inputs

    names = {name for value in graph.inputs for dim in value.shape or () for name in free_names(dim)}
    if data is None:
        try:
            return runnable_inputs(graph, sizes=dict.fromkeys(names, batch)).inputs, []
        except GraphoptError:  # a signal may have to be longer than the batch is large
            leaders = {name for value in graph.inputs for dim in (value.shape or ())[:1] for name in free_names(dim)}
            return runnable_inputs(graph, sizes=dict.fromkeys(leaders, batch)).inputs, []
    batches = list(Data(str(data), graph))
    labelled = [(each.inputs, each.labels) for each in batches if each.labels is not None]
    if labelled and len(labelled) < len(batches):
        raise DataError("some batches have labels and some have none", where="--data")
    first = batches[0].inputs
    rows = batch if names else None
    return [tensor[:rows] if tensor.dim() else tensor for tensor in first], list(islice(labelled, None))
