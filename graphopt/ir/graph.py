"""The graph: SSA in topological order, over a linked list of nodes that may be edited while it is walked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graphopt.ir.journal import Journal, Undo
from graphopt.ir.node import Attribute, Node, Origin
from graphopt.ir.signature import ModelInfo, Signature
from graphopt.ir.types import UNKNOWN, DType, TensorType, ValueType
from graphopt.ir.value import Parameter, Use, Value

if TYPE_CHECKING:
    import networkx

# Distance between the order numbers of neighbours: room for 48 halvings before a renumbering.
_GAP = 1 << 48


class Graph:
    """A network, or the body of a control-flow operator.

    Inputs and outputs are ordered; outputs have names of their own (``output_names``), so that a rewrite never loses
    the name that callers know. Constants belong to the graph even when nothing reads them (a ``state_dict`` keeps
    unused parameters). Bodies of If, Loop and Scan are graphs held in attributes; they read values of the graphs
    around them directly.

    Attributes:
        name: label.
        owner: the node whose attribute holds this graph; ``None`` for the outermost one.
        model: what the file said about the model as a whole.
        signature: calling convention of the module that was captured, if one was.
        doc: documentation string.
        metadata: ONNX ``metadata_props`` of the graph.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.owner: Node | None = None
        self.model = ModelInfo()
        self.signature: Signature | None = None
        self.doc = ""
        self.metadata: dict[str, str] = {}
        self._inputs: list[Value] = []
        self._outputs: list[Value] = []
        self._output_names: list[str] = []
        self._constants: dict[Value, None] = {}
        self._first: Node | None = None
        self._last: Node | None = None
        self._length = 0
        self._version = 0
        self._dirty: dict[Node, None] = {}
        self._journal: Journal | None = None

    # -- walking

    @property
    def inputs(self) -> Sequence[Value]:
        return self._inputs

    @property
    def outputs(self) -> Sequence[Value]:
        return self._outputs

    @property
    def output_names(self) -> Sequence[str]:
        return self._output_names

    @property
    def constants(self) -> Collection[Value]:
        """The values that hold data, in order of addition."""
        return self._constants.keys()

    @property
    def parameters(self) -> list[Value]:
        """The constants that were parameters or buffers of a module."""
        return [value for value in self._constants if value.parameter is not None]

    @property
    def nodes(self) -> Iterator[Node]:
        """The nodes of this graph in topological order. Inserting and erasing while iterating is safe."""
        return self._walk_from(self._first, forward=True)

    def __iter__(self) -> Iterator[Node]:
        return self.nodes

    def __reversed__(self) -> Iterator[Node]:
        return self._walk_from(self._last, forward=False)

    def __len__(self) -> int:
        return self._length

    def __bool__(self) -> bool:
        return True

    def _walk_from(self, node: Node | None, forward: bool) -> Iterator[Node]:
        # An erased node keeps its stale links, which lead back to a node that is still there.
        while node is not None:
            following = node._next if forward else node._prev
            if node.graph is self:
                yield node
                if node.graph is self:
                    following = node._next if forward else node._prev
            node = following

    def walk(self) -> Iterator[Node]:
        """The nodes of this graph and of all bodies inside it; a node comes before its bodies."""
        for node in self.nodes:
            yield node
            for body in node.bodies:
                yield from body.walk()

    def graphs(self) -> Iterator[Graph]:
        """This graph and all bodies inside it."""
        yield self
        for node in self.nodes:
            for body in node.bodies:
                yield from body.graphs()

    def values(self) -> Iterator[Value]:
        """Inputs, constants and node outputs of this graph (not of its bodies)."""
        yield from self._inputs
        yield from self._constants
        for node in self.nodes:
            yield from node.outputs

    @property
    def root(self) -> Graph:
        """The outermost graph around this one."""
        graph = self
        while graph.owner is not None and graph.owner.graph is not None:
            graph = graph.owner.graph
        return graph

    @property
    def version(self) -> int:
        """A number that grows with every edit anywhere in the outermost graph."""
        return self.root._version

    # -- inputs, outputs, constants

    def add_input(
        self,
        name: str,
        type: ValueType = UNKNOWN,
        *,
        default: torch.Tensor | None = None,
        index: int | None = None,
    ) -> Value:
        """Adds a graph input; `default` makes it an overridable initializer."""
        value = Value(type, name, default)
        value.graph, value.is_input = self, True
        self._inputs.insert(len(self._inputs) if index is None else index, value)
        self._changed(lambda: self._drop_input(value))
        return value

    def _drop_input(self, value: Value) -> None:
        self._inputs.remove(value)
        value.graph = None

    def remove_input(self, value: Value) -> None:
        """Removes an input that nothing reads. Raises ValueError when something does."""
        if value.uses:
            raise ValueError(f"{value} is still used")
        index = self._inputs.index(value)
        del self._inputs[index]
        value.graph = None

        def undo() -> None:
            self._inputs.insert(index, value)
            value.graph = self

        self._changed(undo)

    def add_output(self, value: Value, name: str = "") -> None:
        """Returns `value` under `name` (its own label by default)."""
        index = len(self._outputs)
        self._outputs.append(value)
        self._output_names.append(name or value.name or f"output_{index}")
        value._uses[Use(self, index)] = None
        self._changed(self._drop_output)

    def _drop_output(self) -> None:
        index = len(self._outputs) - 1
        del self._outputs[index]._uses[Use(self, index)]
        self._outputs.pop()
        self._output_names.pop()

    def set_outputs(self, values: Sequence[Value], names: Sequence[str]) -> None:
        """Replaces the whole list of outputs."""
        old, old_names = list(self._outputs), list(self._output_names)
        for index, value in enumerate(old):
            del value._uses[Use(self, index)]
        self._outputs, self._output_names = list(values), list(names)
        for index, value in enumerate(self._outputs):
            value._uses[Use(self, index)] = None
        self._changed(lambda: self.set_outputs(old, old_names))

    def set_input(self, index: int, value: Value) -> None:
        """Returns `value` as output `index` (a graph reads its outputs as a node reads its inputs)."""
        old = self._outputs[index]
        if old is value:
            return
        del old._uses[Use(self, index)]
        self._outputs[index] = value
        value._uses[Use(self, index)] = None
        self._changed(lambda: self.set_input(index, old))

    def add_constant(
        self,
        data: torch.Tensor | np.ndarray | Value,
        name: str = "",
        *,
        parameter: Parameter | None = None,
        dtype: DType | None = None,
    ) -> Value:
        """Adds a constant that shares `data` (no copy), or a detached constant `Value`.

        Args:
            data: the elements; an object array for strings.
            name: label; the parameter's name by default.
            parameter: what it was in its module.
            dtype: element type where the tensor's dtype does not tell it (int4 carried as int8, ...).
        """
        if isinstance(data, Value):
            value = data
        elif isinstance(data, torch.Tensor):
            kind = TensorType.of(data) if dtype is None else TensorType(dtype, tuple(data.shape))
            value = Value(kind, name or (parameter.name if parameter else ""), data, parameter)
        else:
            value = Value(TensorType(DType.STRING, tuple(data.shape)), name, data, parameter)
        self._link_constant(value)
        return value

    def _link_constant(self, value: Value) -> None:
        value.graph = self
        self._constants[value] = None
        self._changed(lambda: self._unlink_constant(value))

    def _unlink_constant(self, value: Value) -> None:
        del self._constants[value]
        value.graph = None
        self._changed(lambda: self._link_constant(value))

    def remove_constant(self, value: Value) -> None:
        """Removes a constant that nothing reads. Raises ValueError when something does."""
        if value.uses:
            raise ValueError(f"{value} is still used")
        self._unlink_constant(value)

    # -- nodes

    def add(
        self,
        op: str,
        *inputs: Value | None,
        domain: str = "",
        origin: Origin | None = None,
        name: str = "",
        **attributes: Attribute,
    ) -> Value:
        """Appends a node with one output and returns that output."""
        return self.append(Node(op, inputs, attributes, domain=domain, origin=origin, name=name)).output

    def append(self, node: Node) -> Node:
        """Links a detached node in at the end."""
        return self._link(node, self._last, None)

    def insert_before(self, anchor: Node, node: Node) -> Node:
        """Links a detached node in before `anchor`; O(1)."""
        return self._link(node, anchor._prev, anchor)

    def insert_after(self, anchor: Node, node: Node) -> Node:
        """Links a detached node in after `anchor`; O(1)."""
        return self._link(node, anchor, anchor._next)

    def prepend(self, node: Node) -> Node:
        """Links a detached node in at the beginning."""
        return self._link(node, None, self._first)

    def erase(self, node: Node) -> None:
        """Removes a node whose outputs nothing reads. Raises ValueError when something does."""
        for value in node.outputs:
            if value.uses:
                raise ValueError(f"cannot erase {node}: {value} is still used")
        self._unlink(node)

    def _link(self, node: Node, before: Node | None, after: Node | None) -> Node:
        if node.graph is not None:
            raise ValueError(f"{node} is linked into a graph already")
        node.graph = self
        node._prev, node._next = before, after
        if before is None:
            self._first = node
        else:
            before._next = node
        if after is None:
            self._last = node
        else:
            after._prev = node
        self._length += 1
        self._number(node)
        for value in node.outputs:
            value.graph = self
        _register_uses(node)
        self._changed(lambda: self._unlink(node))
        self.root._dirty[node] = None
        return node

    def _unlink(self, node: Node) -> None:
        before, after = node._prev, node._next
        if before is None:
            self._first = after
        else:
            before._next = after
        if after is None:
            self._last = before
        else:
            after._prev = before
        self._length -= 1
        self.root._dirty.pop(node, None)
        _drop_uses(node)
        node.graph = None
        for value in node.outputs:
            value.graph = None
        self._changed(lambda: self._link(node, before, after))

    def _number(self, node: Node) -> None:
        before, after = node._prev, node._next
        low = before._order if before is not None else (after._order - 2 * _GAP if after is not None else 0)
        if after is None:
            node._order = low + _GAP
        elif after._order - low > 1:
            node._order = (low + after._order) // 2
        else:
            for position, each in enumerate(self._walk_from(self._first, forward=True)):
                each._order = position * _GAP

    def sweep(self, candidates: Iterable[Value]) -> int:
        """Erases what produces `candidates` where nothing reads it, and so on upwards. Returns the nodes erased."""
        erased = 0
        stack = list(candidates)
        while stack:
            value = stack.pop()
            if value.uses or value.graph is None:
                continue
            node = value.producer
            if node is None:
                if not value.is_input:
                    value.graph._unlink_constant(value)
                continue
            if node.graph is None or any(out.uses for out in node.outputs):
                continue
            read = [v for v in node.inputs if v is not None] + captured(node)
            node.graph._unlink(node)
            erased += 1
            stack.extend(read)
        return erased

    # -- edits: journal, versions, dirty nodes

    def _changed(self, undo: Undo) -> None:
        root = self.root
        root._version += 1
        if root._journal is not None:
            root._journal.record(undo)

    def _log(self, undo: Undo) -> None:
        self._version += 1
        if self._journal is not None:
            self._journal.record(undo)

    def _mark(self, user: Node | Graph) -> None:
        """Notes that the types of what `user` produces may have changed."""
        if isinstance(user, Node):
            self._dirty[user] = None
        elif user.owner is not None:
            self._dirty[user.owner] = None

    def take_dirty(self) -> list[Node]:
        """The nodes whose output types may be out of date; the list is handed over and starts anew."""
        dirty = [node for node in self._dirty if node.graph is not None]
        self._dirty = {}
        return dirty

    @contextmanager
    def transaction(self) -> Iterator[Journal]:
        """Records every edit; an exception inside the block undoes them all, as does ``journal.rollback()``.

        Transactions nest: an inner one that ends well joins the outer one.
        """
        root = self.root
        outer = root._journal
        journal = root._journal = Journal()
        try:
            yield journal
        except BaseException:
            root._journal = None
            journal.rollback()
            raise
        finally:
            root._journal = outer
        if outer is not None:
            outer.extend(journal)

    # -- copies and views

    def clone(self) -> Graph:
        """A copy that shares the constants' tensors."""
        from graphopt.ir.clone import clone

        return clone(self)

    def to_networkx(self) -> networkx.MultiDiGraph[Any]:
        """The nodes, inputs and constants as a networkx multigraph, an edge per use (see `graphopt.ir.view`)."""
        from graphopt.ir.view import to_networkx

        return to_networkx(self)

    def verify(self) -> None:
        """Raises VerifyError when the graph is malformed (see `graphopt.ir.verify`)."""
        from graphopt.ir.verify import verify

        verify(self)

    def __str__(self) -> str:
        from graphopt.ir.text import print_graph

        return print_graph(self)

    def __repr__(self) -> str:
        return f"<Graph '{self.name}': {len(self)} nodes, {len(self._inputs)} inputs, {len(self._outputs)} outputs>"


def captured(node: Node) -> list[Value]:
    """The values of surrounding graphs that the bodies of `node` read, each once."""
    bodies = node.bodies
    if not bodies:
        return []
    inside = {graph for body in bodies for graph in body.graphs()}
    found: dict[Value, None] = {}
    for graph in inside:
        read = [v for n in graph.nodes for v in n.inputs if v is not None]
        for value in [*read, *graph.outputs]:
            if value.graph not in inside:
                found[value] = None
    return list(found)


def _register_uses(node: Node) -> None:
    for index, value in enumerate(node.inputs):
        if value is not None:
            value._uses[Use(node, index)] = None
    for body in node.bodies:
        for inner in body.nodes:
            _register_uses(inner)
        for index, value in enumerate(body.outputs):
            value._uses[Use(body, index)] = None


def _drop_uses(node: Node) -> None:
    for index, value in enumerate(node.inputs):
        if value is not None:
            value._uses.pop(Use(node, index), None)
    for body in node.bodies:
        for inner in body.nodes:
            _drop_uses(inner)
        for index, value in enumerate(body.outputs):
            value._uses.pop(Use(body, index), None)


__all__ = ["Graph", "captured"]
