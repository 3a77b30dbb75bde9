"""If, Loop and Scan with random bodies that read values around them; sequences, optionals and strings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from graphopt.ir import DType, Graph, TensorType, Value
from tests.random_onnx import elementwise, layers, shapes
from tests.random_onnx.elementwise import broadcast
from tests.random_onnx.grower import Grower, Item, Made, Maker, Rejected, maker

#: Makers whose results are valid whatever the contents of their inputs.
_CALM: Sequence[Maker] = (
    elementwise.unary, elementwise.unary, elementwise.binary, elementwise.reduce, elementwise.along, elementwise.clip,
    shapes.transpose, shapes.concat, shapes.squeeze, shapes.slice_, layers.matmul, layers.gemm, shapes.reshape_computed,
)  # fmt: skip


def _scalar_condition(g: Grower) -> Value:
    """A boolean without dimensions."""
    x = g.pick(lambda item: item.exact and (item.is_float or item.is_integer))
    total = g.b.ReduceMax(g.b.Cast(x.value, to=1), keepdims=0)
    return g.b.Greater(total, g.b.constant(torch.tensor(g.rng.choice([-9.0, 1.0, 9.0]))))


def _body(g: Grower, steps: int) -> Grower:
    if g.depth >= 2:
        raise Rejected
    return Grower(g.rng, g.opset, g)


def _same_shape(x: Item, y: Item) -> bool:
    return x.dtype is y.dtype and x.sizes == y.sizes


def _as(g: Grower, x: Item) -> Value:
    """A value of the shape and type of `x`, made of what has been made last: nodes of the body."""
    fits = [item for item in g.pool if item.dtype is x.dtype and broadcast(item, x) and
            all(torch.broadcast_shapes(a, b) == b for a, b in zip(item.sizes, x.sizes, strict=True))]  # fmt: skip
    own = [item for item in fits if item.value.producer is not None and item.value.graph is g.graph]
    chosen = g.rng.choice(own or fits)
    if chosen.sizes != x.sizes:
        return g.b.Add(chosen.value, g.b.Mul(x.value, g.full(0.3, like=x)))
    return g.b.Mul(chosen.value, g.full(0.5, like=x)) if x.is_float else g.b.Identity(chosen.value)


@maker(3)
def if_(g: Grower) -> Made:
    """Two branches that compute the same type; one may just pass on what is outside."""
    condition = _scalar_condition(g)
    like = g.float(lambda item: item.dtype is DType.FLOAT32)
    bodies = {}
    for name in ("then_branch", "else_branch"):
        inner = _body(g, 2)
        inner.grow(g.rng.randint(0, 3))
        inner.b = type(inner.b)(inner.graph)
        inner.graph.add_output(_as(inner, like), name)
        bodies[name] = inner.graph
    return g.b.If(condition, **bodies)


@maker(2)
def loop(g: Grower) -> Made:
    """A counted loop, with a condition or none: one carried value, and one that is stacked."""
    state = g.float(lambda item: item.dtype is DType.FLOAT32)
    inner = _body(g, 2)
    body = inner.graph
    count = body.add_input(f"i{g.depth}", TensorType.make(DType.INT64, ()))
    going = body.add_input(f"c{g.depth}", TensorType.make(DType.BOOL, ()))
    inner.add_item(count, tuple(torch.tensor(0) for _ in state.data))
    carried = body.add_input(f"h{g.depth}", state.value.type)
    held = inner.add_item(carried, state.data, exact=False)
    inner.grow(g.rng.randint(1, 3), _CALM)
    inner.b = type(inner.b)(body)
    turn = inner.b.Cast(count, to=1)
    new = inner.b.Add(_as(inner, held), inner.b.Mul(turn, inner.full(0.1, like=held)))
    on = inner.b.Less(turn, inner.b.constant(torch.tensor(1.0))) if g.chance(0.3) else inner.b.Identity(going)
    body.add_output(on, "on")
    body.add_output(new, "new")
    body.add_output(inner.b.Tanh(new), "seen")
    if g.chance(0.3):
        item = g.pick(lambda each: each.rank >= 1 and max(size[0] for size in each.sizes) <= 4)
        limit = g.b.Squeeze(g.b.Gather(g.b.Shape(item.value), g.ints([0]), axis=0), g.ints([0]))
    else:
        limit = g.ints(g.rng.choice([1, 2, 3]))
    start = g.rng.choice([None, g.b.constant(torch.tensor(True))])
    return g.b.Loop(limit, start, state.value, body=body, outputs=2)


@maker(2)
def scan(g: Grower) -> Made:
    """Along some axis, in some direction: a running value and one per slice."""
    x = g.float(lambda item: item.dtype is DType.FLOAT32 and item.rank >= 2)
    axis = g.rng.randrange(x.rank)
    inner = _body(g, 2)
    body = inner.graph
    kind = x.value.tensor_type
    rest = [d for a, d in enumerate(kind.shape or ()) if a != axis]
    slices = tuple(each.select(axis, 0) for each in x.data)
    state = g.b.Squeeze(g.b.Slice(x.value, g.ints([0]), g.ints([1]), g.ints([axis])), g.ints([axis]))
    held = inner.add_item(body.add_input(f"s{g.depth}", kind.with_shape(rest)), slices, exact=False)
    part = inner.add_item(body.add_input(f"p{g.depth}", kind.with_shape(rest)), slices, exact=False)
    inner.grow(g.rng.randint(0, 3), _CALM)
    inner.b = type(inner.b)(body)
    mixed = inner.b.Add(_as(inner, held), inner.b.Mul(part.value, inner.full(0.5, like=part)))
    body.add_output(mixed, "state")
    body.add_output(inner.b.Sin(mixed), "each")
    backward = g.rng.choice([None, [1]])
    out_axis = g.rng.choice([None, [g.rng.randrange(x.rank)]])
    in_axis = g.rng.choice([[axis], [axis - x.rank]])
    return g.b.Scan(state, x.value, body=body, num_scan_inputs=1, scan_input_axes=in_axis,
                    scan_input_directions=backward, scan_output_axes=out_axis,
                    scan_output_directions=g.rng.choice([None, [1]]), outputs=2)  # fmt: skip


# -- sequences, optionals, strings


@maker()
def sequence(g: Grower) -> Made:
    x = g.float(lambda item: item.dtype is DType.FLOAT32, rank=1)
    kind = g.rng.choice(["split", "construct", "insert", "stack", "length", "optional"])
    if kind == "split":
        axis = g.axis(x)
        parts = g.b.SplitToSequence(x.value, g.rng.choice([None, g.ints(1)]), axis=axis)
        if g.chance(0.5):
            return g.b.SequenceAt(parts, g.ints(g.rng.choice([0, -1])))
        return g.b.ConcatFromSequence(parts, axis=axis)
    both = g.b.SequenceConstruct(x.value, g.b.Relu(x.value))
    if kind == "construct":
        return g.b.ConcatFromSequence(both, axis=g.axis(x))
    if kind == "stack":
        return g.b.ConcatFromSequence(both, axis=0, new_axis=1)
    if kind == "length":
        return g.b.SequenceLength(both)
    if kind == "optional":
        if g.opset < 18:
            raise Rejected
        return g.b.OptionalGetElement(g.b.Optional(x.value))
    more = g.b.SequenceInsert(both, g.b.Neg(x.value), g.rng.choice([None, g.ints(0)]))
    return g.b.SequenceAt(g.b.SequenceErase(more, g.ints(1)), g.ints(1))


@maker()
def text(g: Grower) -> Made:
    """Through strings and back."""
    x = g.pick(lambda item: item.exact and item.dtype in (DType.INT64, DType.INT32))
    words = g.b.Cast(x.value, to=int(DType.STRING))
    if g.opset >= 20 and g.chance(0.5):
        zero = g.graph.add_constant(np.array("0", dtype=object))
        words = g.b.StringConcat(words, zero)
    return g.b.Cast(words, to=1)


__all__ = ["Graph", "if_", "loop", "scan", "sequence", "text"]
