"""Nodes: applications of an operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from graphopt.ir.journal import Metadata, Undo, journalled, metadata_property
from graphopt.ir.nodelist import NodeList
from graphopt.ir.uses import drop_captured, register_captured
from graphopt.ir.value import Use, Value

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph

#: What an attribute may hold. Sequences are stored as tuples.
Attribute: TypeAlias = Any


@dataclass(frozen=True)
class Origin:
    """Where a node came from.

    Attributes:
        module: path of the ``nn.Module`` whose forward produced it (``"layer1.0.conv1"``).
        sources: names of the nodes in the file or graph that was read.
        passes: passes that created or changed it, oldest first.
    """

    module: str = ""
    sources: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()

    def merge(self, other: Origin) -> Origin:
        """The origin of a node made from both; the module path is the common prefix."""
        return Origin(
            _common_path(self.module, other.module),
            tuple(dict.fromkeys(self.sources + other.sources)),
            tuple(dict.fromkeys(self.passes + other.passes)),
        )

    def touched_by(self, name: str) -> Origin:
        """The same origin, with pass `name` added to its history."""
        return self if name in self.passes else replace(self, passes=(*self.passes, name))


def _common_path(a: str, b: str) -> str:
    if not a or not b or a == b:
        return a or b
    common = []
    for x, y in zip(a.split("."), b.split("."), strict=False):
        if x != y:
            break
        common.append(x)
    return ".".join(common)


class Attributes(MutableMapping[str, Attribute]):
    """A node's attributes: a dict whose changes are journalled. Lists become tuples; graphs learn who owns them."""

    __slots__ = ("_bodies", "_items", "_node")

    def __init__(self, node: Node, items: Mapping[str, Attribute]) -> None:
        self._node = node
        self._items: dict[str, Attribute] = {name: _frozen(value) for name, value in items.items()}
        self._bodies = _graphs_in(self._items)
        for body in self._bodies:
            self._adopt(body)

    def _adopt(self, body: Graph) -> None:
        node, previous = self._node, body.owner
        if previous is node:
            return
        body.owner = node
        keeper = previous._keeper if previous is not None else None
        if previous is not None and keeper is not None:
            keeper._log(lambda: _give_back(body, previous))

    def _swap(self, items: dict[str, Attribute]) -> None:
        """Replaces all attributes: the one primitive edit, which undoes itself."""
        node, old = self._node, self._items
        before, after = self._bodies, _graphs_in(items)
        gone = [body for body in before if body.owner is node and body not in after]
        come = [body for body in after if body.owner is not node]
        if node.graph is not None:
            drop_captured(gone)
        for body in gone:
            body.owner = None
        self._items, self._bodies = items, after
        for body in come:
            self._adopt(body)
        if node.graph is not None:
            register_captured(come)
            for body in come:
                node.graph.root._take_marks_of(body)
        node._edited(lambda: self._swap(old))

    def __getitem__(self, name: str) -> Attribute:
        return self._items[name]

    def __setitem__(self, name: str, value: Attribute) -> None:
        self._swap({**self._items, name: _frozen(value)})

    def __delitem__(self, name: str) -> None:
        items = dict(self._items)
        del items[name]
        self._swap(items)

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(self._items)


def _frozen(value: Attribute) -> Attribute:
    # An empty tuple is kept as it is: `EmptyList` is one that knows more.
    return (
        tuple(_frozen(item) for item in value) if isinstance(value, list) or (type(value) is tuple and value) else value
    )


def _graphs_in(items: Mapping[str, Attribute]) -> list[Graph]:
    found: list[Any] = []
    for value in items.values():
        if isinstance(value, NodeList):
            found.append(value)
        elif isinstance(value, tuple):
            found.extend(item for item in value if isinstance(item, NodeList))
    return found


def _give_back(body: Graph, owner: Node) -> None:
    body.owner = owner
    if owner.graph is not None:
        register_captured([body])


class Node:
    """One application of an operator: inputs in, attributes fixed, outputs out.

    Attributes:
        op: operator name in the vocabulary (ONNX's names).
        domain: dialect; ``""`` is standard ONNX, ``"aten"`` torch operators without a counterpart.
        overload: overload of a model-local function or ``aten`` operator.
        name: label; need not be unique.
        doc: documentation string.
        metadata: ONNX ``metadata_props``.
        origin: where the node came from.
        graph: the graph that the node is linked into; ``None`` while detached.
    """

    # A type checker sees plain attributes where at run time a property over a slot journals assignments.
    if TYPE_CHECKING:
        op: str
        domain: str
        overload: str
        name: str
        doc: str
        origin: Origin
        metadata: dict[str, str]
    else:
        __slots__ = (
            "__weakref__", "_doc", "_domain", "_home", "_inputs", "_metadata", "_name", "_next", "_op", "_order",
            "_origin", "_outputs", "_overload", "_prev", "attributes", "graph",
        )  # fmt: skip
        op = journalled("_op")
        domain = journalled("_domain")
        overload = journalled("_overload")
        name = journalled("_name")
        doc = journalled("_doc")
        origin = journalled("_origin")
        metadata = metadata_property()

    def __init__(
        self,
        op: str,
        inputs: Sequence[Value | None] = (),
        attributes: Mapping[str, Attribute] | None = None,
        outputs: int | Sequence[Value] = 1,
        *,
        domain: str = "",
        overload: str = "",
        name: str = "",
        origin: Origin | None = None,
    ) -> None:
        self._op = op
        self._domain = domain
        self._overload = overload
        self._name = name
        self._doc = ""
        self._metadata: Metadata | None = None
        self.graph: Graph | None = None
        self._home: Graph | None = None  # the graph that the node is in, or was in last
        self._origin = origin or Origin()
        self._prev: Node | None = None
        self._next: Node | None = None
        self._order = 0
        self._inputs: list[Value | None] = list(inputs)
        self._outputs = [Value() for _ in range(outputs)] if isinstance(outputs, int) else list(outputs)
        for index, value in enumerate(self._outputs):
            value.producer, value.index = self, index
        self.attributes = Attributes(self, attributes or {})

    # -- structure

    @property
    def inputs(self) -> Sequence[Value | None]:
        """The values read; ``None`` stands for an optional input that is left out."""
        return self._inputs

    @property
    def outputs(self) -> Sequence[Value]:
        """The values produced. An output with neither a name nor uses is left out when written."""
        return self._outputs

    @property
    def output(self) -> Value:
        """The first output."""
        return self._outputs[0]

    def input(self, index: int) -> Value | None:
        """Input `index`, or ``None`` when it is left out or beyond the last."""
        return self._inputs[index] if index < len(self._inputs) else None

    def operand(self, index: int) -> Value:
        """Input `index`, which must be there. Raises IndexError when it is left out."""
        value = self.input(index)
        if value is None:
            raise IndexError(f"{self} has no input {index}")
        return value

    def set_input(self, index: int, value: Value | None) -> None:
        """Reads `value` at `index`; O(1)."""
        if index < 0:
            index += len(self._inputs)
        old = self._inputs[index]
        if old is value:
            return
        if self.graph is not None:
            if old is not None:
                old._uses.pop(Use(self, index), None)
            if value is not None:
                value._uses[Use(self, index)] = None
        self._inputs[index] = value
        self._edited(lambda: self.set_input(index, old))

    def set_inputs(self, values: Sequence[Value | None]) -> None:
        """Replaces the whole input list, which may change in length."""
        old, new = self._inputs, list(values)
        if self.graph is not None:
            for index, value in enumerate(old):
                if value is not None:
                    value._uses.pop(Use(self, index), None)
            for index, value in enumerate(new):
                if value is not None:
                    value._uses[Use(self, index)] = None
        self._inputs = new
        self._edited(lambda: self.set_inputs(old))

    @property
    def bodies(self) -> list[Graph]:
        """The graphs held in attributes (If branches, Loop and Scan bodies)."""
        return list(self.attributes._bodies)

    def _owned_bodies(self) -> list[Graph]:
        # A body that was handed to another node is no longer this one's business.
        return [body for body in self.attributes._bodies if body.owner is self]

    # -- order

    @property
    def next(self) -> Node | None:
        return self._next

    @property
    def prev(self) -> Node | None:
        return self._prev

    def is_before(self, other: Node) -> bool:
        """True when this node runs before `other`, a node of the same graph; O(1)."""
        return self._order < other._order

    # -- bookkeeping

    @property
    def _keeper(self) -> Graph | None:
        """The outermost graph around the node, or around the place it was erased from; it keeps the journal."""
        return None if self._home is None else self._home._keeper

    def _edited(self, undo: Undo) -> None:
        keeper = self._keeper
        if keeper is None:
            return
        keeper._log(undo)
        if self.graph is not None:
            self.graph.root._mark(self)

    def describe(self) -> str:
        """A short text that lets a person find the node: operator, name, module path or source."""
        where = self.origin.module or self.name or next(iter(self.origin.sources), "")
        kind = f"{self.domain}::{self.op}" if self.domain else self.op
        label = where or (f"%{self._outputs[0].name}" if self._outputs and self._outputs[0].name else "")
        return f"{kind} '{label}'" if label else kind

    def __repr__(self) -> str:
        outs = ", ".join(f"%{v.name or '?'}" for v in self._outputs)
        ins = ", ".join("none" if v is None else f"%{v.name or '?'}" for v in self._inputs)
        kind = f"{self.domain}::{self.op}" if self.domain else self.op
        return f"{outs} = {kind}({ins})"
