"""The report of a run as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.pipeline.report import CostSummary, PassReport, Report

#: Figures of the report: attribute of `CostSummary`, title.
FIGURES = (
    ("macs", "Multiply-accumulates"),
    ("weights", "Weights"),
    ("weight_bytes", "Bytes of weights"),
    ("nodes", "Nodes"),
)
CHARTS = ("macs", "weights")


@dataclass(frozen=True)
class Bar:
    """A bar of a chart: its label, value, length from 0 to 100, and the value as text."""

    label: str
    value: int
    length: float
    text: str


def to_html(report: Report) -> str:
    """The report as a page: totals, charts, every pass with its checks and notes, pruned groups."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("graphopt.pipeline", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["human"] = human
    measured = [entry for entry in report.passes if entry.before is not None and entry.after is not None]
    return environment.get_template("report.html.j2").render(
        report=report,
        totals=_totals(measured),
        charts=[(title, _bars(measured, name)) for name, title in FIGURES if name in CHARTS],
        rows=[_row(number, entry) for number, entry in enumerate(report.passes, 1)],
        pruned=[(entry.name, groups) for entry in report.passes if (groups := _groups(entry))],
        measured=[(entry.name, found) for entry in report.passes if (found := _curves(entry)) is not None],
    )


def human(number: float) -> str:
    """A number with a unit prefix: ``1.23 M``."""
    for unit in ("", " k", " M", " G", " T"):
        if abs(number) < 1000:
            return f"{number:.3g}{unit}" if unit else f"{number:g}"
        number /= 1000
    return f"{number:.3g} P"


def human_bytes(number: float) -> str:
    """A number of bytes with its unit: ``142 B``, ``1.23 MB``."""
    return f"{human(number)}B" if abs(number) >= 1000 else f"{human(number)} B"


def macs_text(cost: CostSummary) -> str:
    """The multiply-accumulates of a graph, and whether there are some that cannot be told: ``1.23 M + ?``."""
    return f"{human(cost.macs)} + ?" if cost.macs_unknown else human(cost.macs)


def _figure(cost: CostSummary, name: str) -> str:
    if name == "weight_bytes":
        return human_bytes(cost.weight_bytes)
    return macs_text(cost) if name == "macs" else human(getattr(cost, name))


def _totals(measured: Sequence[PassReport]) -> list[dict[str, Any]]:
    if not measured:
        return []
    first, last = measured[0].before, measured[-1].after
    assert first is not None
    assert last is not None
    rows = []
    for name, title in FIGURES:
        before, after = getattr(first, name), getattr(last, name)
        factor = f"{before / after:.2f}x fewer" if before > after > 0 else "as before" if before == after else ""
        rows.append({"title": title, "before": _figure(first, name), "after": _figure(last, name), "factor": factor})
    return rows


def _bars(measured: Sequence[PassReport], name: str) -> list[Bar]:
    """The figure as it was, and after every pass that changed it."""
    points: list[tuple[str, int]] = []
    for entry in measured:
        before, after = getattr(entry.before, name), getattr(entry.after, name)
        if not points:
            points.append(("original", before))
        if after != points[-1][1]:
            points.append((entry.name, after))
    largest = max((value for _, value in points), default=0) or 1
    return [Bar(label, value, 100 * value / largest, human(value)) for label, value in points]


def _row(number: int, entry: PassReport) -> dict[str, Any]:
    state = "skipped" if entry.skipped else "changed" if entry.modified else "nothing to do"
    return {
        "number": number,
        "entry": entry,
        "state": state,
        "counts": ", ".join(f"{name}: {count}" for name, count in entry.counts.items() if count),
        "deltas": [_delta(entry.before, entry.after, name) for name in ("nodes", "weights", "macs")],
        "checks": [
            {"name": name, "summary": str(check.get("summary", "")), "figures": _figures(check)}
            for name, check in entry.checks.items()
        ],
    }


def _figures(check: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in check.items() if name != "summary"}
    return ", ".join(f"{n}: {v:.3g}" if isinstance(v, float) else f"{n}: {v}" for n, v in shown.items())


def _delta(before: CostSummary | None, after: CostSummary | None, name: str) -> str:
    if before is None or after is None or getattr(before, name) == getattr(after, name):
        return ""
    return f"{_figure(before, name)} → {_figure(after, name)}"


def _groups(entry: PassReport) -> list[dict[str, Any]]:
    """The groups of channels that a pruning pass lists under ``details["groups"]``."""
    groups = entry.details.get("groups")
    if not isinstance(groups, (list, tuple)):
        return []
    return [
        {**group, "kept": 1 - group["removed"] / group["components"]}
        for group in groups
        if isinstance(group, Mapping) and {"group", "components", "removed"} <= group.keys() and group["components"]
    ]


def _curves(entry: PassReport) -> dict[str, Any] | None:
    """What a pass measured of each group, listed under ``details["sensitivity"]``, as lines in a box of 100 by 100."""
    found = entry.details.get("sensitivity")
    if not isinstance(found, Mapping) or not {"metric", "baseline", "ratios", "curves"} <= found.keys():
        return None
    baseline, ratios = found["baseline"], [0.0, *found["ratios"]]
    lines = [(curve, [baseline, *curve["values"]]) for curve in found["curves"]]
    every = [value for _, values in lines for value in values] or [baseline]
    low, span = min(every), (max(every) - min(every)) or 1.0
    charts = [
        {
            "group": curve["group"],
            "points": " ".join(
                f"{100 * x:.1f},{96 - 92 * (y - low) / span:.1f}" for x, y in zip(ratios, values, strict=True)
            ),
            "shown": ", ".join(f"{x:g}: {y:.4g}" for x, y in zip(ratios, values, strict=True)),
            "ratio": found.get("allocation", {}).get(curve["group"]),
            "change": abs(values[-1] - baseline),
        }
        for curve, values in lines
    ]
    charts.sort(key=lambda chart: -chart["change"])
    return {"metric": found["metric"], "baseline": baseline, "low": low, "high": low + span, "charts": charts}
