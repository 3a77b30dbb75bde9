"""What the commands print."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphopt.analysis.cost import Cost
from graphopt.analysis.shapes import propagate
from graphopt.ir import Graph, Node
from graphopt.ir.dims import free_names
from graphopt.ops import REQUIRED, find
from graphopt.pipeline import Alias, Pass, Report, all_aliases, all_passes
from graphopt.pipeline.html import human
from graphopt.pipeline.options import option_infos


def summary(graph: Graph) -> dict[str, Any]:
    """The figures of a graph as plain data."""
    propagate(graph)
    cost = Cost(graph)
    return {
        "name": graph.name,
        "nodes": len(cost.nodes),
        "operators": dict(Counter(_kind(node) for node in graph.walk()).most_common()),
        "weights": cost.weights,
        "weight_bytes": cost.weight_bytes,
        "macs": cost.macs,
        "inputs": {value.name: str(value.type) for value in graph.inputs},
        "outputs": {n: str(v.type) for n, v in zip(graph.output_names, graph.outputs, strict=True)},
    }


def _kind(node: Node) -> str:
    return f"{node.domain}::{node.op}" if node.domain else node.op


def inspect_tables(graph: Graph, layers: bool) -> list[RenderableType]:
    """The tables of ``graphopt inspect``."""
    facts = summary(graph)
    head = Table(title=f"graph '{facts['name']}'", show_header=False, title_justify="left")
    head.add_row("nodes", f"{facts['nodes']:,}")
    head.add_row("weights", f"{facts['weights']:,} ({human(facts['weight_bytes'])}B)")
    named = sorted({n for v in graph.inputs for d in v.tensor_type.shape or () for n in free_names(d)})
    head.add_row(f"MACs at {', '.join(f'{name}=1' for name in named)}" if named else "MACs", f"{facts['macs']:,}")
    for name, kind in facts["inputs"].items():
        head.add_row("input", f"{name}: {kind}")
    for name, kind in facts["outputs"].items():
        head.add_row("output", f"{name}: {kind}")
    counts = Table(title="operators", title_justify="left")
    counts.add_column("operator")
    counts.add_column("count", justify="right")
    for name, count in facts["operators"].items():
        counts.add_row(name, str(count))
    return [head, counts, *([layer_table(graph)] if layers else [])]


def layer_table(graph: Graph) -> Table:
    """A row per node: where it comes from, what it gives, what it costs."""
    table = Table(title="layers", title_justify="left")
    for column in ("#", "operator", "module or name", "output"):
        table.add_column(column, overflow="fold")
    for column in ("weights", "MACs"):
        table.add_column(column, justify="right")
    for number, cost in enumerate(Cost(graph).nodes):
        node = cost.node
        macs = "?" if cost.macs is None else f"{cost.macs:,}" if cost.macs else ""
        shown = ", ".join(str(value.type) for value in node.outputs if value.uses)
        where = node.origin.module or node.name
        table.add_row(str(number), _kind(node), where, shown, f"{cost.weights:,}" if cost.weights else "", macs)
    return table


def report_table(report: Report) -> RenderableType:
    """What each pass did."""
    table = Table(title=report.pipeline, title_justify="left")
    table.add_column("pass", overflow="fold")
    for column in ("seconds", "nodes", "weights", "MACs"):
        table.add_column(column, justify="right")
    table.add_column("check", overflow="fold")
    notes: list[str] = []
    for entry in report.passes:
        checks = "; ".join(str(check.get("summary", "")) for check in entry.checks.values())
        if entry.skipped or not entry.modified:
            reason = f"skipped: {entry.skipped}" if entry.skipped else "nothing to do"
            table.add_row(entry.name, f"{entry.seconds:.2f}", "", "", "", reason, style="dim")
        else:
            cells = _deltas(entry.before, entry.after)
            table.add_row(entry.name, f"{entry.seconds:.2f}", *cells, checks)
        notes.extend(f"{entry.name}: {note}" for note in entry.notes)
    return Group(table, *(Text(note) for note in dict.fromkeys(notes)))


def _deltas(before: Any, after: Any) -> list[str]:
    if before is None or after is None:
        return ["", "", ""]
    pairs = [(before.nodes, after.nodes), (before.weights, after.weights), (before.macs, after.macs)]
    return [f"{human(a)} -> {human(b)}" if a != b else human(a) for a, b in pairs]


def _first_line(doc: str | None) -> str:
    return inspect.cleandoc(doc or "").split("\n")[0]


def passes_dict() -> dict[str, Any]:
    """The installed passes and aliases as plain data."""
    return {
        "passes": {
            name: {
                "doc": _first_line(cls.__doc__),
                "contract": cls.contract.value,
                "needs": sorted(cls.needs),
                "options": [vars(info) for info in option_infos(cls)],
            }
            for name, cls in all_passes().items()
        },
        "aliases": {name: {"pipeline": a.pipeline, "doc": a.doc} for name, a in all_aliases().items()},
    }


def passes_tables() -> list[RenderableType]:
    """The tables of ``graphopt passes``."""
    table = Table(title="passes", title_justify="left")
    for column in ("name", "contract", "needs", "what it does"):
        table.add_column(column, overflow="fold")
    for name, cls in all_passes().items():
        table.add_row(name, cls.contract.value, ", ".join(sorted(cls.needs)), _first_line(cls.__doc__))
    aliases = Table(title="aliases", title_justify="left")
    for column in ("name", "pipeline", "what it is for"):
        aliases.add_column(column, overflow="fold")
    for name, alias in all_aliases().items():
        aliases.add_row(name, alias.pipeline, alias.doc)
    return [table, aliases]


def explain_pass(cls: type[Pass]) -> RenderableType:
    """Everything about one pass."""
    doc = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:")[0].rstrip()
    parts: list[RenderableType] = [Text(f"{cls.name}\n\n{doc}\n\ncontract: {cls.contract.value}")]
    if cls.needs:
        parts.append(Text(f"needs: {', '.join(sorted(cls.needs))}"))
    infos = option_infos(cls)
    if infos:
        table = Table(title="options", title_justify="left")
        for column in ("option", "type", "default", "meaning"):
            table.add_column(column, overflow="fold")
        for info in infos:
            table.add_row(info.name, Text(info.type), Text(info.default), Text(info.doc))
        parts.append(table)
    return Group(*parts)


def explain_alias(alias: Alias) -> RenderableType:
    """What an alias stands for."""
    rounds = f"\nrepeated until nothing changes, {alias.repeat} times at most" if alias.repeat > 1 else ""
    return Text(f"{alias.name} = {alias.pipeline}{rounds}\n\n{alias.doc}")


def explain_operator(name: str) -> RenderableType:
    """What the vocabulary knows about an operator."""
    record = find(name)
    if record is None:
        raise KeyError(name)
    table = Table(title=f"operator {name}", show_header=False, title_justify="left")
    known = {
        "output types": record.infer,
        "computed with torch": record.compute,
        "channel relation": record.relate,
        "cost": record.macs,
        "shape arithmetic": record.evaluate,
    }
    for question, answer in known.items():
        table.add_row(question, "yes" if answer is not None else "no")
    for attribute, default in record.attributes.items():
        table.add_row(f"attribute {attribute}", "required" if default is REQUIRED else f"default {default!r}")
    return table


def diff_table(a: Graph, b: Graph, first: str, second: str, tolerance: float) -> tuple[RenderableType, bool]:
    """Two graphs side by side, and whether they compute the same."""
    from graphopt.ir import difference
    from graphopt.runtime import run
    from graphopt.runtime.compare import compare
    from graphopt.runtime.samples import example_inputs

    left, right = summary(a), summary(b)
    table = Table(title="difference", title_justify="left")
    for column in ("", first, second):
        table.add_column(column, overflow="fold")
    for key in ("nodes", "weights", "weight_bytes", "macs"):
        table.add_row(key, f"{left[key]:,}", f"{right[key]:,}")
    for name in sorted({*left["operators"], *right["operators"]}):
        counts = left["operators"].get(name, 0), right["operators"].get(name, 0)
        if counts[0] != counts[1]:
            table.add_row(name, str(counts[0]), str(counts[1]))
    structural = difference(a, b)
    if left["inputs"] != right["inputs"] or list(left["outputs"]) != list(right["outputs"]):
        return Group(table, Text(f"structure: {structural}"), Text("the inputs or outputs differ")), False
    inputs = example_inputs(a)
    found = compare(run(b, inputs), run(a, inputs))
    verdict = f"on the same random inputs: largest relative difference {found.max_rel:.2e}"
    return Group(table, Text(f"structure: {structural or 'equal'}"), Text(verdict)), found.within(tolerance)
