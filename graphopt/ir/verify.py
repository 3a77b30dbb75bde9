"""The verifier: is a graph well-formed? In memory, in linear time, with the bodies of control flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from graphopt.errors import VerifyError
from graphopt.ir.diagnose import show, unseen
from graphopt.ir.expect import expect_graph
from graphopt.ir.graph import Graph
from graphopt.ir.literals import SparseTensor, TypedTensor
from graphopt.ir.node import Node
from graphopt.ir.types import DType, MapType, OptionalType, SequenceType, TensorType, ValueType
from graphopt.ir.value import Use, Value

_SCALARS = (bool, int, float, str, bytes, torch.Tensor, TypedTensor, SparseTensor)
_TYPES = (TensorType, SequenceType, OptionalType, MapType)
_ITEMS = (*_SCALARS, *_TYPES, Graph)


def verify(graph: Graph) -> None:
    """Checks that `graph` and all bodies inside it are well-formed.

    That is: the list of nodes hangs together, every value is defined once and before it is read, a body reads values
    of the graphs around it only where they are defined before its node, uses and inputs agree in both directions,
    constants hold data of their type, names of inputs and outputs are unique, attributes hold what attributes may hold.

    Raises:
        VerifyError: at the first thing that is wrong, with the node or value.
        OptionError: `graph` is no graph.
    """
    expect_graph(graph, "verify")
    _Verifier(graph).run()


class _Verifier:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        # What may be read at the point that the walk has reached.
        self.visible: set[Value] = set(_around(graph))
        self.defined: dict[Value, None] = {}
        self.reads: dict[Value, int] = {}

    def run(self) -> None:
        self.check_graph(self.graph)
        self.check_uses()
        self.check_parameters()

    def check_graph(self, graph: Graph) -> None:
        where = _where(graph)
        if len(graph.outputs) != len(graph.output_names):
            raise VerifyError(f"{len(graph.outputs)} outputs with {len(graph.output_names)} names", where=where)
        if graph is self.graph and graph.owner is None:
            _check_named(graph)
        _check_unique([value.name for value in graph.inputs if value.name], "inputs", where)
        _check_unique(graph.output_names, "outputs", where)
        local: list[Value] = []
        for value in (*graph.inputs, *graph.constants):
            self.define(value, graph, local)
        for node in _linked(graph):
            self.check_node(node, graph, local)
        for index, value in enumerate(graph.outputs):
            self.read(value, Use(graph, index))
        self.visible.difference_update(local)

    def define(self, value: Value, graph: Graph, local: list[Value]) -> None:
        if value in self.defined:
            raise VerifyError(f"{show(value)} is defined twice", where=_where(graph))
        if value.graph is not graph:
            raise VerifyError("the value does not know which graph it is in", where=_place(value, graph))
        if not isinstance(value.type, _TYPES):
            raise VerifyError(f"the type is {value.type!r}, no ValueType", where=_place(value, graph))
        if value.producer is None:
            _check_source(value, graph)
        self.defined[value] = None
        self.visible.add(value)
        local.append(value)

    def check_node(self, node: Node, graph: Graph, local: list[Value]) -> None:
        # Texts are made where something is wrong only: most of the time would go into them.
        if not node.op:
            raise VerifyError("a node has no operator", where=node.describe())
        for index, value in enumerate(node.inputs):
            if value is not None:
                self.read(value, Use(node, index))
        for name, attribute in node.attributes._items.items():
            if not isinstance(attribute, _SCALARS):
                _check_attribute(attribute, name, node)
        for body in node.bodies:
            if body.owner is not node:
                raise VerifyError(
                    f"the body '{body.name}' belongs to another node", where=node.describe(),
                    hint="a body has one owner; clone it for a second one",
                )  # fmt: skip
            self.check_graph(body)
        for index, value in enumerate(node.outputs):
            if value.producer is not node or value.index != index:
                raise VerifyError(f"output {index}, {show(value)}, does not know its node", where=node.describe())
            if value._data is not None or value.is_input:
                raise VerifyError(
                    f"output {index}, {show(value)}, is marked as an input or constant", where=node.describe()
                )
            self.define(value, graph, local)

    def read(self, value: Value, use: Use) -> None:
        if value not in self.visible:
            raise unseen(value, use, *_reader(use))
        if use not in value._uses:
            where, what = _reader(use)
            raise VerifyError(
                f"{what} reads {show(value)}, whose uses do not list it", where=where,
                hint="change inputs with set_input, set_inputs, set_outputs or replace_uses only",
            )  # fmt: skip
        self.reads[value] = self.reads.get(value, 0) + 1

    def check_uses(self) -> None:
        # Every read is among the uses; so where the numbers agree, the sets do.
        for value in self.defined:
            if len(value._uses) != self.reads.get(value, 0):
                raise _stray_use(value, self.graph)

    def check_parameters(self) -> None:
        owners: dict[str, Value] = {}
        for value in self.defined:
            parameter = value.parameter
            if parameter is None:
                continue
            for name in (parameter.name, *parameter.aliases):
                if owners.setdefault(name, value) is not value:
                    raise VerifyError(
                        f"{show(owners[name])} and {show(value)} both claim to be the parameter '{name}'",
                        hint="a further name of one tensor is an alias; a new tensor needs a name of its own, or none",
                    )


def _around(graph: Graph) -> Iterator[Value]:
    """The values of the graphs around `graph` that are defined before it."""
    owner = graph.owner
    while owner is not None and owner.graph is not None:
        outer = owner.graph
        yield from outer.inputs
        yield from outer.constants
        for node in outer.nodes:
            if node is owner:
                break
            yield from node.outputs
        owner = outer.owner


def _reader(use: Use) -> tuple[str, str]:
    """Where a value is read, and as what."""
    if isinstance(use.user, Graph):
        return _where(use.user), f"output '{use.user.output_names[use.index]}'"
    user = use.user
    assert isinstance(user, Node), "nodes and graphs read values"
    return user.describe(), f"input {use.index}"


def _place(value: Value, graph: Graph) -> str:
    return f"{show(value)} in {_where(graph)}"


def _where(graph: Graph) -> str:
    text = f"graph '{graph.name}'"
    return text if graph.owner is None else f"{text} of {graph.owner.describe()}"


def _linked(graph: Graph) -> Iterator[Node]:
    """The nodes of a graph, in a walk that trusts no link."""
    where = _where(graph)
    before: Node | None = None
    count, node = 0, graph._first
    while node is not None:
        count += 1
        if count > len(graph):
            raise VerifyError(
                f"the list of nodes is longer than the {len(graph)} it should have, or a ring", where=where
            )
        if node.graph is not graph:
            raise VerifyError("a node in the list is not linked into this graph", where=node.describe())
        if node._prev is not before:
            raise VerifyError("the links to and from the node disagree", where=node.describe())
        if before is not None and before._order >= node._order:
            raise VerifyError("order numbers do not ascend", where=node.describe())
        yield node
        before, node = node, node._next
    if count != len(graph) or graph._last is not before:
        raise VerifyError(f"the list of nodes ends after {count} of {len(graph)}", where=where)


def _check_named(graph: Graph) -> None:
    for index, value in enumerate(graph.inputs):
        if not value.name:
            raise VerifyError(f"input {index} has no name", where=_where(graph), hint="callers pass inputs by name")


def _check_unique(names: Sequence[str], what: str, where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if not name:
            raise VerifyError(f"one of the {what} has no name", where=where)
        if name in seen:
            raise VerifyError(f"two {what} are called '{name}'", where=where, hint="rename one of them")
        seen.add(name)


def _check_source(value: Value, graph: Graph) -> None:
    constant = value in graph._constants
    if value.is_input == constant:
        raise VerifyError("an input must be flagged as one, and a constant must not", where=_place(value, graph))
    data = value._data
    if data is None:
        if constant:
            raise VerifyError(
                "a constant holds no data", where=_place(value, graph), hint="make it an input, or give it data"
            )
        return
    problem = _misfit(value.type, data, constant)
    if problem:
        raise VerifyError(problem, where=_place(value, graph))


def _misfit(kind: ValueType, data: torch.Tensor | np.ndarray, constant: bool) -> str:
    """Why data is not of a type; empty when it is."""
    if not isinstance(kind, TensorType):
        return f"a tensor has the type {kind}"
    if isinstance(data, torch.Tensor):
        carrier = None if kind.dtype in (DType.STRING, DType.UNDEFINED) else kind.dtype.torch
        fits = data.dtype == carrier
    else:
        fits = kind.dtype is DType.STRING and all(isinstance(item, str | bytes) for item in data.flat)
    if not fits:
        return f"data of {data.dtype} does not carry elements of type {kind.dtype}"
    if not _shape_fits(kind, data, exact=constant):
        return f"data of shape {tuple(data.shape)} has the type {kind}"
    return ""


def _shape_fits(kind: TensorType, data: torch.Tensor | np.ndarray, exact: bool) -> bool:
    if kind.shape is None:
        return not exact
    if kind.shape == tuple(data.shape):
        return True
    if len(kind.shape) != len(data.shape):
        return False
    return all(
        dim == size if isinstance(dim, int) else not exact for dim, size in zip(kind.shape, data.shape, strict=True)
    )


def _check_attribute(value: Any, name: str, node: Node) -> None:
    # Nested tuples are rare and shallow; a stack costs less than recursion on every attribute.
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            stack.extend(item)
        elif not isinstance(item, _ITEMS) and not _is_strings(item):
            raise VerifyError(
                f"attribute '{name}' holds {type(item).__name__} {item!r}"[:200], where=node.describe(),
                hint="attributes are numbers, strings, bytes, tensors, types, graphs and tuples of these; "
                "leave out what is None",
            )  # fmt: skip


def _is_strings(item: Any) -> bool:
    return isinstance(item, np.ndarray) and item.dtype == object


def _stray_use(value: Value, graph: Graph) -> VerifyError:
    """The error for a value whose uses list more than the inputs in `graph` do."""
    inside: set[Node | Graph] = {*graph.walk(), *graph.graphs()}
    for user, index in value._uses:
        read = user.outputs if isinstance(user, Graph) else user.inputs
        where = _where(user) if isinstance(user, Graph) else user.describe()
        if index >= len(read) or read[index] is not value:
            what = f"the uses of {show(value)} list index {index} of a reader that reads something else there"
            return VerifyError(what, where=where)
        if user not in inside:
            return VerifyError(
                f"{show(value)} is read from outside the graph that is verified", where=where,
                hint="erase nodes with Graph.erase, and do not let an unlinked body read values of a graph",
            )  # fmt: skip
    raise AssertionError("every use was counted")
