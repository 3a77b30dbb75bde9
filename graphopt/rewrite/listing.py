"""The rules that are installed, as data."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from graphopt.pipeline.registry import all_passes
from graphopt.rewrite.rewrite_pass import RewritePass


@dataclass(frozen=True)
class RuleInfo:
    """What can be told of a rule.

    Attributes:
        name: as in reports.
        pass_name: the pass that applies it.
        roots: operators that it looks for.
        doc: what it does, on what conditions.
    """

    name: str
    pass_name: str
    roots: tuple[str, ...]
    doc: str

    @property
    def summary(self) -> str:
        """The first sentence or paragraph."""
        return " ".join(self.doc.split("\n\n")[0].split())


def all_rules() -> list[RuleInfo]:
    """Every rule of every registered pass, plug-ins included, in the order in which a pass tries them."""
    found = []
    for name, cls in all_passes().items():
        if not issubclass(cls, RewritePass):
            continue
        for rule in cls.rules:
            roots = sorted(f"{domain}::{op}" if domain else op for domain, op in rule().compiled.keys)
            found.append(RuleInfo(rule.name, name, tuple(roots), inspect.getdoc(rule) or ""))
    return found


__all__ = ["RuleInfo", "all_rules"]
