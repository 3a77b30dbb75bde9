"""Operators that work along one axis and keep the shape: softmax, running sums and products, and the largest k."""

from __future__ import annotations

from collections.abc import Callable

import torch

from graphopt.errors import ShapeError
from graphopt.ir import DType, Node, TensorType, Value, ValueType
from graphopt.ops.infer import input_type, integers, normalise_axis, same_as, static_integers
from graphopt.ops.record import Compute, Operator, attribute, record_of, register
from graphopt.ops.relation import Relation


def softmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    """ONNX Softmax: exp(x) / sum(exp(x)) over `axis`."""
    return torch.softmax(x, axis)


def log_softmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    """ONNX LogSoftmax: the logarithm of the softmax over `axis`."""
    return torch.log_softmax(x, axis)


def hardmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    """ONNX Hardmax: 1 at the first maximum along `axis`, 0 elsewhere."""
    index = torch.argmax(x, axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, index, 1)


def _running(function: Callable[..., torch.Tensor], start: int) -> Compute:
    """A cumulative operator; an exclusive one shifts by one place and begins with `start`."""

    def compute(x: torch.Tensor, axis: torch.Tensor | int, *, exclusive: int = 0, reverse: int = 0) -> torch.Tensor:
        dim = int(axis)
        if reverse:
            x = x.flip(dim)
        result = function(x, dim, dtype=x.dtype)
        if exclusive and x.shape[dim]:
            first = torch.full_like(x.narrow(dim, 0, 1), start)
            result = torch.cat([first, result.narrow(dim, 0, x.shape[dim] - 1)], dim)
        return result.flip(dim) if reverse else result

    return compute


def top_k(
    x: torch.Tensor, k: torch.Tensor | int, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """ONNX TopK: the k largest (or smallest) elements along `axis` and their positions (int64).

    Among equal elements the lower position comes first, which torch.topk does not promise.
    """
    values, positions = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    count = int(k)
    return values.narrow(axis, 0, count), positions.narrow(axis, 0, count)


def infer_top_k(node: Node) -> list[ValueType]:
    """Type rule of TopK: values, then int64 positions. Raises ShapeError when K exceeds the extent."""
    x, known = input_type(node, 0), integers(node.input(1))
    if x.shape is None:
        return [x, TensorType(DType.INT64)]
    axis = normalise_axis(attribute(node, "axis"), len(x.shape), node)
    count, extent = known[0] if known else None, x.shape[axis]
    if isinstance(count, int) and isinstance(extent, int) and not 0 <= count <= extent:
        raise ShapeError(f"cannot take {count} of {extent} elements", where=node.describe(), hint="lower K")
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    return [x.with_shape(shape), TensorType(DType.INT64, shape)]


def _relate(node: Node, axis: int | None) -> Relation | None:
    x = node.operand(0)
    if x.shape is None or axis is None:
        return None
    axis = normalise_axis(axis, len(x.shape), node)
    relation = Relation()
    reason = f"{node.op} over this axis"
    for dim, size in enumerate(x.shape):
        label = f"d{dim}"
        if dim == axis:
            relation.frozen[label] = reason
        relation.tie(label, size, (x, dim), *((y, dim) for y in node.outputs))
    return relation


def relate_axis(node: Node) -> Relation | None:
    """All but the axis named by the attribute go through; that one must stay whole."""
    return _relate(node, attribute(node, "axis"))


def _axis(node: Node) -> tuple[int, ...]:
    x = node.operand(0)
    return () if x.shape is None else (normalise_axis(attribute(node, "axis"), len(x.shape), node),)


def relate_softmax(node: Node) -> Relation | None:
    """All go through; of scores that weights give (a router's) some may go, and the softmax normalises the rest."""
    relation = relate_axis(node)
    if relation is not None and is_scored(node.operand(0)):
        relation.frozen.clear()
    return relation


def is_scored(value: Value, depth: int = 12) -> bool:
    """True for the product of an activation and weights, whatever is done to it element by element."""
    node = value.producer
    record = None if node is None else record_of(node)
    if is_derived(value):
        return True
    if node is None or record is None or depth == 0:
        return False
    sources = [source for source in node.inputs if source is not None]
    if record.macs is not None:
        return any(is_derived(source) for source in sources[:2])
    return (record.elementwise or record.moves) and all(is_scored(source, depth - 1) for source in sources)


def is_derived(value: Value, depth: int = 4) -> bool:
    """True for a constant, and for what is computed from constants alone in a few steps."""
    node = value.producer
    if node is None or depth == 0:
        return value.is_constant
    return bool(node.inputs) and all(each is None or is_derived(each, depth - 1) for each in node.inputs)


def relate_top_k(node: Node) -> Relation | None:
    """The axis may lose indices, down to K; the choice is then made among the others."""
    x, axis = node.operand(0), _axis(node)
    if x.shape is None:
        return None
    relation = Relation()
    for dim, size in enumerate(x.shape):
        if dim not in axis:
            relation.tie(f"d{dim}", size, (x, dim), *((y, dim) for y in node.outputs))
            continue
        relation.tie("chosen", size, (x, dim))
        for index, y in enumerate(node.outputs):
            count = y.shape[dim] if y.shape is not None else None
            relation.tie(f"k{index}", count, (y, dim))
            relation.frozen[f"k{index}"] = f"{node.op} over this axis"
            if isinstance(count, int):
                relation.minimum["chosen"] = count
            else:
                relation.frozen["chosen"] = f"{node.op} over this axis"
        relation.positions[node.outputs[1]] = (x, dim)
    return relation


def relate_running(node: Node) -> Relation | None:
    """All but the axis named by input 1 go through; that one must stay whole."""
    axes = static_integers(node.input(1))
    return _relate(node, axes[0] if axes else None)


register(
    Operator("Softmax", same_as(0), softmax, relate_softmax, inline=True, normalises=_axis, reduces="alternatives"),
    Operator("LogSoftmax", same_as(0), log_softmax, relate_axis, inline=True),
    Operator("Hardmax", same_as(0), hardmax, relate_axis, inline=True),
    Operator("CumSum", same_as(0), _running(torch.cumsum, 0), relate_running),
    Operator("CumProd", same_as(0), _running(torch.cumprod, 1), relate_running),
    Operator("TopK", infer_top_k, top_k, relate_top_k, normalises=_axis, reduces="alternatives"),
)

__all__ = ["hardmax", "log_softmax", "softmax", "top_k"]
