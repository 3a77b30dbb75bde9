"""Call forms of operators that move, cut and join: sizes are Python integers, never tensors."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import fx

from graphopt.ir import DType, Node
from graphopt.ir import dims as D
from graphopt.ops import attribute
from graphopt.ops.infer import static_integers

if TYPE_CHECKING:
    from graphopt.backends.torch_emit import Emitter

# Bounds at or beyond this mean "to the end".
_FAR = 2**31 - 1


def _reshape(e: Emitter, node: Node) -> Any:
    shape = e.sizes.shape(node.output.shape)
    if shape is None:
        return None
    sizes: tuple[Any, ...] = tuple(shape) or ((),)  # without sizes it wants an empty tuple
    return e.method("reshape", e.tensor(node.operand(0)), *sizes)


def _flatten(e: Emitter, node: Node) -> Any:
    rank = node.operand(0).rank
    if attribute(node, "axis") == 1 and rank is not None and rank >= 2:
        return e.call(torch.flatten, e.tensor(node.operand(0)), 1)
    return _reshape(e, node)


def _transpose(e: Emitter, node: Node) -> Any:
    x, perm = node.operand(0), attribute(node, "perm")
    rank = x.rank
    if not perm and rank is None:
        return None
    perm = tuple(perm) or tuple(reversed(range(rank or 0)))
    moved = [i for i, p in enumerate(perm) if i != p]
    if len(moved) == 2:
        return e.method("transpose", e.tensor(x), *moved)
    return e.method("permute", e.tensor(x), *(perm or [()]))  # a scalar has no dimensions to name


def _squeeze(e: Emitter, node: Node) -> Any:
    axes = static_integers(node.input(1))
    if not axes:
        return None
    return e.method("squeeze", e.tensor(node.operand(0)), axes[0] if len(axes) == 1 else tuple(axes))


def _unsqueeze(e: Emitter, node: Node) -> Any:
    axes, rank = static_integers(node.input(1)), node.output.rank
    if not axes or (rank is None and len(axes) > 1):
        return None
    x = e.tensor(node.operand(0))
    for axis in sorted(a % rank if rank else a for a in axes):
        x = e.method("unsqueeze", x, axis)
    return x


def _expand(e: Emitter, node: Node) -> Any:
    x, shape = node.operand(0), node.output.shape
    if x.shape is None or shape is None:
        return None
    lead = len(shape) - len(x.shape)
    kept = [i >= lead and D.same(size, x.shape[i - lead]) for i, size in enumerate(shape)]
    sizes = [
        -1 if keep and not isinstance(size, int) else e.sizes.dim(size) for size, keep in zip(shape, kept, strict=True)
    ]
    if None in sizes:
        return None
    return e.method("expand", e.tensor(x), *sizes) if sizes else e.method("expand", e.tensor(x), ())


def _slice(e: Emitter, node: Node) -> Any:
    x = node.operand(0)
    starts, ends = e.sizes.contents(node.input(1)), e.sizes.contents(node.input(2))
    if x.rank is None or starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if node.input(3) is None else static_integers(node.input(3))
    steps = [1] * len(starts) if node.input(4) is None else static_integers(node.input(4))
    if axes is None or steps is None or min(steps, default=1) < 1:
        return None
    cuts: list[Any] = [slice(None)] * x.rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        begin = None if start == 0 else start
        stop = None if isinstance(end, int) and end >= _FAR else end
        cuts[axis % x.rank] = slice(begin, stop, None if step == 1 else step)
    while len(cuts) > 1 and cuts[-1] == slice(None):
        cuts.pop()
    return e.call(operator.getitem, e.tensor(x), tuple(cuts) if len(cuts) > 1 else cuts[0])


def _split(e: Emitter, node: Node) -> Any:
    axis = attribute(node, "axis")
    if any(value.shape is None for value in node.outputs):
        return None
    sizes = e.sizes.dims([(value.shape or ())[axis] for value in node.outputs])
    if sizes is None:
        return None
    whole = sizes[0] if all(isinstance(size, int) and size > 0 and size == sizes[0] for size in sizes) else sizes
    parts = e.method("split", e.tensor(node.operand(0)), whole, axis)
    return tuple(e.call(operator.getitem, parts, index) for index in range(len(sizes)))


def _concat(e: Emitter, node: Node) -> Any:
    return e.call(torch.cat, [e.tensor(value) for value in node.inputs if value is not None], attribute(node, "axis"))


def _gather(e: Emitter, node: Node) -> Any:
    x, indices = node.operand(0), node.operand(1)
    axis = attribute(node, "axis")
    if indices.rank == 0:
        known = e.sizes.contents(indices)
        return None if known is None else e.method("select", e.tensor(x), axis, known[0])
    wanted = static_integers(indices)
    if indices.rank != 1 or not wanted or min(wanted) < 0:
        return None
    if wanted == list(range(wanted[0], wanted[0] + len(wanted))):
        return e.method("narrow", e.tensor(x), axis, wanted[0], len(wanted))
    return e.method("index_select", e.tensor(x), axis, e.tensor(indices))


def _pad(e: Emitter, node: Node) -> Any:
    x, mode = node.operand(0), attribute(node, "mode")
    pads = e.sizes.contents(node.input(1))
    if x.rank is None or pads is None or mode not in ("constant", "reflect", "edge", "wrap"):
        return None
    axes = list(range(x.rank)) if node.input(3) is None else static_integers(node.input(3))
    fill = 0 if node.input(2) is None else e.number(node.input(2))
    if axes is None or fill is None or len(pads) != 2 * len(axes):
        return None
    amounts: dict[int, Sequence[Any]] = {axis % x.rank: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    first = min((axis for axis, pair in amounts.items() if any(p != 0 for p in pair)), default=x.rank)
    if first == x.rank:
        return e.tensor(x)
    flat = [p for axis in reversed(range(first, x.rank)) for p in amounts.get(axis, (0, 0))]
    if mode == "constant":
        return e.call(F.pad, e.tensor(x), flat, "constant", fill)
    if x.rank not in (3, 4, 5) or first < 2:
        return None
    flat += [0, 0] * (x.rank - 2 - len(flat) // 2)
    return e.call(F.pad, e.tensor(x), flat, {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode])


def _tile(e: Emitter, node: Node) -> Any:
    repeats = e.sizes.contents(node.input(1))
    return None if repeats is None else e.method("repeat", e.tensor(node.operand(0)), *repeats)


def _constant_of_shape(e: Emitter, node: Node) -> Any:
    shape, value = e.sizes.contents(node.input(0)), attribute(node, "value")
    if shape is None or (value is not None and not isinstance(value, torch.Tensor)):
        return None
    fill = torch.zeros(()) if value is None else value.reshape(())
    return e.call(torch.full, shape, fill.item(), dtype=fill.dtype, device=e.device())


def _range(e: Emitter, node: Node) -> Any:
    bounds = [e.sizes.contents(value) for value in node.inputs]
    if any(bound is None for bound in bounds) or node.output.dtype is not DType.INT64:
        return None
    start, limit, delta = (bound[0] for bound in bounds if bound is not None)
    if delta != 1:
        return e.call(torch.arange, start, limit, delta, device=e.device())
    return e.call(torch.arange, *([limit] if start == 0 else [start, limit]), device=e.device())


def _depth_to_space(e: Emitter, node: Node) -> Any:
    if attribute(node, "mode") != "CRD":
        return None
    return e.call(F.pixel_shuffle, e.tensor(node.operand(0)), attribute(node, "blocksize"))


def _shape(e: Emitter, node: Node) -> fx.Node | None:
    """Sizes that something reads as a tensor after all."""
    known = e.sizes.contents(node.output)
    # A list without elements does not tell its type.
    options = {} if known else {"dtype": torch.int64}
    return None if known is None else e.call(torch.tensor, known, **options, device=e.device())


SHAPES = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

__all__ = ["SHAPES"]
