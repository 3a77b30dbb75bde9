"""Cells of recurrent networks, written out in primitives: one step of an LSTM or GRU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from graphopt.ir import Node, Value
from graphopt.ops import attribute
from graphopt.ops.builder import Builder
from graphopt.ops.infer import static_integers
from graphopt.passes.fuse.numbers import near
from graphopt.passes.simplify.conditions import same_shape
from graphopt.passes.simplify.selections import part_of
from graphopt.rewrite import Match, Pattern, Patterns, Result, Rule, Var

# ONNX's order of gates, as positions in what the rules bind: input, output, forget, cell; update, reset, hidden.
_LSTM, _GRU = "iofg", "zrn"


@dataclass
class Affine:
    """``sum(x @ w for x, w in terms) + bias``, the weights as [in, out] in float64."""

    terms: list[tuple[Value, torch.Tensor]] = field(default_factory=list)
    bias: torch.Tensor | None = None

    @classmethod
    def of(cls, value: Value) -> Affine | None:
        """What `value` is made of; ``None`` when it is nothing of the kind, or a weight is a module's parameter."""
        found = cls()
        return found if found._take(value) and found.terms else None

    def _take(self, value: Value) -> bool:
        node = value.producer
        if node is None:
            return self._shift(value)
        if node.domain or not value.dtype.is_float:
            return False
        if node.op == "Add":
            return all(each is not None and self._take(each) for each in node.inputs)
        if node.op == "MatMul":
            return self._product(node.operand(0), node.operand(1), False)
        if (
            node.op != "Gemm"
            or attribute(node, "transA")
            or attribute(node, "alpha") != 1
            or attribute(node, "beta") != 1
        ):
            return False
        bias = node.input(2)
        return (bias is None or self._shift(bias)) and self._product(
            node.operand(0), node.operand(1), bool(attribute(node, "transB"))
        )

    def _shift(self, value: Value) -> bool:
        data = _numbers(value)
        if data is None or data.dim() > 2 or (data.dim() == 2 and data.shape[0] != 1):
            return False
        vector = data.double().reshape(-1)
        self.bias = vector if self.bias is None else self.bias + vector
        return True

    def _product(self, x: Value, weight: Value, transposed: bool) -> bool:
        data = _numbers(weight)
        if data is None or data.dim() != 2 or x.rank != 2:
            return False
        matrix = data.double().t() if transposed else data.double()
        joined = x.producer
        if joined is None or joined.op != "Concat" or joined.domain or attribute(joined, "axis") not in (1, -1):
            self.terms.append((x, matrix))
            return True
        sizes = [value.shape[1] if value is not None and value.shape else None for value in joined.inputs]
        if not all(isinstance(size, int) for size in sizes):
            return False
        rows = torch.split(matrix, [size for size in sizes if isinstance(size, int)])
        self.terms += [(value, part) for value, part in zip(joined.inputs, rows, strict=True) if value is not None]
        return True

    def split(self, state: Value) -> tuple[Value, torch.Tensor, torch.Tensor] | None:
        """The input that is no state, its weight, and that of the state; ``None`` when there are more of either."""
        mine = [weight for value, weight in self.terms if value is state]
        others = [(value, weight) for value, weight in self.terms if value is not state]
        if len(mine) != 1 or len(others) != 1:
            return None
        return others[0][0], others[0][1], mine[0]


def _numbers(value: Value) -> torch.Tensor | None:
    if not value.is_constant or value.parameter is not None or value.data is None or value.data.is_meta:
        return None
    return value.data


def gates_of(parts: Sequence[Value]) -> tuple[Value, list[slice]] | None:
    """The tensor [B, gates * H] whose equal parts the values are, and which."""
    found = [part_of(part, 1) if part.rank == 2 else None for part in parts]
    first = found[0]
    if first is None or first[0].shape is None:
        return None
    extent = first[0].shape[1]
    size = len(first[1])
    places = [None if each is None or each[0] is not first[0] else each[1] for each in found]
    if extent != size * len(parts) or any(place is None or len(place) != size or place.step != 1 for place in places):
        return None
    slices = [slice(place.start, place.stop) for place in places if place is not None]
    return (first[0], slices) if sorted(s.start for s in slices) == list(range(0, extent, size)) else None


class _Cell(Rule):
    """Makes the operator with a single step; its weights are shared by all steps that have the same."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, bytes], Value] = {}

    def weight(self, op: Builder, m: Match, rows: Sequence[torch.Tensor], like: Value) -> Value:
        """The rows of all gates, one after the other, as [1, ...]; made once."""
        data = torch.cat(list(rows))[None].to(like.dtype.torch).contiguous()
        key = (int(like.dtype), data.numpy().tobytes())
        known = self._made.get(key)
        is_there = known is not None and known.graph is m.graph and known.shape == tuple(data.shape)
        if known is None or not is_there:
            known = self._made[key] = op.constant(data, dtype=like.dtype)
        return known


def as_state(op: Builder, value: Value) -> Value:
    """A state [B, H] as [1, B, H]."""
    node = value.producer
    is_squeeze = node is not None and node.op == "Squeeze" and not node.domain and node.operand(0).rank == 3
    if node is not None and is_squeeze and static_integers(node.input(1)) == [0]:
        return node.operand(0)
    return op.Unsqueeze(value, [0])


class LstmOfCell(_Cell):
    """o * tanh(f * c + i * tanh(g)), with the four out of one affine map of x and h, is an LSTM of one step.

    Contract: exact. Conditions: floats; weights and biases are constants, and no parameters of a captured module; x, h
    and c have two dimensions; f, i and o go through Sigmoid.
    """

    def pattern(self, op: Patterns, c: Var, i: Var, o: Var, f: Var, g: Var) -> Sequence[Pattern]:
        kept, new = op.Mul(op.Sigmoid(f), c), op.Mul(op.Sigmoid(i), op.Tanh(g))
        cell = op.shared(op.Add(kept, new)).named("cell")
        return [op.Mul(op.Sigmoid(o), op.Tanh(cell)).named("hidden"), cell]

    def rewrite(self, op: Builder, m: Match) -> Result:
        found = gates_of([m[name] for name in _LSTM])
        affine = None if found is None else Affine.of(found[0])
        if found is None or affine is None:
            return m.fail("the gates are no parts of one affine map of constant weights")
        places, size = found[1], places_size(found[1])
        states = [value for value, weight in affine.terms if weight.shape[0] == size and same_shape(value, m["c"])]
        # The hidden state is what goes where the last step's went; where two inputs look alike, the later one.
        split = next((each for each in map(affine.split, reversed(states)) if each is not None), None)
        if split is None or not states or not same_shape(m["c"], m.root.output):
            return m.fail("it is no map of one input and the hidden state")
        x, w, r = split
        h = next(value for value in reversed(states) if affine.split(value) is not None)
        bias = torch.zeros(4 * size, dtype=torch.float64) if affine.bias is None else affine.bias
        if bias.numel() != 4 * size:
            return m.fail("the bias is no number per gate")
        weights = [
            self.weight(op, m, [matrix.t()[place] for place in places], x) for matrix in (w, r)
        ] + [self.weight(op, m, [*(bias[place] for place in places), torch.zeros_like(bias)], x)]  # fmt: skip
        y = op.LSTM(
            op.Unsqueeze(x, [0]), *weights, None, as_state(op, h), as_state(op, m["c"]), hidden_size=size, outputs=3
        )
        return [op.Squeeze(y[1], [0]), op.Squeeze(y[2], [0])]


def places_size(places: Sequence[slice]) -> int:
    """Extent of each of several equal slices."""
    return int(places[0].stop - places[0].start)


class GruOfCell(_Cell):
    """(1 - z) * n + z * h, n = tanh(.. + r * ..), the gates out of affine maps of x and of h, is a GRU of one step.

    As torch has it, the reset gate behind the product with h. Contract: exact. Conditions: as for ``lstm-of-cell``.
    """

    def pattern(self, op: Patterns, h: Var, xz: Var, xr: Var, xn: Var, hz: Var, hr: Var, hn: Var) -> Pattern:
        z, r = op.Sigmoid(op.Add(xz, hz)), op.Sigmoid(op.Add(xr, hr))
        new = op.Tanh(op.Add(xn, op.Mul(r, hn)))
        apart = op.Add(op.Mul(op.Sub(near(op, 1), z), new), op.Mul(z, h))
        return op.any(apart, op.Add(new, op.Mul(z, op.Sub(h, new))))

    def rewrite(self, op: Builder, m: Match) -> Result:
        maps = []
        for side, state in (("x", False), ("h", True)):
            found = gates_of([m[side + gate] for gate in _GRU])
            affine = None if found is None else Affine.of(found[0])
            if found is None or affine is None or len(affine.terms) != 1 or (affine.terms[0][0] is m["h"]) is not state:
                return m.fail("the gates are no parts of one affine map each, of the input and of the state")
            maps.append((affine, found[1]))
        (into, first), (back, _) = maps
        size, x = places_size(first), into.terms[0][0]
        if back.terms[0][1].shape[0] != size or not same_shape(m["h"], m.root.output):
            return m.fail("the state has another size")
        weights = [
            self.weight(op, m, [affine.terms[0][1].t()[place] for place in places], x) for affine, places in maps
        ]
        biases = [
            (torch.zeros(3 * size, dtype=torch.float64) if affine.bias is None else affine.bias)[place]
            for affine, places in maps for place in places
        ]  # fmt: skip
        if any(bias.numel() != size for bias in biases):
            return m.fail("the bias is no number per gate")
        weights.append(self.weight(op, m, biases, x))
        y = op.GRU(
            op.Unsqueeze(x, [0]),
            *weights,
            None,
            as_state(op, m["h"]),
            hidden_size=size,
            linear_before_reset=1,
            outputs=2,
        )
        return op.Squeeze(y[1], [0])


def is_step(node: Node) -> bool:
    """True for an LSTM or GRU, in one direction, of a single step, without lengths."""
    if node.domain or node.op not in ("LSTM", "GRU") or attribute(node, "layout") or node.input(4) is not None:
        return False
    shape = node.operand(0).shape
    plain = attribute(node, "direction") == "forward" and node.input(7) is None
    return plain and node.input(5) is not None and shape is not None and shape[0] == 1


RULES = (LstmOfCell, GruOfCell)
