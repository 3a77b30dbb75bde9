"""Replacing values: rewires their readers, hands names on, and removes what nothing reads any more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from graphopt.errors import PassError
from graphopt.ir import DType, Graph, Node, TensorType, Value, captured
from graphopt.ops.update import merge


@dataclass
class Swept:
    """What a sweep removed.

    Attributes:
        nodes: erased nodes.
        constants: removed constants.
        loosened: values that lost a reader and stay.
    """

    nodes: list[Node] = field(default_factory=list)
    constants: list[Value] = field(default_factory=list)
    loosened: dict[Value, None] = field(default_factory=dict)


def is_kept(value: Value) -> bool:
    """True for what a ``state_dict`` would miss: parameters and persistent buffers."""
    return value.parameter is not None and value.parameter.persistent


def sweep(candidates: Iterable[Value], keep: Callable[[Value], bool] = is_kept) -> Swept:
    """Erases the producers of `candidates` where nothing reads them, and so on upwards.

    Args:
        candidates: values that may have become unused.
        keep: constants that stay although nothing reads them.
    """
    swept = Swept()
    stack = list(candidates)
    while stack:
        value = stack.pop()
        graph = value.graph
        if value.uses or graph is None:
            if graph is not None:
                swept.loosened[value] = None
            continue
        node = value.producer
        if node is None:
            if not value.is_input and not keep(value):
                graph.remove_constant(value)
                swept.constants.append(value)
            continue
        if any(out.uses for out in node.outputs):
            continue
        read = [v for v in node.inputs if v is not None] + captured(node)
        graph.erase(node)
        swept.nodes.append(node)
        stack.extend(read)
    for value in [v for v in swept.loosened if v.graph is None]:
        del swept.loosened[value]
    return swept


def replace(
    old: Sequence[Value],
    new: Sequence[Value],
    *,
    fresh: Collection[Node] = (),
    keep: Callable[[Value], bool] = is_kept,
) -> Swept:
    """Makes every reader of ``old[i]`` read ``new[i]``, and sweeps away what that leaves unused.

    The names by which callers know the graph's outputs are the graph's own and stay. What an operator computes takes
    over the type of what it replaces where its own rule knows less; values and nodes in `fresh` take over the labels.

    Raises:
        PassError: a new value cannot be what the old one was (element type or shape contradict each other).
    """
    made = set(fresh)
    for before, after in zip(old, new, strict=True):
        if before is after:
            continue
        check_types(before, after)
        if after.producer is not None:
            after.type = merge(before.type, after.type, after.producer)
        if after.producer in made:
            _hand_on_labels(before, after)
        before.replace_uses(after)
    return sweep(old, keep)


def _hand_on_labels(before: Value, after: Value) -> None:
    after.name = before.name or after.name
    if before.doc:
        after.doc = before.doc
    old, new = before.producer, after.producer
    if old is not None and new is not None and not new.name:
        new.name = old.name
        new.doc = old.doc
        # What a file says of the place in the model (module path, stack trace) goes with the name.
        new.metadata = {**old.metadata, **new.metadata}


def check_types(before: Value, after: Value) -> None:
    """Raises PassError when `after` cannot stand in for `before`."""
    if not isinstance(before.type, TensorType) or not isinstance(after.type, TensorType):
        return
    a, b = before.type, after.type
    clash = DType.UNDEFINED not in (a.dtype, b.dtype) and a.dtype is not b.dtype
    if a.shape is not None and b.shape is not None:
        clash |= len(a.shape) != len(b.shape) or any(
            isinstance(x, int) and isinstance(y, int) and x != y for x, y in zip(a.shape, b.shape, strict=False)
        )
    if clash:
        where = before.producer.describe() if before.producer else f"%{before.name}"
        raise PassError(f"{before.type} was to be replaced by {after.type}", where=where, hint="please report this")


def drop_orphans(graph: Graph, modules: Collection[str]) -> int:
    """Removes unused buffers of modules nothing of which is read any more (``num_batches_tracked`` of a folded BN).

    Args:
        graph: the outermost graph.
        modules: paths of the modules that lost a parameter.
    """
    if not modules:
        return 0
    members: dict[str, list[Value]] = {}
    for value in graph.constants:
        if value.parameter is not None:
            members.setdefault(module_of(value), []).append(value)
    dropped = 0
    for path in modules:
        values = members.get(path, [])
        if any(value.uses for value in values):
            continue
        for value in values:
            if value.parameter is not None and value.parameter.buffer:
                graph.remove_constant(value)
                dropped += 1
    return dropped


def module_of(value: Value) -> str:
    """Path of the module that a parameter belongs to; empty for other constants."""
    return value.parameter.name.rpartition(".")[0] if value.parameter else ""


__all__ = ["Swept", "check_types", "drop_orphans", "is_kept", "module_of", "replace", "sweep"]
