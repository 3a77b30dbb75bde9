"""Rotary position embedding (https://arxiv.org/abs/2104.09864), written out in primitives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphopt.ir import Dim, Node, Value
from graphopt.ir import dims as D
from graphopt.ops import attribute, record_of
from graphopt.ops.builder import Builder
from graphopt.ops.infer import static_integers
from graphopt.passes.fuse.recognition import OpsetLimit, Recognition
from graphopt.passes.simplify.selections import part_of
from graphopt.rewrite import Match, Pattern, Patterns, Result, Var

_MAX_DEPTH = 16


@dataclass(frozen=True)
class _Layout:
    """Where the dimensions of what is rotated are.

    Attributes:
        heads: position of the heads in [B, heads, S, R] or [B, S, heads, R].
        interleaved: pairs are neighbours rather than halves apart.
    """

    heads: int
    interleaved: bool

    @property
    def sequence(self) -> int:
        return 3 - self.heads


class _Rotary(Recognition):
    """Makes the operator, and the caches that it reads: one column for each pair."""

    def __init__(self, limit: OpsetLimit | None = None) -> None:
        super().__init__(limit)
        self._halves: dict[tuple[Value, bool], Value] = {}

    def make(self, op: Builder, m: Match, x: Value, cos: Value, sin: Value, interleaved: bool, whole: bool) -> Result:
        """RotaryEmbedding(x); `whole` angles have a column for each element and not for each pair."""
        if x.shape is None or len(x.shape) != 4 or not isinstance(x.shape[3], int) or not x.dtype.is_float:
            return m.fail("it does not have four dimensions of floats, the last one of a known extent")
        heads = next((place for place in (1, 2) if _spans(cos, x, place) and _spans(sin, x, place)), 0)
        if not heads:
            return m.fail("the angles do not go with the positions")
        layout, caches = _Layout(heads, interleaved), []
        for angles in (cos, sin):
            half = self._half(op, m, angles, interleaved) if whole else angles
            if half is None or half.shape is None:
                return m.fail("the angles of a pair are not the same")
            caches.append(_as_cache(op, half, layout))
        return _rotate(op, m, x, caches[0], caches[1], layout)

    def _half(self, op: Builder, m: Match, angles: Value, interleaved: bool) -> Value | None:
        """What `angles` is with every column once; made once for all that read it."""
        known = self._halves.get((angles, interleaved))
        is_there = known is not None and known.graph is m.graph
        if known is not None and is_there and (known.producer is None or known.producer.is_before(m.root)):
            return known
        made = _halved(op, angles, interleaved, 0)
        if made is not None:
            self._halves[angles, interleaved] = made
        return made


def _spans(angles: Value, x: Value, heads: int) -> bool:
    """Whether the angles have the positions of `x`, and one of everything else but, perhaps, samples."""
    a, b = angles.shape, x.shape
    if a is None or b is None or not 2 <= len(a) <= 4:
        return False
    aligned: list[Dim] = [*[1] * (4 - len(a)), *a]
    return aligned[heads] == 1 and D.same(aligned[3 - heads], b[3 - heads]) and (
        aligned[0] == 1 or D.same(aligned[0], b[0])
    )  # fmt: skip


def _as_cache(op: Builder, half: Value, layout: _Layout) -> Value:
    """Angles as [samples or 1, positions, pairs]."""
    rank, node = half.rank or 0, half.producer
    if rank == 4:
        if node is not None and node.op == "Unsqueeze" and static_integers(node.input(1)) == [layout.heads]:
            return node.operand(0)
        return op.Squeeze(half, [layout.heads])
    if layout.heads == 1:
        return half if rank == 3 else op.Unsqueeze(half, [0])
    return op.Unsqueeze(op.Squeeze(half, [1]), [0])


def _rotate(op: Builder, m: Match, x: Value, cos: Value, sin: Value, layout: _Layout) -> Result:
    assert x.shape is not None and cos.shape is not None, "asked for before"
    batch, heads, flag = x.shape[0], x.shape[layout.heads], int(layout.interleaved) or None
    if isinstance(batch, int):  # the operator has no broadcasting
        cos, sin = (c if D.same(c.shape[0], batch) else op.Expand(c, [batch, 1, 1]) for c in (cos, sin) if c.shape)
    matches = all(D.same(cache.shape[0], batch) for cache in (cos, sin) if cache.shape is not None)
    if layout.heads == 1:
        if matches:
            return op.RotaryEmbedding(x, cos, sin, interleaved=flag)
        # With one sample of angles, all heads of all samples are heads of one sample.
        if any(c.shape is None or c.shape[0] != 1 for c in (cos, sin)) or not isinstance(heads, int):
            return m.fail("the samples of the angles are not those of the input")
        y = op.RotaryEmbedding(op.Reshape(x, [1, -1, 0, 0]), cos, sin, interleaved=flag)
        return op.Reshape(y, [-1, heads, 0, 0])
    if not matches or not isinstance(heads, int):
        return m.fail("the samples of the angles are not those of the input")
    y = op.RotaryEmbedding(op.Reshape(x, [0, 0, -1]), cos, sin, interleaved=flag, num_heads=heads)
    return op.Reshape(y, [0, 0, heads, -1])


# -- angles


def _halved(op: Builder, value: Value, interleaved: bool, depth: int) -> Value | None:
    """The value of which `value` has every column twice; ``None`` when that is not certain."""
    if value.is_constant:
        return _halved_constant(op, value, interleaved)
    node = value.producer
    if node is None or node.domain or depth > _MAX_DEPTH or value.rank is None:
        return None
    doubled = _doubled(node, interleaved)
    if doubled is not None:
        return doubled
    if not _keeps_columns(node):
        return None
    inner = _halved(op, node.operand(0), interleaved, depth + 1)
    return None if inner is None else op.like(node, inner, *node.inputs[1:])


def _halved_constant(op: Builder, value: Value, interleaved: bool) -> Value | None:
    data = value.data
    if data is None or value.parameter is not None or data.dim() == 0 or data.shape[-1] % 2:
        return None
    first, second = (data[..., 0::2], data[..., 1::2]) if interleaved else data.chunk(2, -1)
    return op.constant(first.contiguous(), dtype=value.dtype) if bool((first == second).all()) else None


def _doubled(node: Node, interleaved: bool) -> Value | None:
    """What a node gives twice: next to one another, column by column, or one after the other."""
    if not interleaved:
        is_pair = node.op == "Concat" and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
        return node.operand(0) if is_pair and attribute(node, "axis") in (-1, (node.output.rank or 0) - 1) else None
    source = node.operand(0).producer if node.op == "Reshape" else None
    if source is None or source.domain:
        return None
    twice = source.op == "Concat" and len(source.inputs) == 2 and source.inputs[0] is source.inputs[1]
    if not (twice and attribute(source, "axis") in (-1, (source.output.rank or 0) - 1)) and source.op != "Expand":
        return None
    single = source.operand(0)
    unsqueeze = single.producer
    if unsqueeze is None or unsqueeze.op != "Unsqueeze" or not single.shape or single.shape[-1] != 1:
        return None
    x, wide, merged = unsqueeze.operand(0), source.output.shape, node.output.shape
    if x.shape is None or wide is None or merged is None or not _are_same((*x.shape, 1), single.shape):
        return None
    is_double = _are_same((*x.shape, 2), wide) and _are_same((*x.shape[:-1], D.mul(x.shape[-1], 2)), merged)
    return x if is_double else None


def _are_same(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> bool:
    return len(a) == len(b) and all(map(D.same, a, b))


def _keeps_columns(node: Node) -> bool:
    """Whether column i of the output comes from column i of the first input, for every i in the same way."""
    rank, record = node.output.rank or 0, record_of(node)
    if node.op in ("Unsqueeze", "Squeeze", "Slice"):
        place = 1 if node.op != "Slice" else 3
        axes = static_integers(node.input(place))
        counted = rank if node.op == "Unsqueeze" else node.operand(0).rank or 0
        return axes is not None and all(axis % counted != counted - 1 for axis in axes)
    if node.op == "Gather":
        return attribute(node, "axis") == 0 and (node.operand(0).rank or 0) > 1
    if record is None or not record.elementwise or len(node.outputs) != 1 or node.operand(0).shape is None:
        return False
    return all(v is None or (v.is_constant and v.data is not None and v.data.numel() == 1) for v in node.inputs[1:])


# -- what is rotated


def _columns(value: Value) -> tuple[Value, range] | None:
    """The tensor that a value has columns of, and which: itself, if need be; ``None`` while its extent is not known."""
    extent = value.shape[-1] if value.shape else None
    if not isinstance(extent, int):
        return None
    found = part_of(value, len(value.shape or ()) - 1) or _picked(value)
    if found is None:
        return value, range(extent)
    source, own = found
    outer = _columns(source)
    # Backwards, a slice ends before its first element in a way of its own.
    return found if outer is None or own.step < 0 else (outer[0], outer[1][own.start : own.stop : own.step])


def _picked(value: Value) -> tuple[Value, range] | None:
    """As above, for a Gather of the even or odd columns out of a view as pairs."""
    node = value.producer
    if node is None or node.domain or node.op != "Gather":
        return None
    pairs, index = node.operand(0), static_integers(node.input(1))
    view = pairs.producer
    if index is None or node.operand(1).rank != 0 or not pairs.shape or pairs.shape[-1] != 2:
        return None
    if attribute(node, "axis") not in (-1, len(pairs.shape) - 1) or view is None or view.op != "Reshape":
        return None
    x = view.operand(0)
    if (
        not x.shape
        or not isinstance(x.shape[-1], int)
        or not _are_same((*x.shape[:-1], x.shape[-1] // 2, 2), pairs.shape)
    ):
        return None
    return x, range(index[0] % 2, x.shape[-1], 2)


@dataclass(frozen=True)
class _Pairs:
    """The columns of a tensor that are rotated, in halves or in neighbouring pairs."""

    source: Value
    columns: range
    interleaved: bool

    @classmethod
    def of(cls, first: Value, second: Value) -> _Pairs | None:
        """What has `first` and `second` as its halves, or as its even and odd columns."""
        a, b = _columns(first), _columns(second)
        if a is None or b is None or a[0] is not b[0] or len(a[1]) != len(b[1]) or not a[1]:
            return None
        start, count = a[1].start, 2 * len(a[1])
        whole = range(start, start + count)
        if (a[1], b[1]) == (whole[: count // 2], whole[count // 2 :]):
            return cls(a[0], whole, False)
        return cls(a[0], whole, True) if (a[1], b[1]) == (whole[0::2], whole[1::2]) else None

    def value(self, op: Builder) -> Value:
        """The columns as a tensor."""
        extent = self.source.shape[-1] if self.source.shape else None
        if self.columns == range(extent if isinstance(extent, int) else 0):
            return self.source
        return op.Slice(self.source, [self.columns.start], [self.columns.stop], [-1])


def _joined(op: Patterns, a: Pattern, b: Pattern, shape: Any) -> Pattern:
    """A and b after one another along the last dimension, or column by column."""
    after = op.Concat(a, b).when(_along_last).named("halves")
    columns = [op.Unsqueeze(each, op.any(op.const(-1), op.const(4))) for each in (a, b)]
    return op.any(after, op.Reshape(op.Concat(*columns).when(_along_last), shape).named("pairs"))


def _along_last(node: Node) -> bool:
    return bool(attribute(node, "axis") in (-1, (node.output.rank or 0) - 1))


class RotaryOfWhole(_Rotary):
    """x * cos + rotate(x) * sin is RotaryEmbedding(x); rotate(x) is (-x2, x1), of halves or of neighbouring pairs.

    As in LLaMA and GPT-NeoX (halves) or GPT-J and RoFormer (pairs). Contract: exact. Conditions: four dimensions, the
    last of a known, even extent; both columns of a pair have the same angle, which goes with positions and, maybe,
    samples.
    """

    def pattern(self, op: Patterns, x: Var, cos: Var, sin: Var, a: Var, b: Var, shape: Any) -> Pattern:
        return op.Add(op.Mul(x, cos), op.Mul(_joined(op, op.Neg(b), a, shape), sin))

    def recognise(self, op: Builder, m: Match) -> Result:
        pairs = _Pairs.of(m["a"], m["b"])
        if (
            pairs is None
            or _columns(m["x"]) != (pairs.source, pairs.columns)
            or pairs.interleaved is not m.has("pairs")
        ):
            return m.fail("it does not rotate pairs of the same tensor")
        if m.root.output.shape is None or not _are_same(m.root.output.shape, m["x"].shape or ()):
            return m.fail("broadcasting changes the shape")
        return self.make(op, m, m["x"], m["cos"], m["sin"], pairs.interleaved, whole=True)


class RotaryOfHalves(_Rotary):
    """(x1 * cos - x2 * sin, x2 * cos + x1 * sin), put together again, is RotaryEmbedding(x).

    Contract: exact. Conditions: as for ``rotary-of-whole``; x1 and x2 are the halves of x and are joined as such, or
    its even and odd columns and interleaved.
    """

    def pattern(self, op: Patterns, a: Var, b: Var, cos: Var, sin: Var, shape: Any) -> Pattern:
        real = op.Sub(op.Mul(a, cos), op.Mul(b, sin))
        imaginary = op.Add(op.Mul(b, cos), op.Mul(a, sin))
        return _joined(op, real, imaginary, shape)

    def recognise(self, op: Builder, m: Match) -> Result:
        pairs = _Pairs.of(m["a"], m["b"])
        if pairs is None or pairs.interleaved is not m.has("pairs"):
            return m.fail("it does not rotate pairs of one tensor")
        x = pairs.value(op)
        if m.root.output.shape is None or not _are_same(m.root.output.shape, x.shape or ()):
            return m.fail("broadcasting changes the shape")
        return self.make(op, m, x, m["cos"], m["sin"], pairs.interleaved, whole=False)


class RotaryByPositions(Recognition):
    """RotaryEmbedding with rows that are looked up in tables is one that looks them up itself.

    Contract: exact. Conditions: both are looked up at the same positions, one for each sample and element.
    """

    def pattern(self, op: Patterns, x: Var, cos: Var, sin: Var, ids: Var) -> Pattern:
        rows = [op.shared(op.Gather(table, ids, axis=0)) for table in (cos, sin)]
        return op.RotaryEmbedding(x, *rows)

    def recognise(self, op: Builder, m: Match) -> Result:
        ids, x = m["ids"], m["x"]
        if m["cos"].rank != 2 or m["sin"].rank != 2 or ids.rank != 2 or ids.dtype.name != "INT64":
            return m.fail("it is no table, or the positions are no matrix of int64")
        if x.shape is None or ids.shape is None or not D.same(ids.shape[0], x.shape[0]):
            return m.fail("the positions are not those of every sample")
        if any(data is not None and bool((data < 0).any()) for data in (ids.data,)):
            return m.fail("positions are counted from the end")
        return op.like(m.root, x, m["cos"], m["sin"], ids)


class RotaryOfPart(Recognition):
    """RotaryEmbedding of the leading columns, beside the others as they are, is one that rotates only these.

    Contract: exact. Condition: the parts are the whole of one tensor.
    """

    def pattern(self, op: Patterns, part: Var, rest: Var, s: Var, t: Var, *caches: Any) -> Pattern:
        plain = op.RotaryEmbedding(part, *caches).named("rotary")
        inside = op.RotaryEmbedding(op.Reshape(part, s).named("merge"), *caches).named("rotary")
        return op.Concat(op.any(op.Reshape(inside, t).named("split"), plain), rest).when(_along_last)

    def recognise(self, op: Builder, m: Match) -> Result:
        rotary = m.node("rotary")
        a, b = _columns(m["part"]), _columns(m["rest"])
        if a is None or b is None or a[0] is not b[0] or rotary.attributes.get("rotary_embedding_dim"):
            return m.fail("the parts are not those of one tensor")
        x, size = a[0], len(a[1])
        start, stop = a[1].start, b[1].stop
        if (a[1], b[1]) != (range(start, start + size), range(start + size, stop)):
            return m.fail("the parts are not in order")
        x = _Pairs(x, range(start, stop), False).value(op)
        caches = list(rotary.inputs[1:])
        if not m.has("merge"):
            return op.like(rotary, x, *caches, rotary_embedding_dim=size)
        merge, split = static_integers(m["s"]), static_integers(m["t"])
        if merge != [1, -1, 0, 0] or split is None or split[2:] != [0, 0]:
            return m.fail("the heads are merged")
        y = op.like(rotary, op.Reshape(x, merge), *caches, rotary_embedding_dim=size)
        return op.Reshape(y, split)


RULES = (RotaryOfWhole, RotaryOfHalves, RotaryByPositions, RotaryOfPart)
