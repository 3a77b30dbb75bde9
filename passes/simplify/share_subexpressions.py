"""Common sub-expressions: what is computed twice is computed once."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from graphopt.ir import Graph, Node, Value
from graphopt.ops import REQUIRED, record_of
from graphopt.pipeline import Changes, Context, Pass, register
from graphopt.rewrite import replace


@register("share-subexpressions")
@dataclass(frozen=True)
class ShareSubexpressions(Pass):
    """Let one node serve all that apply the same operator with the same attributes to the same inputs.

    A body shares with the graphs around it, never the other way round. Random operators, operators with bodies, unknown
    operators, and normalisations in training mode (they update statistics) are left alone.
    """

    def run(self, graph: Graph, context: Context) -> Changes:
        shared = _visit(graph, {}, self.name)
        return Changes(bool(shared), {"shared": shared})


def _visit(graph: Graph, table: dict[Hashable, Node], name: str) -> int:
    shared, added = 0, []
    for node in graph.nodes:
        for body in node.bodies:
            shared += _visit(body, table, name)
        key = _key(node)
        if key is None:
            continue
        first = table.get(key)
        if first is None:
            table[key] = node
            added.append(key)
            continue
        first.origin = first.origin.merge(node.origin).touched_by(name)
        replace(node.outputs, first.outputs)
        if node.graph is not None:  # nothing read it
            node.graph.erase(node)
        shared += 1
    for key in added:
        del table[key]
    return shared


def _key(node: Node) -> Hashable | None:
    record = record_of(node)
    if record is None or record.random or node.bodies or node.attributes.get("training_mode"):
        return None
    attributes = []
    for name, value in node.attributes.items():
        shown = _hashable(value)
        if shown is None:
            return None
        if shown != _hashable(record.attributes.get(name, REQUIRED)):
            attributes.append((name, shown))
    inputs: list[Value | None] = list(node.inputs)
    if record.commutative and len(inputs) > 1:
        inputs[:2] = sorted(inputs[:2], key=id)
    kinds = tuple(str(value.type) for value in node.outputs) if not inputs else ()
    return node.domain, node.op, node.overload, tuple(inputs), tuple(sorted(attributes)), len(node.outputs), kinds


def _hashable(value: Any) -> Hashable | None:
    """Text that is equal for equal attributes only (1, 1.0 and True are three different ones); None for tensors."""
    if isinstance(value, (tuple, list)):
        parts = [_hashable(item) for item in value]
        return None if any(part is None for part in parts) else f"({', '.join(map(str, parts))})"
    if value is REQUIRED or value is None or isinstance(value, (str, bytes, int, float)):
        kind = int if isinstance(value, int) else type(value)
        return f"{kind.__name__} {(int(value) if isinstance(value, int) else value)!r}"
    return None
