"""What a run of rules did: hits, misses with reasons, time."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from graphopt.ir import Node


@dataclass
class Statistics:
    """Counts of one run.

    Attributes:
        hits: by rule, how often it was applied.
        missed: by rule, the nodes whose pattern matched but that the rule left alone, with the reason.
        seconds: by rule, time spent in matching and rewriting.
        visits: how often a node was looked at.
    """

    hits: Counter[str] = field(default_factory=Counter)
    missed: dict[str, dict[Node, str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    visits: int = 0

    def miss(self, rule: str, node: Node, reason: str) -> None:
        """Notes why `rule` left a match rooted at `node` alone; the latest reason counts."""
        self.missed.setdefault(rule, {})[node] = reason

    @property
    def misses(self) -> dict[str, Counter[str]]:
        """By rule, how many nodes that are still there were left alone, for each reason."""
        found = {
            rule: Counter(reason for node, reason in nodes.items() if node.graph is not None)
            for rule, nodes in self.missed.items()
        }
        return {rule: counts for rule, counts in found.items() if counts}

    def notes(self) -> tuple[str, ...]:
        """The misses in sentences: ``conv-batch-norm: 3 left alone: the output of Conv is used elsewhere too``."""
        return tuple(
            f"{rule}: {count} left alone: {reason}"
            for rule, counts in sorted(self.misses.items())
            for reason, count in counts.most_common()
        )

    def details(self) -> dict[str, Any]:
        """The figures as plain data."""
        names = dict.fromkeys([*self.seconds, *self.hits, *self.missed])
        misses = self.misses
        return {
            "visits": self.visits,
            "rules": {
                name: {
                    "hits": self.hits[name],
                    "misses": dict(misses.get(name, {})),
                    "seconds": round(self.seconds[name], 6),
                }
                for name in names
            },
        }
