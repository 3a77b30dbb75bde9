"""The graph: SSA in topological order, over a linked list of nodes that may be edited while it is walked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graphopt.ir import uses
from graphopt.ir.journal import Metadata, Undo, journalled, metadata_property
from graphopt.ir.node import Attribute, Node, Origin
from graphopt.ir.scope import Scope
from graphopt.ir.signature import Signature
from graphopt.ir.types import UNKNOWN, DType, TensorType, ValueType
from graphopt.ir.uses import captured
from graphopt.ir.value import Parameter, Use, Value

if TYPE_CHECKING:
    import networkx
    from torch import nn


class Graph(Scope):
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

    if TYPE_CHECKING:
        name: str
        signature: Signature | None
        doc: str
        metadata: dict[str, str]

        def update_from(self, module: nn.Module) -> None:
            """Takes the trained weights of a module that `to_torch` made back; bound by the package, not by ir."""

    else:
        name = journalled("_name")
        signature = journalled("_signature")
        doc = journalled("_doc")
        metadata = metadata_property()

    def __init__(self, name: str = "main") -> None:
        super().__init__()
        self._name = name
        self._signature: Signature | None = None
        self._doc = ""
        self._metadata: Metadata | None = None
        self._inputs: list[Value] = []
        self._outputs: list[Value] = []
        self._output_names: list[str] = []
        # Each with its place in the order of addition, to which a rollback brings it back.
        self._constants: dict[Value, int] = {}
        self._next_constant = 0
        self._constants_sorted = True

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
        if not self._constants_sorted:
            self._constants = dict(sorted(self._constants.items(), key=lambda item: item[1]))
            self._constants_sorted = True
        return self._constants.keys()

    @property
    def parameters(self) -> list[Value]:
        """The constants that were parameters or buffers of a module."""
        return [value for value in self.constants if value.parameter is not None]

    def walk(self) -> Iterator[Node]:
        """The nodes of this graph and of all bodies inside it; a node comes before its bodies."""
        stack = [self.nodes]
        while stack:
            for node in stack[-1]:
                yield node
                if node.attributes._bodies:
                    stack.extend(body.nodes for body in reversed(node.bodies))
                    break
            else:
                stack.pop()

    def graphs(self) -> Iterator[Graph]:
        """This graph and all bodies inside it."""
        stack = [self]
        while stack:
            graph = stack.pop()
            yield graph
            stack.extend(reversed([body for node in graph.nodes for body in node.attributes._bodies]))

    def values(self) -> Iterator[Value]:
        """Inputs, constants and node outputs of this graph (not of its bodies)."""
        yield from self._inputs
        yield from self.constants
        for node in self.nodes:
            yield from node.outputs

    # -- inputs, outputs, constants

    def add_input(
        self,
        name: str,
        type: ValueType = UNKNOWN,
        *,
        default: torch.Tensor | np.ndarray | None = None,
        index: int | None = None,
    ) -> Value:
        """Adds a graph input; `default` makes it an overridable initializer."""
        value = Value(type, name, default)
        value.is_input = True
        self._link_input(len(self._inputs) if index is None else index, value)
        return value

    def remove_input(self, value: Value) -> None:
        """Removes an input that nothing reads. Raises ValueError when something does, or it is no input."""
        if value.uses:
            raise ValueError(f"{value} is still used")
        self._unlink_input(value)

    def _link_input(self, index: int, value: Value) -> None:
        self._inputs.insert(index, value)
        value.graph = value._home = self
        self._changed(lambda: self._unlink_input(value))

    def _unlink_input(self, value: Value) -> None:
        index = self._inputs.index(value)
        del self._inputs[index]
        value.graph = None
        self._changed(lambda: self._link_input(index, value))

    def add_output(self, value: Value, name: str = "") -> None:
        """Returns `value` under `name` (its own label by default)."""
        index = len(self._outputs)
        self._outputs.append(value)
        self._output_names.append(name or value.name or f"output_{index}")
        value._uses[Use(self, index)] = None
        self._outputs_changed(self._drop_output)

    def _drop_output(self) -> None:
        index = len(self._outputs) - 1
        del self._outputs[index]._uses[Use(self, index)]
        self._outputs.pop()
        self._output_names.pop()

    def set_outputs(self, values: Sequence[Value], names: Sequence[str]) -> None:
        """Replaces the whole list of outputs. Raises ValueError unless there is one name for each value."""
        if len(values) != len(names):
            raise ValueError(f"{len(values)} outputs with {len(names)} names")
        old, old_names = self._outputs, self._output_names
        for index, value in enumerate(old):
            value._uses.pop(Use(self, index), None)
        self._outputs, self._output_names = list(values), list(names)
        for index, value in enumerate(self._outputs):
            value._uses[Use(self, index)] = None
        self._outputs_changed(lambda: self.set_outputs(old, old_names))

    def set_input(self, index: int, value: Value) -> None:
        """Returns `value` as output `index` (a graph reads its outputs as a node reads its inputs)."""
        if index < 0:
            index += len(self._outputs)
        old = self._outputs[index]
        if old is value:
            return
        old._uses.pop(Use(self, index), None)
        self._outputs[index] = value
        value._uses[Use(self, index)] = None
        self._outputs_changed(lambda: self.set_input(index, old))

    def _outputs_changed(self, undo: Undo) -> None:
        self._changed(undo)
        self.root._mark(self)

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

        Raises:
            ValueError: a `Value` that holds no data, or is part of a graph already.
        """
        if isinstance(data, Value):
            value = data
            if value.graph is not None or value.producer is not None or not value.is_constant:
                raise ValueError(f"{value} is no detached constant")
        elif isinstance(data, torch.Tensor):
            kind = TensorType.of(data) if dtype is None else TensorType(dtype, tuple(data.shape))
            value = Value(kind, name or (parameter.name if parameter else ""), data, parameter)
        else:
            value = Value(TensorType(DType.STRING, tuple(data.shape)), name, data, parameter)
        self._link_constant(value, self._next_constant)
        self._next_constant += 1
        return value

    def _link_constant(self, value: Value, place: int) -> None:
        value.graph = value._home = self
        self._constants[value] = place
        self._constants_sorted &= place == self._next_constant
        self._changed(lambda: self._unlink_constant(value))

    def _unlink_constant(self, value: Value) -> None:
        place = self._constants.pop(value)
        value.graph = None
        self._changed(lambda: self._link_constant(value, place))

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
        """Links a detached node in before `anchor`; O(1). Raises ValueError when `anchor` is not in this graph."""
        self._check_anchor(anchor)
        return self._link(node, anchor._prev, anchor)

    def insert_after(self, anchor: Node, node: Node) -> Node:
        """Links a detached node in after `anchor`; O(1). Raises ValueError when `anchor` is not in this graph."""
        self._check_anchor(anchor)
        return self._link(node, anchor, anchor._next)

    def _check_anchor(self, anchor: Node) -> None:
        if anchor.graph is not self:
            raise ValueError(f"{anchor.describe()} is not in graph '{self.name}'")

    def prepend(self, node: Node) -> Node:
        """Links a detached node in at the beginning."""
        return self._link(node, None, self._first)

    def erase(self, node: Node) -> None:
        """Removes a node whose outputs nothing reads. Raises ValueError when something does."""
        if node.graph is not self:
            raise ValueError(f"{node.describe()} is not in graph '{self.name}'")
        for value in node.outputs:
            if value.uses:
                raise ValueError(f"cannot erase {node}: {value} is still used")
        self._unlink(node)

    def _link(self, node: Node, before: Node | None, after: Node | None) -> Node:
        if node.graph is not None:
            raise ValueError(f"{node} is linked into a graph already")
        node.graph = node._home = self
        self._splice_in(node, before, after)
        for value in node.outputs:
            value.graph = self
        uses.register(node)
        self._changed(lambda: self._unlink(node))
        root = self.root
        root._mark(node)
        for body in node.bodies:
            root._take_marks_of(body)
        return node

    def _unlink(self, node: Node) -> None:
        before, after = node._prev, node._next
        self._splice_out(node)
        uses.drop(node)
        self.root._unmark(node)
        node.graph = None
        for value in node.outputs:
            value.graph = None
        self._changed(lambda: self._relink(node, before, after))

    def _relink(self, node: Node, before: Node | None, after: Node | None) -> None:
        self._link(node, before, after)

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

    # -- copies and views

    def clone(self) -> Graph:
        """A copy that shares the constants' tensors."""
        from graphopt.ir.clone import clone

        return clone(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Graph:
        # Following the links from node to node would exhaust the stack; tensors are never written, so they are shared.
        return self.clone()

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


__all__ = ["Graph", "captured"]
