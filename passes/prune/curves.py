"""Sensitivity curves as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT = 260, 120

_PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Sensitivity</title>
<style>
body {{ font: 14px system-ui, sans-serif; margin: 2em; color: #222; background: #fff; }}
.grid {{ display: flex; flex-wrap: wrap; gap: 1.2em; }}
figure {{ margin: 0; width: {width}px; }}
figcaption {{ font-size: 12px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }}
svg {{ background: #f6f7f9; }}
polyline {{ fill: none; stroke: #2563eb; stroke-width: 2; }}
line {{ stroke: #bbb; stroke-dasharray: 3 3; }}
text {{ font-size: 10px; fill: #555; }}
</style>
<h1>Sensitivity</h1>
<p>{metric} against the part of a group that is left out; the dashed line is the whole graph: {baseline:.4g}.
All figures share one scale, the most sensitive group comes first.</p>
<div class="grid">
{figures}
</div>
</html>
"""


def to_html(found: Mapping[str, Any]) -> str:
    """The page for what the pass `sensitivity` found: a small chart per group, the most sensitive first.

    Args:
        found: its ``details["sensitivity"]``.
    """
    baseline = found["baseline"]
    every = [baseline, *(value for curve in found["curves"] for value in curve["values"])]
    low, high = min(every), max(every)
    ratios = [0.0, *found["ratios"]]
    curves = sorted(found["curves"], key=lambda curve: -abs(curve["values"][-1] - baseline))
    figures = "\n".join(_figure(curve, ratios, baseline, low, high) for curve in curves)
    return _PAGE.format(metric=escape(found["metric"]), baseline=baseline, figures=figures, width=_WIDTH)


def _figure(curve: Mapping[str, Any], ratios: Sequence[float], baseline: float, low: float, high: float) -> str:
    span = (high - low) or 1.0

    def y(value: float) -> float:
        return round(_HEIGHT - 8 - (value - low) / span * (_HEIGHT - 16), 1)

    values = [baseline, *curve["values"]]
    points = " ".join(f"{ratio * _WIDTH:.1f},{y(value)}" for ratio, value in zip(ratios, values, strict=True))
    shown = ", ".join(f"{ratio:g}: {value:.4g}" for ratio, value in zip(ratios, values, strict=True))
    name = escape(f"{curve['group']} ({curve['components']} {curve['kind']})")
    return (
        f'<figure><svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{name}">'
        f"<title>{escape(shown)}</title>"
        f'<line x1="0" x2="{_WIDTH}" y1="{y(baseline)}" y2="{y(baseline)}"/><polyline points="{points}"/>'
        f'<text x="4" y="12">{high:.3g}</text><text x="4" y="{_HEIGHT - 4}">{low:.3g}</text></svg>'
        f'<figcaption title="{name}">{name}</figcaption></figure>'
    )
