"""The commands."""

from __future__ import annotations

import enum
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from graphopt.cli import models, tables
from graphopt.cli.bench import bench
from graphopt.cli.new_pass import new_pass
from graphopt.errors import OptionError, nearest

app = typer.Typer(
    help="A compiler for neural-network graphs: prune, fuse, quantize - torch or ONNX in, torch or ONNX out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="An ONNX file, a torch.export .pt2, package.module:function returning (nn.Module, example args), a graph "
        "in text form (.txt), or - for an ONNX model on standard input.",
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Largest relative difference that counts as equal; by default 1e-4, and more where a model computes in "
        "half precision.",
    ),
]


def _version(asked: bool) -> None:
    if asked:
        from graphopt import __version__

        print(f"graphopt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _show(*items: RenderableType) -> None:
    console = Console()
    for item in items:
        console.print(item)


class Check(enum.StrEnum):
    """How strictly passes are held to their contracts."""

    strict = "strict"
    report = "report"
    off = "off"


@app.command()
def optimize(
    model: Model,
    pipeline: Annotated[str, typer.Option("-p", "--pipeline", help="Passes: simplify,fuse,prune-channels{ratio=0.5}")],
    output: Annotated[
        str, typer.Option("-o", "--output", help="Where to: .onnx, .pt2, .txt, or - for standard output.")
    ],
    data: Annotated[Path | None, typer.Option(help="An .npz file, or a folder of .npy files, one per input.")] = None,
    opset: Annotated[int | None, typer.Option(help="Opset of the ONNX file; the lowest that does by default.")] = None,
    sparse: Annotated[bool, typer.Option("--sparse", help="Write weights as sparse tensors where smaller.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a report: .html or .json.")] = None,
    fix_shapes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SHAPE",
            help="Give an input its shape, x=1x3x224x224, or an open dimension its size, "
            "batch=1, and fold what follows from it. May be given several times.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random choices.")] = 0,
    check: Annotated[Check, typer.Option(help="Hold every pass to its contract on sample inputs.")] = Check.strict,
    tolerance: Tolerance = None,
    show: Annotated[bool, typer.Option("--print-diff", help="Print what each pass changed.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False,
) -> None:
    """Rewrite a model with a pipeline of passes and write it."""
    from graphopt.pipeline import resolve
    from graphopt.pipeline.context import Context, no_progress
    from graphopt.pipeline.html import human_bytes
    from graphopt.pipeline.instruments import CostDelta, Equivalence, Instrument, PrintGraph, Reproducer, Verify
    from graphopt.pipeline.manager import run_pipeline
    from graphopt.pipeline.progress import RichProgress

    # What is wrong with the command shows before the model is read.
    pipeline = models.with_fixed_shapes(pipeline, fix_shapes or [])
    resolve(pipeline)
    models.check_output(output, opset, sparse)
    models.check_report(report)
    models.check_data(data)
    graph = models.read(model)
    instruments: list[Instrument] = [Verify(), CostDelta(), Reproducer()]
    if check is not Check.off:
        instruments.append(Equivalence(tolerance, strict=check is Check.strict))
    if show:
        instruments.append(PrintGraph())
    progress = no_progress if quiet or not sys.stderr.isatty() else RichProgress()
    context = Context(graph, str(data) if data is not None else None, seed=seed, progress=progress)
    result = run_pipeline(graph, pipeline, context, instruments)
    models.write(graph, output, opset, sparse)
    if report is not None:
        models.write_report(result, report)
    if not quiet:
        console = Console(stderr=output == "-")
        console.print(tables.report_table(result))
        written = [str(each) for each in (output, report) if each is not None and str(each) != "-"]
        for name in written:
            size = human_bytes(Path(name).stat().st_size)
            console.print(f"wrote {name} ({size})", highlight=False, soft_wrap=True, markup=False)


@app.command()
def inspect(
    model: Model,
    layers: Annotated[bool, typer.Option(help="List every node.")] = True,
    text: Annotated[bool, typer.Option("--text", help="Print the graph in text form instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print figures as JSON instead.")] = False,
) -> None:
    """Show what a model is made of: operators, parameters, MACs, shapes, layer by layer."""
    if text and as_json:
        raise OptionError("--text and --json exclude one another", where="inspect", hint="give one of them")
    graph = models.read(model, weights=False)
    if text:
        print(graph)
        return
    if as_json:
        print(json.dumps(tables.summary(graph), indent=2))
        return
    _show(*tables.inspect_tables(graph, layers))


@app.command()
def passes(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON instead.")] = False,
    rules: Annotated[bool, typer.Option("--rules", help="List the rules that passes are made of instead.")] = False,
) -> None:
    """List the passes and aliases that are installed."""
    if rules:
        if as_json:
            print(json.dumps(tables.rules_dict(), indent=2))
            return
        _show(tables.rules_table())
        return
    if as_json:
        print(json.dumps(tables.passes_dict(), indent=2))
        return
    _show(*tables.passes_tables())


@app.command()
def explain(
    name: Annotated[str, typer.Argument(help="A pass, an alias or an operator.")],
) -> None:
    """Tell what a pass does, its contract and its options; or what is known of an operator."""
    from graphopt.ops import find, operators
    from graphopt.pipeline import all_aliases, all_passes

    known = all_passes()
    if name in known:
        _show(tables.explain_pass(known[name]))
    elif name in all_aliases():
        _show(tables.explain_alias(all_aliases()[name]))
    elif find(name) is not None:
        _show(tables.explain_operator(name))
    else:
        names = [*known, *all_aliases(), *(operator.name for operator in operators())]
        raise OptionError(
            f"there is no pass, alias or operator '{name}'", hint=nearest(name, names) or "'graphopt passes' lists them"
        )


@app.command()
def verify(model: Model) -> None:
    """Check that a model is well formed and that its shapes are consistent."""
    from graphopt.analysis import propagate_all

    graph = models.read(model, weights=False)
    graph.verify()
    propagate_all(graph)
    _show(Text(f"{model}: well formed, {sum(1 for _ in graph.walk())} nodes"))


@app.command()
def diff(
    first: Model,
    second: Annotated[str, typer.Argument(metavar="MODEL", help="The model to compare with.")],
    tolerance: Tolerance = None,
) -> None:
    """Compare two models: structure, cost, and what they compute on the same inputs. Exit status 1 when they differ."""
    a, b = models.read_all([first, second])
    table, equal = tables.diff_table(a, b, first, second, tolerance)
    _show(table)
    if not equal:
        raise typer.Exit(1)


@app.command()
def reduce(
    model: Model,
    pipeline: Annotated[str, typer.Option("-p", "--pipeline", help="The pipeline that fails.")],
    output: Annotated[str, typer.Option("-o", "--output", help="Where to: .onnx or .txt, or - for standard output.")],
    seed: Annotated[int, typer.Option(help="Seed of the random inputs and of the run.")] = 0,
    tolerance: Tolerance = None,
) -> None:
    """Cut a model down to the smallest part on which a pipeline still fails in the same way."""
    from graphopt.pipeline.context import no_progress
    from graphopt.pipeline.progress import RichProgress
    from graphopt.pipeline.reduce import reduce_graph

    models.check_output(output)
    graph = models.read(model)
    before = sum(1 for _ in graph.nodes)
    progress = RichProgress() if sys.stderr.isatty() else no_progress
    failing = reduce_graph(graph, pipeline, seed=seed, tolerance=tolerance, progress=progress)
    models.write(graph, output, None)
    console = Console(stderr=output == "-", highlight=False, soft_wrap=True)
    console.print(f"{before} -> {sum(1 for _ in graph.nodes)} nodes, which fail with: {failing.message}", markup=False)


app.command()(bench)
app.command("new-pass")(new_pass)
