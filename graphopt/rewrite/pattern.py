"""Patterns: what a rule looks for, written as the graph that it matches.

Matching works in continuation-passing style: ``p.match(value, state, then)`` binds what it can and calls `then` for the
rest of the pattern; when that fails, the binding is undone and the next way (a commuted operand, an alternative) is
tried. A pattern is a few operators deep, so this is constant work per node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from graphopt.ir import Graph, Node, Value
from graphopt.ops import attribute, record_of

#: Domain and name of an operator.
Key: TypeAlias = tuple[str, str]
#: The rest of a match; says whether it succeeded.
Then: TypeAlias = Callable[[], bool]
#: A pattern, or None for an input that must be left out.
Operand: TypeAlias = "Pattern | None"


#: What must produce the inputs of a node, by position: a cheap sign that a pattern may match there.
Sign: TypeAlias = "tuple[tuple[int, frozenset[Key]], ...]"
#: Stands for "a constant" among the operators that may produce a value.
CONSTANT: Key = ("", "")


class State:
    """What a match has bound so far."""

    __slots__ = ("graph", "nodes", "values")

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.values: dict[str, Value | list[Value | None] | None] = {}
        self.nodes: dict[NodePattern, Node] = {}


class Pattern:
    """Something that a value may be."""

    def match(self, value: Value | None, state: State, then: Then) -> bool:
        """True when `value` (``None`` for an input that is left out) fits and `then` succeeds after it."""
        raise TypeError(f"{type(self).__name__} matches nothing")

    def match_root(self, node: Node, state: State, then: Then) -> bool:
        """As `match`, starting from the node that produces the value."""
        raise TypeError(f"a rule's pattern must be an operator, not {type(self).__name__}")

    def root_keys(self) -> set[Key]:
        """The operators that the outermost node may be; empty when any value will do."""
        return set()

    def producers(self) -> frozenset[Key] | None:
        """The operators that may produce the value, `CONSTANT` among them; ``None`` when anything may."""
        return None

    def signs(self, key: Key) -> list[Sign]:
        """For each form that a root with operator `key` may have, what must produce which of its inputs."""
        return [()]

    def children(self) -> Sequence[Operand]:
        """The patterns directly inside."""
        return ()

    def depth(self) -> int:
        """How many nodes lie above one another."""
        return max((child.depth() for child in self.children() if child is not None), default=0)

    def walk(self) -> Iterable[Pattern]:
        """This pattern and all inside it."""
        yield self
        for child in self.children():
            if child is not None:
                yield from child.walk()


class Var(Pattern):
    """A pattern variable: any value, the same one wherever the variable appears.

    Args:
        name: under which the match gives the value.
        optional: also matches an input that is left out.
    """

    def __init__(self, name: str, optional: bool = False) -> None:
        self.name = name
        self.optional = optional

    def match(self, value: Value | None, state: State, then: Then) -> bool:
        if value is None and not self.optional:
            return False
        if self.name in state.values:
            return state.values[self.name] is value and then()
        state.values[self.name] = value
        if then():
            return True
        del state.values[self.name]
        return False


class Anything(Pattern):
    """Any value, or none; bound to nothing."""

    def match(self, value: Value | None, state: State, then: Then) -> bool:
        return then()


class Variadic(Pattern):
    """All remaining inputs of a node, left-out ones included. Stands last in an operator's inputs."""

    def __init__(self, name: str) -> None:
        self.name = name

    def match_rest(self, values: Sequence[Value | None], state: State, then: Then) -> bool:
        """True when `values` are what the variable is bound to already, or it is not bound yet."""
        if self.name in state.values:
            return state.values[self.name] == list(values) and then()
        state.values[self.name] = list(values)
        if then():
            return True
        del state.values[self.name]
        return False


class Where(Pattern):
    """A pattern whose value fulfils a condition."""

    def __init__(self, inner: Pattern, condition: Callable[[Value], bool]) -> None:
        self.inner = inner
        self.condition = condition

    def match(self, value: Value | None, state: State, then: Then) -> bool:
        return (value is None or self.condition(value)) and self.inner.match(value, state, then)

    def match_root(self, node: Node, state: State, then: Then) -> bool:
        return self.condition(node.output) and self.inner.match_root(node, state, then)

    def signs(self, key: Key) -> list[Sign]:
        return self.inner.signs(key)

    def producers(self) -> frozenset[Key] | None:
        return self.inner.producers()

    def root_keys(self) -> set[Key]:
        return self.inner.root_keys()

    def children(self) -> Sequence[Operand]:
        return (self.inner,)


class Constant(Pattern):
    """A constant that no caller can override: any one, or one whose elements all equal `number`.

    A constant given by its number is never a trainable parameter: that it is 1 today does not make it go away.
    """

    def __init__(self, inner: Pattern | None = None, number: float | None = None, tolerance: float = 0.0) -> None:
        self.inner = inner
        self.number = number
        self.tolerance = tolerance

    def match(self, value: Value | None, state: State, then: Then) -> bool:
        if value is None:
            return isinstance(self.inner, Var) and self.inner.optional and self.inner.match(value, state, then)
        if not value.is_constant or (self.number is not None and not self._equals(value, self.number)):
            return False
        return then() if self.inner is None else self.inner.match(value, state, then)

    def producers(self) -> frozenset[Key] | None:
        return None if isinstance(self.inner, Var) and self.inner.optional else frozenset({CONSTANT})

    def _equals(self, value: Value, number: float) -> bool:
        data = value.data
        if data is None or data.numel() == 0 or data.is_complex() or is_trainable(value):
            return False
        if not self._close(data.flatten()[:1].double(), number):
            return False
        return self._close(data.double(), number)

    def _close(self, data: torch.Tensor, number: float) -> bool:
        return bool(((data - number).abs() <= self.tolerance).all())

    def children(self) -> Sequence[Operand]:
        return (self.inner,)


class Optional(Pattern):
    """A pattern, or an input that is left out."""

    def __init__(self, inner: Pattern) -> None:
        self.inner = inner

    def match(self, value: Value | None, state: State, then: Then) -> bool:
        if value is not None:
            return self.inner.match(value, state, then)
        names = [each.name for each in self.inner.walk() if isinstance(each, Var) and each.name not in state.values]
        state.values.update(dict.fromkeys(names))
        if then():
            return True
        for name in names:
            del state.values[name]
        return False

    def children(self) -> Sequence[Operand]:
        return (self.inner,)


class Any_(Pattern):
    """One of several patterns, tried in order. Variables of the others stay unbound."""

    def __init__(self, *choices: Pattern) -> None:
        self.choices = choices

    def match(self, value: Value | None, state: State, then: Then) -> bool:
        return any(choice.match(value, state, then) for choice in self.choices)

    def match_root(self, node: Node, state: State, then: Then) -> bool:
        key = (node.domain, node.op)
        return any(choice.match_root(node, state, then) for choice in self.choices if key in choice.root_keys())

    def signs(self, key: Key) -> list[Sign]:
        return [sign for choice in self.choices if key in choice.root_keys() for sign in choice.signs(key)]

    def producers(self) -> frozenset[Key] | None:
        found = [choice.producers() for choice in self.choices]
        known = [each for each in found if each is not None]
        return frozenset().union(*known) if len(known) == len(found) else None

    def root_keys(self) -> set[Key]:
        return set().union(*(choice.root_keys() for choice in self.choices))

    def children(self) -> Sequence[Operand]:
        return self.choices


class NodePattern(Pattern):
    """An application of an operator; as a value it is its first output, ``pattern[i]`` is output i.

    Used twice inside a pattern it stands for the same node.

    Args:
        keys: operators, any of which will do.
        inputs: patterns of the inputs. The node must have no further ones.
        attributes: required attributes, defaults included: a value, or a condition on it.
    """

    def __init__(self, keys: Iterable[Key], inputs: Sequence[Operand], attributes: Mapping[str, Any]) -> None:
        self._keys = frozenset(keys)
        self.inputs = tuple(inputs)
        self.attributes = dict(attributes)
        self.conditions: list[Callable[[Node], bool]] = []
        self.name = ""
        self.is_shared = False

    def when(self, condition: Callable[[Node], bool]) -> NodePattern:
        """The same pattern, for nodes that fulfil a condition only. Nodes that do not are no match, and no miss."""
        self.conditions.append(condition)
        return self

    def named(self, name: str) -> NodePattern:
        """The same pattern; the match gives its node as ``m.node(name)``."""
        self.name = name
        return self

    def __getitem__(self, index: int) -> OutputPattern:
        return OutputPattern(self, index)

    def match(self, value: Value | None, state: State, then: Then) -> bool:
        return value is not None and value.index == 0 and self.match_output(value, state, then)

    def match_output(self, value: Value, state: State, then: Then) -> bool:
        """As `match`, for any output of the node."""
        node = value.producer
        # A node outside a loop's body runs once, one inside runs every time: a match stays within one graph.
        return node is not None and node.graph is state.graph and self.match_root(node, state, then)

    def match_root(self, node: Node, state: State, then: Then) -> bool:
        bound = state.nodes.get(self)
        if bound is not None:
            return bound is node and then()
        if (node.domain, node.op) not in self._keys or not self._fits(node):
            return False
        state.nodes[self] = node
        if any(self._match_inputs(order, state, then) for order in orders(node)):
            return True
        del state.nodes[self]
        return False

    def producers(self) -> frozenset[Key] | None:
        return self._keys

    def signs(self, key: Key) -> list[Sign]:
        if key not in self._keys:
            return []
        wanted = ((i, None if pattern is None else pattern.producers()) for i, pattern in enumerate(self.inputs))
        return [tuple((i, keys) for i, keys in wanted if keys is not None)]

    def _fits(self, node: Node) -> bool:
        for name, wanted in self.attributes.items():
            try:
                found = attribute(node, name)
            except KeyError:
                found = None
            if not (wanted(found) if callable(wanted) else _same(found, wanted)):
                return False
        return all(condition(node) for condition in self.conditions)

    def _match_inputs(self, inputs: list[Value | None], state: State, then: Then) -> bool:
        def step(position: int) -> bool:
            if position == len(self.inputs):
                return all(value is None for value in inputs[position:]) and then()
            pattern = self.inputs[position]
            if isinstance(pattern, Variadic):
                return pattern.match_rest(inputs[position:], state, then)
            value = inputs[position] if position < len(inputs) else None
            if pattern is None:
                return value is None and step(position + 1)
            return pattern.match(value, state, lambda: step(position + 1))

        return step(0)

    def root_keys(self) -> set[Key]:
        return set(self._keys)

    def children(self) -> Sequence[Operand]:
        return self.inputs

    def depth(self) -> int:
        return 1 + super().depth()


def orders(node: Node) -> list[list[Value | None]]:
    """The orders in which the inputs of a node may be read."""
    inputs = list(node.inputs)
    if len(inputs) < 2 or inputs[0] is inputs[1]:
        return [inputs]
    record = record_of(node)
    if record is None or not record.commutative:
        return [inputs]
    return [inputs, [inputs[1], inputs[0], *inputs[2:]]]


def kind_of(value: Value | None) -> Key | None:
    """What produces a value: an operator, `CONSTANT`, or nothing that a pattern could ask for."""
    if value is None:
        return None
    producer = value.producer
    if producer is not None:
        return producer.domain, producer.op
    return CONSTANT if value.is_constant else None


class OutputPattern(Pattern):
    """One output of a node."""

    def __init__(self, node: NodePattern, index: int) -> None:
        self.node = node
        self.index = index

    def match(self, value: Value | None, state: State, then: Then) -> bool:
        return value is not None and value.index == self.index and self.node.match_output(value, state, then)

    def signs(self, key: Key) -> list[Sign]:
        return self.node.signs(key)

    def producers(self) -> frozenset[Key] | None:
        return self.node.producers()

    def match_root(self, node: Node, state: State, then: Then) -> bool:
        return self.node.match_root(node, state, then)

    def root_keys(self) -> set[Key]:
        return self.node.root_keys()

    def children(self) -> Sequence[Operand]:
        return (self.node,)


def is_trainable(value: Value) -> bool:
    """A parameter of a module, as opposed to a buffer or a plain constant."""
    return value.parameter is not None and not value.parameter.buffer


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, (list, tuple)):
        return isinstance(found, (list, tuple)) and tuple(found) == tuple(wanted)
    return bool(found == wanted)
