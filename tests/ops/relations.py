"""Checks of relations and shrink rules by running the operator: on tensors of indices, and on pruned tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from graphopt.ir import Graph, Node, TensorType, Value
from graphopt.ops import Relation, execute, record_of
from graphopt.ops.relation import Axis, DimRef
from graphopt.ops.update import infer_node

Kept = dict[DimRef, torch.Tensor]


class Case:
    """One node over input arrays; inputs named in `steering` are constants that keep their contents.

    Args:
        shapes: with named dimensions, what the type rule sees instead of the arrays' shapes.
        known: whether steering inputs are constants, rather than given when the graph runs.
    """

    def __init__(self, op, arrays, steering=(), outputs=1, shapes=None, known=True, **attributes) -> None:
        self.graph = Graph()
        self.env: dict[Value, torch.Tensor] = {}
        values: list[Value | None] = []
        for index, array in enumerate(arrays):
            if array is None:
                values.append(None)
                continue
            tensor = torch.as_tensor(array)
            if index in steering and known:
                value = self.graph.add_constant(tensor)
            else:
                kind = TensorType.of(tensor)
                value = self.graph.add_input(
                    f"x{index}", TensorType.make(kind.dtype, (shapes or {}).get(index, kind.shape))
                )
            self.env[value] = tensor
            values.append(value)
        self.node = self.graph.append(Node(op, values, attributes, outputs))
        infer_node(self.node)
        for value in self.node.outputs:
            self.graph.add_output(value)
        if not known:
            for value, tensor in self.run().items():
                value.type = TensorType.of(tensor)

    @property
    def relation(self) -> Relation:
        return record_of(self.node).relate(self.node)

    def run(self, env=None) -> dict[Value, torch.Tensor]:
        """Runs the graph (which a shrink rule may have added to)."""
        env = {**self.env, **(env or {})}
        env.update({v: v.data for v in self.graph.constants if v not in env})
        for node in self.graph.nodes:
            results = execute(node, [None if v is None else env[v] for v in node.inputs])
            env.update(zip(node.outputs, results, strict=False))
        return {value: env[value] for value in self.graph.outputs}


def spread(line: np.ndarray, dim: int, shape: Sequence[int]) -> np.ndarray:
    """A row of numbers laid along one dimension of a shape."""
    return np.broadcast_to(line.reshape([-1 if d == dim else 1 for d in range(len(shape))]), shape)


def along(axes: Sequence[Axis], which: int) -> np.ndarray:
    """For each index of a dimension its index in factor number `which`."""
    sizes = [axis.size for axis in axes]
    inner = int(np.prod(sizes[which + 1 :], dtype=int))
    return np.arange(int(np.prod(sizes, dtype=int))) // inner % sizes[which]


def check_origins(op, arrays, steering=(), outputs=1, shapes=None, source=0, **attributes) -> Relation:
    """Runs the operator on a tensor that numbers its elements and compares every relation with where they ended up.

    Taking index i of an axis away from input `source` must take from the outputs exactly the elements under i of the
    same axis, and exactly the selected ones of a selection. Other data inputs are zero: "comes from elsewhere".
    """
    arrays = [a if i in steering or a is None or a.dtype == np.int64 else np.zeros(a.shape, np.int64)
              for i, a in enumerate(arrays)]  # fmt: skip
    shape = arrays[source].shape
    numbers = np.arange(1, 1 + int(np.prod(shape, dtype=int))).reshape(shape)
    arrays[source] = numbers
    case = Case(op, arrays, steering, outputs, shapes, **attributes)
    relation, x = case.relation, case.node.inputs[source]
    results = {value: out.numpy() for value, out in case.run().items()}

    def origin(out: np.ndarray, line: np.ndarray, dim: int) -> np.ndarray:
        """Where in dimension `dim` of the source, seen through `line`, each element of a result comes from."""
        return np.concatenate([[-1], spread(line, dim, shape).reshape(-1)])[out]

    for dim in range(len(shape)):
        mine = relation.axes.get((x, dim), ())
        for which, axis in enumerate(mine):
            for (value, place), theirs in relation.axes.items():
                for k, other in enumerate(theirs):
                    if value in results and other.label == axis.label:
                        out = results[value]
                        there = spread(along(theirs, k), place, out.shape)
                        found = origin(out, along(mine, which), dim)
                        np.testing.assert_array_equal(found[out > 0], there[out > 0], err_msg=f"{axis} {value}.{place}")
    for selection in relation.selections:
        (part, p), (whole, w), index = selection.part, selection.whole, np.array(list(selection.index), int)
        if whole is x and part in results:
            out = results[part]
            np.testing.assert_array_equal(origin(out, np.arange(shape[w]), w), spread(index, p, out.shape))
        elif part is x and whole in results:
            out = results[whole]
            there = spread(np.arange(out.shape[w]), w, out.shape)
            np.testing.assert_array_equal(origin(out, index, p)[out > 0], there[out > 0])
    return relation


class Edit:
    """What a shrink rule is given; decides at random which atoms of a relation stay."""

    def __init__(self, case: Case, rng: np.random.Generator) -> None:
        self.case, self.rng = case, rng
        self.keep: Kept = {}
        relation = case.relation
        chosen: dict[str, np.ndarray] = {}
        for ref, axes in relation.axes.items():
            mask = np.ones(1, bool)
            for axis in axes:
                if axis.label not in chosen:
                    chosen[axis.label] = self._mask(axis.size, axis.label in relation.frozen)
                mask = np.outer(mask, chosen[axis.label]).reshape(-1)
            if not mask.all():
                self.keep[ref] = torch.from_numpy(np.flatnonzero(mask))
        self._select(relation)

    def _mask(self, size: int, frozen: bool) -> np.ndarray:
        if frozen or size < 2:
            return np.ones(size, bool)
        mask = self.rng.random(size) < 0.6
        mask[self.rng.integers(size)] = True
        return mask

    def _select(self, relation: Relation) -> None:
        masks: dict[DimRef, np.ndarray] = {}
        for s in relation.selections:
            size = s.whole[0].shape[s.whole[1]]
            if s.whole not in masks:
                masks[s.whole] = self._mask(size, False)
                masks[s.whole][[o.index[0] for o in relation.selections if o.whole == s.whole and len(o.index)]] = True
            masks[s.part] = masks[s.whole][np.array(list(s.index), int)]
        self.keep.update({ref: torch.from_numpy(np.flatnonzero(m)) for ref, m in masks.items() if not m.all()})

    def kept(self, value, dim):
        return self.keep.get((value, dim))

    def old_size(self, value, dim):
        return value.shape[dim]

    def size(self, value, dim):
        kept = self.kept(value, dim)
        return value.shape[dim] if kept is None else len(kept)

    def set_constant(self, node, index, data):
        old = node.input(index)
        assert old is None or old.dtype.torch == data.dtype
        node.set_input(index, self.case.graph.add_constant(data))

    def cut(self, value, tensor):
        for dim in range(tensor.dim()):
            kept = self.kept(value, dim)
            tensor = tensor if kept is None else tensor.index_select(dim, kept)
        return tensor


def check_shrink(op, arrays, steering=(), outputs=1, shapes=None, seed=0, known=True, **attributes) -> int:
    """Prunes the operands at random where the relation allows it, shrinks, runs, and compares with the pruned results.

    Returns how many dimensions were pruned.
    """
    case = Case(op, arrays, steering, outputs, shapes, known, **attributes)
    edit = Edit(case, np.random.default_rng(seed))
    want = {value: edit.cut(value, tensor) for value, tensor in case.run().items()}
    record = record_of(case.node)
    if record.shrink is not None:
        record.shrink(case.node, edit)
    pruned = {value: edit.cut(value, case.env[value]) for value in case.env}
    for value, got in case.run(pruned).items():
        np.testing.assert_array_equal(got.numpy(), want.pop(value).numpy())
    return len(edit.keep)
