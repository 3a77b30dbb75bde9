"""What operators with numpy broadcasting share: type rules and the channel relation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.errors import ShapeError
from graphopt.ir import DType, Node, TensorType, ValueType
from graphopt.ops.infer import broadcast, input_type
from graphopt.ops.relation import DimRef, Relation


def common_dtype(node: Node, indices: Sequence[int]) -> DType:
    """The element type that inputs `indices` share; UNDEFINED when none is known. Raises ShapeError on a clash."""
    found = {input_type(node, i).dtype for i in indices if node.input(i) is not None} - {DType.UNDEFINED}
    if len(found) > 1:
        raise ShapeError(
            f"inputs have element types {' and '.join(map(str, sorted(found)))}",
            where=node.describe(),
            hint="insert a Cast",
        )
    return found.pop() if found else DType.UNDEFINED


def infer_broadcast(
    dtype: DType | None = None, alike: Sequence[int] | None = None
) -> Callable[[Node], list[ValueType]]:
    """Rule: all inputs broadcast.

    Args:
        dtype: element type of the output; that of the inputs `alike` by default.
        alike: inputs whose element types must agree; all of them by default.
    """

    def infer(node: Node) -> list[ValueType]:
        shape = broadcast(node, *(v.shape for v in node.inputs if v is not None))
        kind = common_dtype(node, range(len(node.inputs)) if alike is None else alike)
        return [TensorType(kind if dtype is None else dtype, shape)]

    return infer


def relate_broadcast(node: Node) -> Relation | None:
    """Every output dimension goes with the input dimensions aligned to it; broadcast ones take no part.

    A dimension whose extent is not a number is left alone in all operands: what it broadcasts with is not known.
    """
    relation = Relation()
    operands = [v for v in (*node.inputs, *node.outputs) if v is not None]
    shapes = [v.shape for v in operands]
    if any(shape is None for shape in shapes):
        return None
    pairs = [(v, shape) for v, shape in zip(operands, shapes, strict=True) if shape is not None]
    for back in range(1, max((len(shape) for _, shape in pairs), default=0) + 1):
        refs: list[DimRef] = []
        extents = set()
        for value, shape in pairs:
            if len(shape) < back:
                continue
            dim = len(shape) - back
            if shape[dim] == 1:
                relation.axes[value, dim] = ()
            else:
                refs.append((value, dim))
                extents.add(shape[dim])
        if len(extents) == 1:
            relation.tie(f"d{back}", extents.pop(), *refs)
    return relation
