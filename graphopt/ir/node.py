"""Nodes: applications of an operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

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

    __slots__ = ("_items", "_node")

    def __init__(self, node: Node, items: Mapping[str, Attribute]) -> None:
        self._node = node
        self._items: dict[str, Attribute] = {}
        for name, value in items.items():
            self._items[name] = self._adopt(value)

    def _adopt(self, value: Attribute) -> Attribute:
        from graphopt.ir.graph import Graph

        if isinstance(value, list):
            value = tuple(value)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Graph):
                item.owner = self._node
        return value

    def __getitem__(self, name: str) -> Attribute:
        return self._items[name]

    def __setitem__(self, name: str, value: Attribute) -> None:
        value = self._adopt(value)
        self._node._record_attribute(name)
        self._items[name] = value

    def __delitem__(self, name: str) -> None:
        self._node._record_attribute(name)
        del self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(self._items)


class Node:
    """One application of an operator: inputs in, attributes fixed, outputs out.

    Attributes:
        op: operator name in the vocabulary (ONNX's names).
        domain: dialect; ``""`` is standard ONNX, ``"aten"`` torch operators without a counterpart.
        overload: overload of a model-local function or ``aten`` operator.
        graph: the graph that the node is linked into; ``None`` while detached.
    """

    __slots__ = (
        "__weakref__", "_inputs", "_next", "_order", "_origin", "_outputs", "_prev",
        "attributes", "doc", "domain", "graph", "metadata", "name", "op", "overload",
    )  # fmt: skip

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
        self.op = op
        self.domain = domain
        self.overload = overload
        self.name = name
        self.doc = ""
        self.metadata: dict[str, str] = {}
        self.graph: Graph | None = None
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
        old = self._inputs[index]
        if old is value:
            return
        graph = self.graph
        if graph is not None:
            if old is not None:
                del old._uses[Use(self, index)]
            if value is not None:
                value._uses[Use(self, index)] = None
            root = graph.root
            root._log(lambda: self.set_input(index, old))
            root._mark(self)
        self._inputs[index] = value

    def set_inputs(self, values: Sequence[Value | None]) -> None:
        """Replaces the whole input list, which may change in length."""
        old = list(self._inputs)
        graph = self.graph
        if graph is None:
            self._inputs = list(values)
            return
        for index, value in enumerate(old):
            if value is not None:
                del value._uses[Use(self, index)]
        self._inputs = list(values)
        for index, value in enumerate(self._inputs):
            if value is not None:
                value._uses[Use(self, index)] = None
        root = graph.root
        root._log(lambda: self.set_inputs(old))
        root._mark(self)

    @property
    def bodies(self) -> list[Graph]:
        """The graphs held in attributes (If branches, Loop and Scan bodies)."""
        from graphopt.ir.graph import Graph

        if not self.attributes._items:
            return []
        found = []
        for value in self.attributes._items.values():
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, Graph):
                    found.append(item)
        return found

    # -- provenance

    @property
    def origin(self) -> Origin:
        return self._origin

    @origin.setter
    def origin(self, new: Origin) -> None:
        old = self._origin
        if self.graph is not None:
            self.graph.root._log(lambda: setattr(self, "_origin", old))
        self._origin = new

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

    def _record_attribute(self, name: str) -> None:
        if self.graph is None:
            return
        items = self.attributes._items
        missing = name not in items
        old = items.get(name)
        root = self.graph.root

        def undo() -> None:
            if missing:
                items.pop(name, None)
            else:
                items[name] = old

        root._log(undo)
        root._mark(self)

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
