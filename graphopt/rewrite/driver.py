"""The driver: applies rules from a worklist until none applies, in time linear in the size of the graph."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import reduce

from graphopt.analysis.operators import nodes_of
from graphopt.errors import PassError
from graphopt.ir import Graph, Node, Origin, Value
from graphopt.ops.builder import Builder
from graphopt.rewrite.pattern import Key, kind_of, orders
from graphopt.rewrite.replace import drop_orphans, is_kept, module_of, replace
from graphopt.rewrite.rule import Compiled, Failure, Match, Result, Rule
from graphopt.rewrite.sketch import Sketch
from graphopt.rewrite.statistics import Statistics

# Names of source nodes are kept for people; a node made from a thousand others needs no list of them.
_MAX_SOURCES = 32
# Readers further away than the first are looked at again only below values with at most this many of them.
_MAX_FAN_OUT = 32


def apply_rules(
    graph: Graph,
    rules: Sequence[Rule],
    *,
    name: str = "",
    budget: int | None = None,
    keep: Callable[[Value], bool] = is_kept,
) -> Statistics:
    """Rewrites `graph`, bodies included, in place until no rule applies.

    Every node is looked at once; after a rewrite, the new nodes, and what reads or shared a reader with the replaced
    ones, are looked at again.

    Args:
        graph: types must be up to date.
        rules: tried in order at each node.
        name: of the pass, for provenance.
        budget: most rewrites; by default 10 for each node, and 100.
        keep: constants that stay when nothing reads them any more.

    Raises:
        PassError: the budget is spent; names the rule that goes on and on.
    """
    driver = _Driver(graph, rules, name, keep, budget)
    driver.run()
    return driver.statistics


class _Driver:
    def __init__(
        self, graph: Graph, rules: Sequence[Rule], name: str, keep: Callable[[Value], bool], budget: int | None
    ) -> None:
        self.graph = graph
        self.name = name
        self.keep = keep
        self.statistics = Statistics()
        self.index: dict[Key, list[tuple[Rule, Compiled]]] = {}
        self.reach = 1
        for rule in rules:
            compiled = rule.compiled
            self.reach = max(self.reach, compiled.depth)
            for key in compiled.keys:
                self.index.setdefault(key, []).append((rule, compiled))
        self.queue: deque[Node] = deque()
        self.queued: set[Node] = set()
        self.made_by: dict[Node, set[str]] = {}
        self.orphaned: set[str] = set()
        nodes = nodes_of(graph, self.index)
        self.queue.extend(nodes)
        self.queued.update(nodes)
        self.budget = 10 * len(self.queue) + 100 if budget is None else budget

    def enqueue(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node not in self.queued and (node.domain, node.op) in self.index:
                self.queued.add(node)
                self.queue.append(node)

    def run(self) -> None:
        while self.queue:
            node = self.queue.popleft()
            self.queued.discard(node)
            if node.graph is None or not _is_inside(node, self.graph):
                continue
            self.statistics.visits += 1
            self.visit(node)
        drop_orphans(self.graph, self.orphaned)

    def visit(self, node: Node) -> None:
        forbidden = self.made_by.get(node, ())
        key = (node.domain, node.op)
        kinds = [[kind_of(value) for value in order] for order in orders(node)]
        for rule, compiled in self.index[key]:
            if (rule.name in forbidden and not rule.recursive) or not compiled.may_match(key, kinds):
                continue
            started = time.perf_counter()
            applied = self.attempt(rule, compiled, node)
            self.statistics.seconds[rule.name] += time.perf_counter() - started
            if applied:
                self.spend(rule, node)
                return

    def spend(self, rule: Rule, node: Node) -> None:
        self.statistics.hits[rule.name] += 1
        total = self.statistics.hits.total()
        if total <= self.budget:
            return
        worst, count = self.statistics.hits.most_common(1)[0]
        others = [f"'{other}'" for other, _ in self.statistics.hits.most_common(3)[1:]]
        raise PassError(
            f"rule '{worst}' was applied {count} times without coming to an end",
            where=node.describe(),
            hint="it matches what it makes itself" + (f", or what {' or '.join(others)} makes" if others else ""),
        )

    def attempt(self, rule: Rule, compiled: Compiled, node: Node) -> bool:
        reasons: list[str] = []

        def accept(match: Match) -> bool:
            reason = match.escape() or self.rewrite(rule, match)
            if reason:
                reasons.append(reason)
            return not reason

        applied = compiled.match(node, accept)
        if reasons and not applied:
            self.statistics.miss(rule.name, node, reasons[0])
        return applied

    def rewrite(self, rule: Rule, match: Match) -> str:
        """Applies a rule to a match. Returns why it did not; empty when it did."""
        anchor = min(match.roots, key=lambda root: root._order)
        builder = Sketch(match.graph, anchor, self.origin(match))
        result = rule.rewrite(builder, match)
        pairs = [] if isinstance(result, Failure) else _pairs(rule, match, result)
        reason = result.reason if isinstance(result, Failure) else _obstacle(match, builder, pairs)
        if reason:
            return reason
        found = [(old, new) for old, new in pairs if new is not None]
        builder.place(new for _, new in found)
        self.commit(rule, builder, match, found)
        return ""

    def origin(self, match: Match) -> Origin:
        merged = reduce(Origin.merge, (node.origin for node in match.nodes))
        if len(merged.sources) > _MAX_SOURCES:
            merged = Origin(merged.module, merged.sources[:_MAX_SOURCES], merged.passes)
        return merged.touched_by(self.name) if self.name else merged

    def commit(self, rule: Rule, builder: Builder, match: Match, pairs: list[tuple[Value, Value]]) -> None:
        made = list(builder.nodes)
        inherited = set().union(*(self.made_by.pop(root, set()) for root in match.roots), {rule.name})
        readers = dict.fromkeys(user for old, _ in pairs for user in old.users)
        swept = replace([old for old, _ in pairs], [new for _, new in pairs], fresh=made, keep=self.keep)
        self.orphaned.update(module_of(value) for value in swept.constants if value.parameter is not None)
        for node in made:
            self.made_by[node] = inherited
            self.enqueue([node, *(inner for body in node.bodies for inner in body.walk())])
        self.enqueue_from(readers)
        self.enqueue_from(user for value in swept.loosened if len(value.uses) <= _MAX_FAN_OUT for user in value.users)

    def enqueue_from(self, nodes: Iterable[Node]) -> None:
        """Queues `nodes` and what lies below them, down to the depth of the deepest pattern."""
        level = dict.fromkeys(nodes)
        for _ in range(self.reach):
            self.enqueue(level)
            outputs = (out for node in level for out in node.outputs if len(out.uses) <= _MAX_FAN_OUT)
            level = dict.fromkeys(user for out in outputs for user in out.users)


def _is_inside(node: Node, graph: Graph) -> bool:
    scope = node.graph
    while scope is not None and scope is not graph:
        scope = scope.owner.graph if scope.owner is not None else None
    return scope is graph


def _pairs(rule: Rule, match: Match, result: Result) -> list[tuple[Value, Value | None]]:
    """The replaced values with what replaces them. Raises PassError when the rule returned something else."""
    olds = match.replaced
    news = [result, *[None] * (len(olds) - 1)] if isinstance(result, Value) else result
    if not isinstance(news, Sequence) or not all(new is None or isinstance(new, Value) for new in news):
        raise PassError(
            f"rule '{rule.name}' returned {type(result).__name__}", where=match.root.describe(),
            hint="rewrite() returns a value, one value per output, or m.fail(reason)",
        )  # fmt: skip
    return [(old, news[i] if i < len(news) else None) for i, old in enumerate(olds)]


def _obstacle(match: Match, builder: Builder, pairs: list[tuple[Value, Value | None]]) -> str:
    """Why the replacement cannot take its place; empty when it can."""
    if any(new is None and old.uses for old, new in pairs):
        return f"another output of {match.root.op} is used"
    if len(match.roots) == 1:
        return ""
    made = set(builder.nodes)
    anchor = min(match.roots, key=lambda root: root._order)
    read = [value for node in made for value in node.inputs if value is not None]
    for value in [*read, *(new for _, new in pairs if new is not None)]:
        producer = value.producer
        if producer is None or producer in made or producer.graph is not anchor.graph:
            continue
        if not producer.is_before(anchor):
            return "its inputs are not there yet where its first part is computed"
    return ""
