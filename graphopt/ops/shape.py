"""Shape arithmetic: Shape, Size, Range.

Pruning keeps the values of shape tensors: a Shape whose input loses channels goes on giving the sizes that it gave
before. Whoever takes a shape tensor as a size is told the new one by its own record (`graphopt.ops.vectors.rewrite`),
and arithmetic over sizes (``1 / sqrt(head_dim)`` in exported attention) computes what it computed before.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from graphopt.ir import Dim, DType, Node, TensorType, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import MAX_KNOWN, contents, input_type, integers, object_array, static_integers
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.refinement import freeze_all, tie
from graphopt.ops.relation import Relation, Shrinkage
from graphopt.ops.vectors import maximum, scalar

# -- Shape and Size


def shape(x: torch.Tensor, *, start: int = 0, end: int | None = None) -> torch.Tensor:
    """ONNX Shape: dimensions `start` up to `end`, as int64."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64)


def size(x: torch.Tensor) -> torch.Tensor:
    """ONNX Size: the number of elements, as int64."""
    return torch.tensor(math.prod(x.shape), dtype=torch.int64)


def _span(node: Node, rank: int) -> range:
    return range(*slice(attribute(node, "start"), attribute(node, "end")).indices(rank))


def infer_shape(node: Node) -> list[ValueType]:
    dims = input_type(node, 0).shape
    return [TensorType(DType.INT64, (None if dims is None else len(_span(node, len(dims))),))]


def evaluate_shape(node: Node) -> list[np.ndarray | None]:
    dims = input_type(node, 0).shape
    return [None if dims is None else object_array([dims[i] for i in _span(node, len(dims))])]


def relate_shape(node: Node) -> Relation:
    """The input's dimensions are free: see the module's docstring."""
    relation, x = Relation(), node.operand(0)
    for dim in range(x.rank or 0):
        tie(relation, f"d{dim}", (x, dim))
    freeze_all(relation, "it is the list of dimensions", node.output)
    return relation


def shrink_shape(node: Node, edit: Shrinkage) -> None:
    """Adds what is missing back to the sizes that have shrunk, where somebody reads them."""
    x, y, graph = node.operand(0), node.output, node.graph
    span = _span(node, x.rank or 0)
    delta = [_lost(edit, node, dim) for dim in span]
    changed = {position for position, lost in enumerate(delta) if lost}
    if graph is None or not any(_reads(use.user, use.index, changed, len(span)) for use in y.uses):
        return
    add = Node("Add", [y, graph.add_constant(torch.tensor(delta, dtype=torch.int64))], origin=node.origin)
    # Readers may rewrite what they know of the sizes, before or after this.
    add.output.type, add.output.known = y.type, contents(y)
    graph.insert_after(node, add)
    y.replace_uses(add.output, lambda use: use.user is not add)


def _lost(edit: Shrinkage, node: Node, dim: int) -> int:
    before, after = edit.old_size(node.operand(0), dim), edit.size(node.operand(0), dim)
    return before - after if isinstance(before, int) and isinstance(after, int) else 0


def _reads(user: object, index: int, positions: set[int], length: int) -> bool:
    """False when `user` certainly reads none of these elements of a vector."""
    if not positions:
        return False
    if not isinstance(user, Node) or user.op != "Gather" or user.domain or index != 0:
        return True
    wanted = static_integers(user.input(1))
    return wanted is None or any(i % length in positions for i in wanted)


def infer_size(node: Node) -> list[ValueType]:
    return [TensorType(DType.INT64, ())]


def evaluate_size(node: Node) -> list[np.ndarray | None]:
    known = np.empty((), dtype=object)
    known[()] = input_type(node, 0).numel
    return [known]


def relate_size(node: Node) -> Relation:
    relation = Relation()
    freeze_all(relation, "its size is read", node.operand(0))
    return relation


# -- Range


def range_(start: torch.Tensor | float, limit: torch.Tensor | float, delta: torch.Tensor | float) -> torch.Tensor:
    """ONNX Range: ``start + i * delta`` below `limit`; the dtype is that of the inputs."""
    dtype = start.dtype if isinstance(start, torch.Tensor) else torch.int64
    first, last, step = scalar(start), scalar(limit), scalar(delta)
    exact = all(isinstance(bound, int) for bound in (first, last, step))
    count = max(-((first - last) // step) if exact else math.ceil((last - first) / step), 0)
    device = start.device if isinstance(start, torch.Tensor) else None
    result: torch.Tensor = torch.arange(count, device=device) * step + first
    return result.to(dtype)


def _range_count(node: Node) -> Dim:
    start, limit, delta = (_number(node, i) for i in range(3))
    if not isinstance(delta, int) or delta == 0 or start is None or limit is None:
        data = [None if v is None else v.data for v in node.inputs]
        known = [d for d in data if d is not None]
        return len(range_(*known)) if len(known) == 3 else None
    reach = D.add(limit, D.mul(start, -1)) if delta > 0 else D.add(start, D.mul(limit, -1))
    return maximum(0, D.ceil_div(reach, abs(delta)))


def _number(node: Node, index: int) -> Dim:
    known = integers(node.input(index))
    return known[0] if known else None


def infer_range(node: Node) -> list[ValueType]:
    return [TensorType(input_type(node, 0).dtype, (_range_count(node),))]


def evaluate_range(node: Node) -> list[np.ndarray | None]:
    start, limit, delta = (_number(node, i) for i in range(3))
    if not (isinstance(start, int) and isinstance(limit, int) and isinstance(delta, int)) or delta == 0:
        return [None]
    numbers = range(start, limit, delta)
    return [object_array(list(numbers)) if len(numbers) <= MAX_KNOWN else None]


def _bounds(node: Node) -> list[torch.Tensor | float] | None:
    """Start, limit and step, where all three are known."""
    found: list[torch.Tensor | float] = []
    for index, value in enumerate(node.inputs):
        number = _number(node, index)
        if value is not None and value.is_constant and value.data is not None:
            found.append(value.data)
        elif isinstance(number, int):
            found.append(number)
    return found if len(found) == 3 else None


def relate_range(node: Node) -> Relation | None:
    """Numbers between constant bounds are a constant that has not been folded: each goes with what it is used for."""
    size = node.output.shape[0] if node.output.shape else None
    if not isinstance(size, int) or _bounds(node) is None:
        return None
    relation = Relation()
    relation.tie("n", size, (node.output, 0))
    return relation


def shrink_range(node: Node, edit: Shrinkage) -> None:
    """Becomes the constant that is left."""
    kept, bounds = edit.kept(node.output, 0), _bounds(node)
    if kept is None or bounds is None:
        return
    numbers = range_(*bounds)[kept].to(node.output.dtype.torch)
    node.op = "Identity"
    node.set_inputs([node.operand(0)])
    edit.set_constant(node, 0, numbers)


register(
    Operator("Shape", infer_shape, shape, relate_shape, evaluate=evaluate_shape, shrink=shrink_shape, shape_only=True),
    Operator("Size", infer_size, size, relate_size, evaluate=evaluate_size, shape_only=True),
    Operator("Range", infer_range, range_, relate_range, evaluate=evaluate_range, shrink=shrink_range),
)

__all__ = ["range_", "shape", "size"]
