"""Control flow: types of If, Loop, Scan and SequenceMap, and of what goes on in their bodies.

The rules here do more than others: they give the inputs of bodies their types and infer the bodies. What a loop carries
must have one type in every round: the narrowest that holds what comes in and what a round makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.errors import ShapeError
from graphopt.ir import UNKNOWN, Dim, DType, Graph, Node, OptionalType, SequenceType, TensorType, Value, ValueType
from graphopt.ops.infer import integers, normalise_axis
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.sequence import join

_STEP = TensorType(DType.INT64, ())
_CONDITION = TensorType(DType.BOOL, ())


def infer_body(body: Graph) -> list[ValueType]:
    """Infers every node of a body, by the types that its inputs have; returns the types of its outputs."""
    from graphopt.ops.update import infer_node

    for node in body.nodes:
        infer_node(node)
    return [value.type for value in body.outputs]


def body_of(node: Node, name: str = "body") -> Graph:
    """The body in attribute `name`. Raises ShapeError when there is none."""
    body = node.attributes.get(name)
    if not isinstance(body, Graph):
        raise ShapeError(f"{node.op} has no body '{name}'", where=node.describe())
    return body


def assume(body: Graph, kinds: Sequence[ValueType], node: Node) -> None:
    """Gives the inputs of a body their types; what followed from narrower ones is forgotten.

    Raises:
        ShapeError: the body has another number of inputs.
    """
    if len(kinds) != len(body.inputs):
        raise ShapeError(f"the body takes {len(body.inputs)} inputs, {len(kinds)} are given", where=node.describe())
    changes = [
        (value, kind) for value, kind in zip(body.inputs, kinds, strict=True) if kind not in (value.type, UNKNOWN)
    ]
    if any(_is_wider(kind, value.type) for value, kind in changes):
        for inner in body.walk():
            for value in inner.outputs:
                if value.shape is not None:
                    value.type = TensorType(value.dtype)
                value.known = None
    for value, kind in changes:
        value.type = kind


def _is_wider(new: ValueType, old: ValueType) -> bool:
    if isinstance(old, TensorType) and old.shape is None:
        return False
    common = join(old, new)
    if isinstance(common, TensorType) and isinstance(old, TensorType):
        return common.shape != old.shape
    return common != old


def _settle(node: Node, body: Graph, before: Sequence[ValueType], state: list[ValueType],
            behind: Sequence[ValueType], first: int) -> list[ValueType]:  # fmt: skip
    """Types of what a loop carries: the body's inputs between `before` and `behind`, its outputs from `first`."""
    while True:
        assume(body, [*before, *state, *behind], node)
        found = infer_body(body)[first : first + len(state)]
        wider = [join(old, new) for old, new in zip(state, found, strict=True)]
        if wider == state:
            return state
        state = wider


class Settled:
    """A block that infers the bodies of a node: what it marked for propagation needs none when all is settled."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._root = node.graph.root if node.graph is not None else None

    def __enter__(self) -> None:
        self._before = set(self._root._dirty) if self._root is not None else set()

    def __exit__(self, *_: object) -> None:
        if self._root is None:
            return
        for marked in [each for each in self._root._dirty if each not in self._before]:
            if marked is self._node or self._is_inside(marked):
                self._root._unmark(marked)

    def _is_inside(self, node: Node) -> bool:
        graph = node.graph
        while graph is not None and graph.owner is not None:
            if graph.owner is self._node:
                return True
            graph = graph.owner.graph
        return False


def _forget(value: Value, a: ValueType, b: ValueType, common: ValueType) -> None:
    """Takes back what an output was believed to be where `a` or `b` knew better than what is `common` to them.

    Propagation would keep it otherwise, as it does with what only the file knows.
    """
    kinds = (value.type, a, b, common)
    if any(not isinstance(kind, TensorType) for kind in kinds):
        return
    old, x, y, z = (kind.shape if isinstance(kind, TensorType) else None for kind in kinds)
    if old is None or x is None:
        return
    if y is None or z is None or len(z) != len(old):
        value.type = TensorType(value.dtype)
        return
    lost = [c is None and (p is not None or q is not None) for p, q, c in zip(x, y, z, strict=True)]
    value.type = TensorType(value.dtype, tuple(None if gone else size for size, gone in zip(old, lost, strict=True)))


# -- If


def infer_if(node: Node) -> list[ValueType]:
    """Type rule of If: what both branches' results have in common. Raises ShapeError when their numbers differ."""
    with Settled(node):
        taken, other = (infer_body(body_of(node, name)) for name in ("then_branch", "else_branch"))
    if len(taken) != len(other):
        raise ShapeError(f"one branch returns {len(taken)} values, the other {len(other)}", where=node.describe())
    common = [join(a, b) for a, b in zip(taken, other, strict=True)]
    for value, a, b, kind in zip(node.outputs, taken, other, common, strict=False):
        _forget(value, a, b, kind)
    return common


# -- Loop


def infer_loop(node: Node) -> list[ValueType]:
    """Type rule of Loop: what is carried, then what is stacked, a row for each round."""
    body = body_of(node)
    carried = [UNKNOWN if value is None else value.type for value in node.inputs[2:]]
    known = [value.type if value.shape is not None else kind
             for value, kind in zip(body.inputs, (_STEP, _CONDITION), strict=False)]  # fmt: skip
    with Settled(node):
        state = _settle(node, body, known, carried, (), 1)
    for value, before, kind in zip(node.outputs, carried, state, strict=False):
        _forget(value, before, kind, kind)
    rows = _rounds(node, body)
    results = [_result(kind, value.type) for kind, value in zip(state, body.outputs[1:], strict=False)]
    return [*results, *(_stacked(value, rows, 0, node) for value in body.outputs[1 + len(state) :])]


def _result(carried: ValueType, returned: ValueType) -> ValueType:
    """What a loop hands out of what it carries: ONNX calls it by the body's type where the start is optional."""
    bare = isinstance(carried, OptionalType) and not isinstance(returned, OptionalType) and returned != UNKNOWN
    return returned if bare else carried


def _stacked(value: Value, rows: Dim, axis: int, node: Node) -> ValueType:
    kind = value.tensor_type
    if kind.shape is None:
        return TensorType(kind.dtype)
    place = normalise_axis(axis, len(kind.shape) + 1, node)
    return kind.with_shape((*kind.shape[:place], rows, *kind.shape[place:]))


def _rounds(node: Node, body: Graph) -> Dim:
    """The number of rounds, where only the limit decides; ``None`` where it is not known."""
    limit = integers(node.input(0))
    if not limit or not (_holds(node.input(1)) and _goes_on(body)):
        return None
    return max(limit[0], 0) if isinstance(limit[0], int) else limit[0]


def _holds(condition: Value | None) -> bool:
    if condition is None:
        return True
    return condition.is_constant and condition.data is not None and bool(condition.data.all())


def _goes_on(body: Graph) -> bool:
    """Whether a round never ends the loop: it returns the condition that it got, or a constant."""
    condition = body.outputs[0]
    while condition.producer is not None and condition.producer.op == "Identity" and not condition.producer.domain:
        condition = condition.producer.operand(0)
    return condition is body.inputs[1] or _holds(condition)


# -- Scan


def infer_scan(node: Node) -> list[ValueType]:
    """Type rule of Scan: what is carried, then what is stacked, a slice for each slice of the sequences."""
    body, count = body_of(node), attribute(node, "num_scan_inputs")
    operands = [UNKNOWN if value is None else value.type for value in node.inputs]
    first = len(operands) - count
    slices, steps = [], []
    for kind, axis in zip(operands[first:], _axes(node, "input", count), strict=True):
        rest, step = _slice_of(kind, axis, node)
        slices.append(rest)
        steps.append(step)
    with Settled(node):
        state = _settle(node, body, (), operands[:first], slices, 0)
    for value, before, kind in zip(node.outputs, operands[:first], state, strict=False):
        _forget(value, before, kind, kind)
    known = next((step for step in steps if isinstance(step, int)), next((s for s in steps if s is not None), None))
    stacked = body.outputs[first:]
    axes = _axes(node, "output", len(stacked))
    return [*state, *(_stacked(value, known, axis, node) for value, axis in zip(stacked, axes, strict=True))]


def _axes(node: Node, kind: str, count: int) -> Sequence[int]:
    return node.attributes.get(f"scan_{kind}_axes") or (0,) * count


def _slice_of(kind: ValueType, axis: int, node: Node) -> tuple[ValueType, Dim]:
    """The type of a slice of a sequence, and the number of slices."""
    if not isinstance(kind, TensorType) or kind.shape is None:
        return (TensorType(kind.dtype) if isinstance(kind, TensorType) else UNKNOWN), None
    place = normalise_axis(axis, len(kind.shape), node)
    return kind.with_shape((*kind.shape[:place], *kind.shape[place + 1 :])), kind.shape[place]


# -- SequenceMap


def infer_sequence_map(node: Node) -> list[ValueType]:
    """Type rule of SequenceMap: sequences of what the body makes of elements; tensors come as they are."""
    body = body_of(node)
    kinds = [UNKNOWN if value is None else value.type for value in node.inputs]
    with Settled(node):
        assume(body, [kind.element if isinstance(kind, SequenceType) else kind for kind in kinds], node)
        return [SequenceType(kind) for kind in infer_body(body)]


register(
    Operator("If", infer_if),
    Operator("Loop", infer_loop),
    Operator("Scan", infer_scan),
    Operator("SequenceMap", infer_sequence_map),
)

__all__ = ["Settled", "assume", "body_of", "infer_body"]
