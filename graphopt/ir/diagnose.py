"""Why a value cannot be read where it is read: the verifier's explanations."""

from __future__ import annotations

from graphopt.errors import VerifyError
from graphopt.ir.graph import Graph
from graphopt.ir.node import Node
from graphopt.ir.uses import captured
from graphopt.ir.value import Use, Value

# How many nodes of a cycle an error names.
_SHOWN = 6


def show(value: Value) -> str:
    """A short text that lets a person find the value."""
    if value.name:
        return f"%{value.name}"
    if value.producer is not None:
        return f"output {value.index} of {value.producer.describe()}"
    return "an unnamed value"


def unseen(value: Value, use: Use, where: str, what: str) -> VerifyError:
    """The error for a read of a value that is not visible there."""
    text = f"{what} reads {show(value)}"
    if value.graph is None:
        if value.producer is not None:
            return VerifyError(
                f"{text}, whose node was erased", where=where, hint="give its readers another value before erasing"
            )
        return VerifyError(f"{text}, which is in no graph", where=where, hint="add it with add_input or add_constant")
    if not _encloses(value.graph, use):
        return VerifyError(
            f"{text} of graph '{value.graph.name}', which cannot be seen from here", where=where,
            hint="pass it out as an output of that graph",
        )  # fmt: skip
    reader = _node_within(use, value.graph)
    if reader is None or value.producer is None:
        return VerifyError(f"{text}, which is not defined", where=where)
    cycle = _cycle(value.producer, reader)
    if cycle:
        shown = [node.describe() for node in cycle[:_SHOWN]]
        more = f" -> ... {len(cycle) - _SHOWN} more" if len(cycle) > _SHOWN else ""
        path = " -> ".join(shown) + more
        return VerifyError(f"{text}: the nodes form a cycle, {path} -> {shown[0]}", where=where)
    return VerifyError(
        f"{text} before {value.producer.describe()} defines it", where=where,
        hint="insert the reader after what it reads",
    )  # fmt: skip


def _encloses(graph: Graph, use: Use) -> bool:
    inner = use.user if isinstance(use.user, Graph) else use.user.graph
    while inner is not None and inner is not graph:
        inner = inner.owner.graph if inner.owner is not None else None
    return inner is graph


def _node_within(use: Use, graph: Graph) -> Node | None:
    """The node of `graph` that makes the use, itself or in one of its bodies; ``None`` for an output of `graph`."""
    user: Node | Graph | None = use.user
    while user is not None:
        if isinstance(user, Graph):
            user = None if user is graph else user.owner
        elif user.graph is graph:
            return user
        else:
            user = user.graph
    return None


def _cycle(producer: Node, reader: Node) -> list[Node]:
    """The nodes from `reader` to `producer`, when `producer` depends on `reader`."""
    came_from: dict[Node, Node | None] = {producer: None}
    stack = [producer]
    while stack:
        node = stack.pop()
        if node is reader:
            path: list[Node] = []
            step: Node | None = node
            while step is not None:
                path.append(step)
                step = came_from[step]
            return path
        for value in (*node.inputs, *captured(node)):
            if value is not None and value.producer is not None and value.producer not in came_from:
                came_from[value.producer] = node
                stack.append(value.producer)
    return []
