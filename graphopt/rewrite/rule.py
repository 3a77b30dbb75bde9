"""Rules and their matches."""

from __future__ import annotations

import inspect
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

import torch

from graphopt.errors import PassError
from graphopt.ir import Graph, Node, Value
from graphopt.ops.builder import Builder
from graphopt.rewrite.language import Patterns
from graphopt.rewrite.pattern import (
    Constant,
    Key,
    NodePattern,
    Optional,
    OutputPattern,
    Pattern,
    State,
    Var,
    Variadic,
)  # fmt: skip

# Two or more roots are looked for upwards from what they share; values with more readers than this are not followed.
_MAX_FAN_OUT = 64


@dataclass(frozen=True)
class Failure:
    """Why a rule leaves a match alone."""

    reason: str


#: What a rewrite returns: the new value; one per output of the root (``None`` for outputs that nothing may read); or
#: why there is none.
Result: TypeAlias = Value | Sequence[Value | None] | Failure


class Rule:
    """A pattern and what to put in its place: subclass, and list the class in a `RewritePass`.

    Class attributes:
        name: for statistics; by default the class name with dashes (``conv-batch-norm``).
        recursive: may match, as its root, a node that the rule itself made.
        fixed_pattern: the pattern is the same for every instance, although instances hold values of their own; so it is
            built once, as it always is for rules whose instances hold none.
    """

    name: ClassVar[str] = ""
    recursive: ClassVar[bool] = False
    fixed_pattern: ClassVar[bool] = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "name" not in vars(cls):
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", cls.__name__).lower()

    def pattern(self, op: Patterns, *variables: Any, **optional: Any) -> Pattern | Sequence[Pattern]:
        """The graph to look for, rooted at the value that is to be replaced (several values: several roots).

        Every parameter after `op` is a pattern variable. One with a default of ``None`` also matches an input that is
        left out; ``*rest`` matches all remaining inputs. Inner nodes must not be read from outside the match, unless
        they are ``op.shared(...)``.
        """
        raise TypeError(f"{type(self).__name__} does not define pattern()")

    def rewrite(self, op: Builder, m: Match) -> Result:
        """Makes the replacement in front of the root with `op`, or says why not with ``m.fail(reason)``.

        What was made before failing is taken out again.
        """
        raise TypeError(f"{type(self).__name__} does not define rewrite()")

    @cached_property
    def compiled(self) -> Compiled:
        """The pattern, ready for matching."""
        cls = type(self)
        if vars(self) and not cls.fixed_pattern:
            return Compiled(self)
        if cls not in _compiled:
            _compiled[cls] = Compiled(self)
        return _compiled[cls]


#: The patterns that are the same for every instance of a rule.
_compiled: weakref.WeakKeyDictionary[type[Rule], Compiled] = weakref.WeakKeyDictionary()


class Compiled:
    """A rule's pattern with what the driver needs to know about it."""

    def __init__(self, rule: Rule) -> None:
        found = rule.pattern(Patterns(), *_variables(rule))
        self.roots: list[Pattern] = []
        self.outputs: list[OutputPattern] = []
        if isinstance(found, Pattern):
            self.roots.append(found)
        else:
            self.outputs = [p if isinstance(p, OutputPattern) else OutputPattern(_as_node(rule, p), 0) for p in found]
            self.roots.extend(dict.fromkeys(p.node for p in self.outputs))
        self.keys: set[Key] = self.roots[0].root_keys()
        if not self.keys or any(not root.root_keys() for root in self.roots):
            raise PassError(f"the pattern of rule '{rule.name}' does not name its outermost operator", where=rule.name)
        self.depth = max(root.depth() for root in self.roots)
        self._signs = {key: self.roots[0].signs(key) for key in self.keys}

    def may_match(self, key: Key, kinds: Sequence[Sequence[Key | None]]) -> bool:
        """False when the producers of a node's inputs rule a match out; cheap, for most nodes are none.

        Args:
            key: the operator of the node.
            kinds: what produces its inputs, in each order that they may be read in (see `pattern.kind_of`).
        """
        for sign in self._signs[key]:
            for found in kinds:
                for position, wanted in sign:
                    if position >= len(found) or found[position] not in wanted:
                        break
                else:
                    return True
        return False

    def match(self, node: Node, accept: Callable[[Match], bool]) -> bool:
        """Tries every way in which the pattern fits with `node` as its (first) root until `accept` takes one."""
        graph = node.graph
        if graph is None:
            return False
        state = State(graph)
        roots = [node]

        def rest(position: int) -> bool:
            if position == len(self.roots):
                return accept(Match(self, state, roots))
            for candidate in self._candidates(self.roots[position], state):
                if candidate in roots:
                    continue
                roots.append(candidate)
                if self.roots[position].match_root(candidate, state, lambda: rest(position + 1)):
                    return True
                roots.pop()
            return False

        return self.roots[0].match_root(node, state, lambda: rest(1))

    def _candidates(self, root: Pattern, state: State) -> Iterator[Node]:
        """The nodes that may be a further root: as far above what is bound already as the pattern says."""
        inside = state.nodes.get(root) if isinstance(root, NodePattern) else None
        if inside is not None:  # it is part of what an earlier root has matched
            yield inside
            return
        anchors = list(_anchors(root, state, 0))
        if not anchors:
            return
        distance, value = min(anchors, key=lambda item: item[0])
        level = [value]
        for _ in range(distance - 1):
            level = [out for v in level if len(v.uses) <= _MAX_FAN_OUT for n in v.users for out in n.outputs]
        seen = dict.fromkeys(node for v in level if len(v.uses) <= _MAX_FAN_OUT for node in v.users)
        yield from (node for node in seen if node.graph is state.graph)


def _variables(rule: Rule) -> list[Var | Variadic]:
    parameters = list(inspect.signature(rule.pattern).parameters.values())[1:]
    return [
        Variadic(p.name) if p.kind is p.VAR_POSITIONAL else Var(p.name, optional=p.default is None) for p in parameters
    ]


def _as_node(rule: Rule, pattern: Pattern) -> NodePattern:
    if not isinstance(pattern, NodePattern):
        raise PassError(f"rule '{rule.name}' returns several patterns; each must be an operator", where=rule.name)
    return pattern


def _anchors(pattern: Pattern, state: State, distance: int) -> Iterator[tuple[int, Value]]:
    if isinstance(pattern, NodePattern) and pattern in state.nodes:
        yield from ((distance, value) for value in state.nodes[pattern].outputs)
        return
    if isinstance(pattern, Var):
        value = state.values.get(pattern.name)
        if isinstance(value, Value) and not value.is_constant:
            yield distance, value
        return
    inside = distance + isinstance(pattern, NodePattern)
    for child in pattern.children():
        if child is not None and not isinstance(child, (Constant, Optional)):
            yield from _anchors(child, state, inside)


class Match:
    """What a pattern was found to be: ``m["x"]`` is a value, ``m.node("conv")`` a node."""

    def __init__(self, compiled: Compiled, state: State, roots: Sequence[Node]) -> None:
        self._compiled = compiled
        self._values = dict(state.values)
        self._nodes = dict(state.nodes)
        self.roots = list(roots)

    @property
    def root(self) -> Node:
        """The node whose output is to be replaced."""
        return self.roots[0]

    @property
    def graph(self) -> Graph:
        """The graph (or body) that the match lies in."""
        graph = self.root.graph
        assert graph is not None, "a match is made on linked nodes"
        return graph

    @property
    def nodes(self) -> list[Node]:
        """All matched nodes, in topological order."""
        return sorted(dict.fromkeys(self._nodes.values()), key=lambda node: node._order)

    def __getitem__(self, name: str) -> Value:
        """The value of a variable. Raises KeyError when it is left out."""
        value = self._values.get(name)
        if not isinstance(value, Value):
            raise KeyError(f"variable '{name}' is bound to no value")
        return value

    def get(self, name: str) -> Value | None:
        """The value of a variable; ``None`` when it is left out."""
        value = self._values.get(name)
        return value if isinstance(value, Value) else None

    def all(self, name: str) -> list[Value | None]:
        """The values of a variable ``*name``."""
        value = self._values[name]
        return value if isinstance(value, list) else [value]

    def data(self, name: str) -> torch.Tensor:
        """The tensor of a variable that is bound to a constant. Raises KeyError when it is not."""
        data = self[name].data
        if data is None:
            raise KeyError(f"variable '{name}' is no constant")
        return data

    def has(self, name: str) -> bool:
        """True when a node called `name` is part of the match."""
        return any(pattern.name == name for pattern in self._nodes)

    def node(self, name: str) -> Node:
        """The node of a pattern that was ``.named(name)``. Raises KeyError when there is none."""
        for pattern, node in self._nodes.items():
            if pattern.name == name:
                return node
        raise KeyError(f"no node of the match is named '{name}'")

    def fail(self, reason: str) -> Failure:
        """Leaves the match alone; reasons are counted and reported."""
        return Failure(reason)

    @property
    def replaced(self) -> list[Value]:
        """The values that the rewrite replaces: those of the pattern, or all outputs of its only root."""
        if self._compiled.outputs:
            return [self._nodes[p.node].outputs[p.index] for p in self._compiled.outputs]
        return list(self.root.outputs)

    def escape(self) -> str:
        """Why the inner nodes cannot go; empty when nothing outside the match reads them."""
        matched = set(self._nodes.values())
        for pattern, node in self._nodes.items():
            if node in self.roots or pattern.is_shared:
                continue
            for value in node.outputs:
                for use in value.uses:
                    if isinstance(use.user, Graph):
                        return f"the output of {node.op} is an output of the graph"
                    if use.user not in matched:
                        return f"the output of {node.op} is used elsewhere too"
        return ""


__all__ = ["Compiled", "Failure", "Match", "Result", "Rule"]
