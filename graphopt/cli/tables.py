"""What the commands print."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphopt.analysis.cost import Cost
from graphopt.analysis.shapes import propagate
from graphopt.ir import Graph, Node
from graphopt.ir.dims import free_names
from graphopt.ops import REQUIRED, find
from graphopt.pipeline import (
    Alias,
    Contract,
    Pass,
    PassReport,
    Report,
    all_aliases,
    all_passes,
    find_pass,
    parse_steps,
)
from graphopt.pipeline.html import human, human_bytes, macs_text
from graphopt.pipeline.options import option_infos
from graphopt.rewrite import all_rules

#: What each contract means, in words.
CONTRACTS = {
    Contract.EXACT: "computes the same, up to the order of float operations",
    Contract.MASKED: "computes the same as the original with the removed channels zeroed",
    Contract.APPROXIMATE: "computes nearly the same; the error is measured and reported",
    Contract.TRAINED: "changes the weights by training",
}


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
        "macs_unknown": len(cost.unknown),
        "inputs": {value.name: str(value.type) for value in graph.inputs},
        "outputs": {n: str(v.type) for n, v in zip(graph.output_names, graph.outputs, strict=True)},
    }


def _kind(node: Node) -> str:
    return f"{node.domain}::{node.op}" if node.domain else node.op


def _title(text: str) -> Text:
    """A title as it is written: names may hold brackets, which rich takes for markup in plain text."""
    return Text(text, style="table.title")


def inspect_tables(graph: Graph, layers: bool) -> list[RenderableType]:
    """The tables of ``graphopt inspect``."""
    facts = summary(graph)
    head = Table(title=_title(f"graph '{facts['name']}'"), show_header=False, title_justify="left")
    head.add_row("nodes", f"{facts['nodes']:,}")
    head.add_row("weights", f"{facts['weights']:,} ({human_bytes(facts['weight_bytes'])})")
    named = sorted({n for v in graph.inputs for d in v.tensor_type.shape or () for n in free_names(d)})
    head.add_row(Text(f"MACs at {', '.join(f'{name}=1' for name in named)}" if named else "MACs"), _macs_text(facts))
    for name, kind in facts["inputs"].items():
        head.add_row("input", Text(f"{name}: {kind}"))
    for name, kind in facts["outputs"].items():
        head.add_row("output", Text(f"{name}: {kind}"))
    counts = Table(title="operators", title_justify="left")
    counts.add_column("operator")
    counts.add_column("count", justify="right")
    for name, count in facts["operators"].items():
        counts.add_row(Text(name), str(count))
    return [head, counts, *([layer_table(graph)] if layers else [])]


def _macs_text(facts: dict[str, Any]) -> str:
    unknown = facts["macs_unknown"]
    if not unknown:
        return f"{facts['macs']:,}"
    return f"{facts['macs']:,} and those of {unknown} node{'s' * (unknown > 1)} whose operator or sizes are not known"


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
        table.add_row(
            str(number), Text(_kind(node)), Text(where), Text(shown), f"{cost.weights:,}" if cost.weights else "", macs
        )
    return table


def report_table(report: Report) -> RenderableType:
    """What each pass did that did something, and how many did not."""
    table = Table(title=_title(report.pipeline), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("pass", overflow="fold", min_width=16)
    for column in ("seconds", "nodes", "weights", "MACs"):
        table.add_column(column, justify="right", overflow="fold")
    table.add_column("check", overflow="fold")
    changed = [entry for entry in report.passes if entry.modified]
    for entry in changed:
        checks = "; ".join(str(check.get("summary", "")) for check in entry.checks.values())
        cells = _deltas(entry.before, entry.after)
        table.add_row(Text(entry.name), f"{entry.seconds:.2f}", *cells, Text(checks))
    idle = len(report.passes) - len(changed)
    rest = f"{idle} pass{'es' if idle > 1 else ''} had nothing to do" if idle else ""
    notes = dict.fromkeys(f"{entry.name}: {note}" for entry in report.passes for note in entry.notes)
    lines = [*notes, *([rest] if rest else []), *([_total(changed)] if len(changed) > 1 else [])]
    return Group(*([table] if changed else []), *map(Text, lines))


def _total(changed: Sequence[PassReport]) -> str:
    before, after = changed[0].before, changed[-1].after
    if before is None or after is None:
        return ""
    nodes, weights, macs = _deltas(before, after)
    return f"together: nodes {nodes}, weights {weights}, MACs {macs}"


def _deltas(before: Any, after: Any) -> list[str]:
    if before is None or after is None:
        return ["", "", ""]
    texts = [(human(before.nodes), human(after.nodes)), (human(before.weights), human(after.weights)),
             (macs_text(before), macs_text(after))]  # fmt: skip
    return [f"{a} -> {b}" if a != b else a for a, b in texts]


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
        "aliases": {
            name: {"pipeline": a.pipeline, "doc": a.doc, "levels": dict(a.levels)} for name, a in all_aliases().items()
        },
    }


def rules_dict() -> list[dict[str, Any]]:
    """The installed rules as plain data."""
    return [
        {"name": rule.name, "pass": rule.pass_name, "roots": list(rule.roots), "doc": rule.doc} for rule in all_rules()
    ]


def rules_table() -> RenderableType:
    """The table of ``graphopt passes --rules``."""
    table = Table(title="rules", title_justify="left")
    for heading in ("pass", "rule", "what it does"):
        table.add_column(heading, overflow="fold")
    previous = ""
    for rule in all_rules():
        table.add_row("" if rule.pass_name == previous else rule.pass_name, rule.name, Text(rule.summary))
        previous = rule.pass_name
    return table


def passes_tables() -> list[RenderableType]:
    """The tables of ``graphopt passes``."""
    table = Table(title="passes", title_justify="left")
    for column in ("name", "contract", "needs", "what it does"):
        table.add_column(column, overflow="fold")
    for name, cls in all_passes().items():
        needs = ", ".join(sorted(cls.needs))
        table.add_row(Text(name), cls.contract.value, needs, Text(_first_line(cls.__doc__)))
    aliases = Table(title="aliases", title_justify="left")
    for column in ("name", "pipeline", "what it is for"):
        aliases.add_column(column, overflow="fold")
    for name, alias in all_aliases().items():
        aliases.add_row(Text(name), Text(alias.pipeline), Text(alias.doc))
        for level, pipeline in alias.levels.items():
            aliases.add_row(Text(f"{name}{{level={level}}}"), Text(pipeline), "")
    return [table, aliases]


def explain_pass(cls: type[Pass]) -> RenderableType:
    """Everything about one pass."""
    doc = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:")[0].rstrip()
    facts = f"contract: {cls.contract.value} ({CONTRACTS[cls.contract]})"
    if cls.needs:
        facts += f"\nneeds: {', '.join(sorted(cls.needs))}"
    if cls.looks_for:
        facts += f"\nlooks for: {', '.join(sorted(cls.looks_for))}"
    parts: list[RenderableType] = [Text(f"{cls.name}\n\n{_paragraphs(doc)}\n\n{facts}\n")]
    infos = option_infos(cls)
    if infos:
        table = Table(title="options", title_justify="left")
        for column in ("option", "type", "default", "meaning"):
            table.add_column(column, overflow="fold")
        for info in infos:
            table.add_row(info.name, Text(info.type), Text(info.default), Text(info.doc))
        parts.append(table)
    return Group(*parts)


def _paragraphs(text: str) -> str:
    """A docstring's paragraphs, each on one line, for the terminal to wrap."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def explain_alias(alias: Alias) -> RenderableType:
    """What an alias stands for."""
    rounds = f"\nrepeated until nothing changes, {alias.repeat} times at most" if alias.repeat > 1 else ""
    rounds += "".join(f"\nlevel={name}: {pipeline}" for name, pipeline in alias.levels.items())
    table = Table(title="passes, in order", title_justify="left")
    for column in ("pass", "what it does"):
        table.add_column(column, overflow="fold")
    for step in parse_steps(alias.pipeline):
        found = find_pass(step.name)
        table.add_row(Text(str(step)), Text(found.doc if isinstance(found, Alias) else _first_line(found.__doc__)))
    return Group(Text(f"{alias.name}\n\n{_paragraphs(alias.doc)}{rounds}\n"), table)


def explain_operator(name: str) -> RenderableType:
    """What the vocabulary knows about an operator."""
    record = find(name)
    if record is None:
        raise KeyError(name)
    table = Table(title=_title(f"operator {name}"), show_header=False, title_justify="left")
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


def diff_table(a: Graph, b: Graph, first: str, second: str, tolerance: float | None) -> tuple[RenderableType, bool]:
    """Two graphs side by side, and whether they compute the same."""
    from graphopt.ir import difference
    from graphopt.runtime import run
    from graphopt.runtime.compare import compare
    from graphopt.runtime.samples import runnable_inputs
    from graphopt.runtime.tolerance import tolerance_of

    left, right = summary(a), summary(b)
    table = Table(title="difference", title_justify="left")
    for column in ("", first, second):
        table.add_column(Text(column), overflow="fold")
    for key, title in (
        ("nodes", "nodes"),
        ("weights", "weights"),
        ("weight_bytes", "bytes of weights"),
        ("macs", "MACs"),
    ):
        table.add_row(title, f"{left[key]:,}", f"{right[key]:,}")
    for name in sorted({*left["operators"], *right["operators"]}):
        counts = left["operators"].get(name, 0), right["operators"].get(name, 0)
        if counts[0] != counts[1]:
            table.add_row(Text(name), str(counts[0]), str(counts[1]))
    parts: list[RenderableType] = [table, Text(f"structure: {difference(a, b) or 'equal'}")]
    for kind in ("inputs", "outputs"):
        if left[kind] != right[kind]:
            lines = [f"{name}: {', '.join(f'{n}: {t}' for n, t in facts[kind].items())}"
                     for name, facts in ((first, left), (second, right))]  # fmt: skip
            return Group(*parts, Text(f"the {kind} differ\n  " + "\n  ".join(lines))), False
    made = runnable_inputs(a)
    found = compare(run(b, made.inputs), made.results)
    allowed = max(tolerance_of(a), tolerance_of(b)) if tolerance is None else tolerance
    equal = found.within(allowed)
    sizes = f" ({made})" if made.enlarged else ""
    verdict = f"{'equal' if equal else 'different'} on the same random inputs{sizes}: largest relative difference "
    return Group(*parts, Text(f"{verdict}{found.max_rel:.2e} (tolerance {allowed:g})")), equal
