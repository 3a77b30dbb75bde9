"""The report of a run: what each pass did, what it cost, and whether it kept its promise."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any


@dataclass(frozen=True)
class CostSummary:
    """Size of a graph.

    Attributes:
        nodes: operators, bodies included.
        macs: multiply-accumulates per sample.
        weights: elements of weights.
        weight_bytes: their bytes as stored.
        macs_unknown: nodes whose multiply-accumulates cannot be told: of unknown operators, or without sizes.
    """

    nodes: int
    macs: int
    weights: int
    weight_bytes: int
    macs_unknown: int = 0


@dataclass
class PassReport:
    """What one pass did.

    Attributes:
        name: text of the pass with its options.
        modified: it changed the graph.
        skipped: why it did not run; empty when it ran.
        seconds: wall time.
        before: cost before it, when the cost instrument ran.
        after: cost after it.
        counts: how often each rule or action took place.
        notes: sentences for people.
        kept: for pruned constants, by name and dimension, the indices kept.
        details: figures for programs.
        checks: what the instruments found (``{"equivalence": {...}}``).
    """

    name: str
    modified: bool = False
    skipped: str = ""
    seconds: float = 0.0
    before: CostSummary | None = None
    after: CostSummary | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    kept: Mapping[str, Mapping[int, list[int]]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    checks: dict[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass
class Report:
    """What a pipeline did, pass by pass.

    Attributes:
        pipeline: its text.
        passes: in the order in which they ran.
    """

    pipeline: str
    passes: list[PassReport] = field(default_factory=list)

    @property
    def modified(self) -> bool:
        return any(entry.modified for entry in self.passes)

    @property
    def seconds(self) -> float:
        return sum(entry.seconds for entry in self.passes)

    @property
    def kept(self) -> dict[str, dict[int, list[int]]]:
        """For every pruned constant and dimension the indices that were kept, in terms of the original."""
        total: dict[str, dict[int, list[int]]] = {}
        for entry in self.passes:
            for name, dims in entry.kept.items():
                mine = total.setdefault(name, {})
                for dim, kept in dims.items():
                    mine[dim] = [mine[dim][i] for i in kept] if dim in mine else list(kept)
        return total

    def of(self, name: str) -> PassReport:
        """The last entry of the pass called `name`. Raises KeyError when it did not run."""
        for entry in reversed(self.passes):
            if entry.name.partition("{")[0] == name:
                return entry
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; an infinite figure is the text "inf"."""
        return {"pipeline": self.pipeline, "passes": [plain(vars(entry)) for entry in self.passes]}

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(self.to_dict(), indent=2, default=str)

    def __str__(self) -> str:
        lines = [f"{self.pipeline}: {self.seconds:.2f} s"]
        idle = 0
        for entry in self.passes:
            if not entry.modified and not entry.notes:
                idle += 1
                continue
            lines.append("  " + _line(entry))
            lines.extend(f"      {note}" for note in entry.notes)
        if idle:
            lines.append(f"  {idle} pass{'es' if idle > 1 else ''} had nothing to do")
        return "\n".join(lines)


def plain(value: Any) -> Any:
    """Mappings as dicts, sequences as lists, dataclasses as dicts of their fields; numpy's numbers as Python's."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(vars(value))
    if isinstance(value, Mapping):
        return {key if isinstance(key, (str, int)) else str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)  # JSON has no word for infinity
    item = getattr(value, "item", None)
    return plain(item()) if callable(item) and getattr(value, "ndim", None) == 0 else value


def _line(entry: PassReport) -> str:
    if entry.skipped:
        return f"{entry.name}: skipped, {entry.skipped}"
    parts = [f"{entry.name}: {'changed' if entry.modified else 'nothing to do'}, {entry.seconds:.2f} s"]
    if entry.before and entry.after and entry.modified:
        parts.append(f"{entry.before.nodes} -> {entry.after.nodes} nodes")
        if entry.before.weights != entry.after.weights:
            parts.append(f"{entry.before.weights:,} -> {entry.after.weights:,} weights")
        if entry.before.macs != entry.after.macs:
            more = " and unknown ones" if entry.after.macs_unknown else ""
            parts.append(f"{entry.before.macs:,} -> {entry.after.macs:,} MACs{more}")
    parts.extend(str(check["summary"]) for check in entry.checks.values() if "summary" in check)
    return ", ".join(parts)
