"""Expressing a graph at an older opset: operators that came later are replaced by what they are made of."""

from __future__ import annotations

import math

import torch

from graphopt.analysis.shapes import propagate
from graphopt.backends.onnx_expansions import EXPANSIONS
from graphopt.backends.onnx_function import write_out
from graphopt.backends.onnx_opset import expressible
from graphopt.errors import ShapeError, UnsupportedOperatorError
from graphopt.ir import DType, Graph, Node, Value
from graphopt.ir import dims as D
from graphopt.ops.builder import Builder
from graphopt.ops.record import attribute, execute, record_of
from graphopt.ops.update import infer_node

# Operators are made of simpler ones; a definition that went round would end here.
_DEPTH = 8
# Constants of an expansion are computed up to this many elements.
_FOLDED = 1 << 16


def expanded(graph: Graph, opset: int) -> Graph:
    """`graph` itself when `opset` can express it, else a copy in which other nodes stand for what it cannot.

    A node is replaced by what `EXPANSIONS` has for it, else by the function that ONNX defines it by. Nodes for which
    there is neither stay. Weights are shared with the original.

    Raises:
        ShapeError: the graph's own shapes do not fit.
    """
    if not any(_is_late(node, opset) for node in graph.walk()):
        return graph
    copy = graph.clone()
    propagate(copy)
    pending = [(node, _DEPTH) for node in copy.walk() if _is_late(node, opset)]
    while pending:
        node, depth = pending.pop()
        if node.graph is None:  # what read it turned out not to need it
            continue
        try:
            with copy.transaction():
                made = _expand(node)
        except ShapeError:  # some functions forget element types that the operator has
            continue
        if depth:
            # The functions cast everything like something else, whose type is known here.
            pending.extend((each, depth - 1) for each in made if each.op == "CastLike" or _is_late(each, opset))
    return copy


def _is_late(node: Node, opset: int) -> bool:
    return not node.domain and not expressible(node) >> opset & 1


def _expand(node: Node) -> list[Node]:
    """Replaces one node; returns the nodes that stand for it, none when it stays."""
    graph, before = node.graph, node.prev
    assert graph is not None, "a walk gives linked nodes"
    rule = EXPANSIONS.get(node.op)
    results = rule(node, Builder(graph, node, node.origin)) if rule else None
    if results is None:
        results = write_out(node)
    if results is None:
        return []
    made = _between(before, node)
    for old, new in zip(node.outputs, results, strict=False):
        if new is not None:
            new.name = new.name if new.graph is graph and new.producer not in made else old.name
            old.replace_uses(new)
    graph.erase(node)
    for each in made:
        each.origin, each.name = node.origin, ""
        _settle(each)
    graph.sweep([value for each in made for value in each.outputs])
    return [each for each in made if each.graph is graph]


def _between(before: Node | None, node: Node) -> list[Node]:
    """The nodes behind `before` and in front of `node`."""
    found = []
    each = node.prev
    while each is not None and each is not before:
        found.append(each)
        each = each.prev
    return found[::-1]


# -- the functions are written for any rank, type and attribute; most of that is known here


def _settle(node: Node) -> None:
    """Infers the types of a new node, and replaces it by what it gives where that is known."""
    infer_node(node)
    alias = _alias(node)
    if alias is not None:
        node.output.replace_uses(alias)
        return
    constants = _constants(node)
    if constants is None:
        return
    for value, data in zip(node.outputs, constants, strict=False):
        if value.uses and node.graph is not None:
            value.replace_uses(node.graph.add_constant(data, value.name, dtype=value.dtype))


def _alias(node: Node) -> Value | None:
    """The input that a node returns unchanged."""
    x = node.input(0)
    if x is None or node.domain:
        return None
    same_type = node.op == "Cast" and x.dtype is not DType.UNDEFINED and int(x.dtype) == attribute(node, "to")
    return x if node.op == "Identity" or same_type else None


def _constants(node: Node) -> list[torch.Tensor] | None:
    """The outputs of a node whose inputs are small constants, or whose contents shape propagation knows."""
    record = record_of(node)
    if record is None or record.compute is None or record.random or node.bodies:
        return None
    known = [_known(value) for value in node.outputs]
    if all(each is not None for each in known):
        return [each for each in known if each is not None]
    given = [None if value is None else _small(value) for value in node.inputs]
    if any(value is not None and data is None for value, data in zip(node.inputs, given, strict=True)):
        return None
    shapes = [value.shape for value in node.outputs]
    # mypy does not see that what is_static passes are integers.
    if not all(D.is_static(shape) and math.prod(shape or ()) <= _FOLDED for shape in shapes):  # type: ignore[arg-type]
        return None
    try:
        return list(execute(node, given))
    except UnsupportedOperatorError:  # then the node computes it
        return None


def _known(value: Value) -> torch.Tensor | None:
    known = value.known
    if known is None or not all(isinstance(item, int) for item in known.flat) or value.dtype is DType.UNDEFINED:
        return None
    return torch.tensor(known.tolist(), dtype=value.dtype.torch).reshape(known.shape)


def _small(value: Value) -> torch.Tensor | None:
    return value.data if value.is_constant and value.data is not None and value.data.numel() <= _FOLDED else None
