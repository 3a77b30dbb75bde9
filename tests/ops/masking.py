"""Checks a relation: an operator that loses indices must compute what the masked original does.

Random indices of random labels are taken out of every operand that carries the label. The oracle is the original
operator on inputs whose removed slices are zero, its outputs sliced alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from graphopt.ir import Node, Value
from graphopt.ops import Axis, Relation, execute, record_of
from tests.ops.oracle import graph_of

#: Outputs of the masked original, from the inputs and, for each dimension of input 0, 1 where an index stays.
Oracle = Callable[[list[np.ndarray], list[np.ndarray]], list[np.ndarray]]


class Taken:
    """A removal; answers what a record's ``shrink`` may ask."""

    def __init__(self, relation: Relation, kept: dict[str, np.ndarray]) -> None:
        self.relation = relation
        self.labels = kept
        self.constants: dict[int, torch.Tensor] = {}

    def kept(self, value: Value, dim: int) -> torch.Tensor | None:
        axes = self.relation.axes.get((value, dim), ())
        if not any(axis.label in self.labels for axis in axes):
            return None
        return torch.from_numpy(self._indices(axes))

    def _indices(self, axes: Sequence[Axis]) -> np.ndarray:
        index = np.zeros(1, dtype=np.int64)
        for axis in axes:
            inner = self.labels.get(axis.label, np.arange(axis.size))
            index = (index[:, None] * axis.size + inner[None, :]).reshape(-1)
        return index

    def old_size(self, value: Value, dim: int) -> Any:
        return value.shape[dim]

    def size(self, value: Value, dim: int) -> Any:
        kept = self.kept(value, dim)
        return self.old_size(value, dim) if kept is None else len(kept)

    def set_constant(self, node: Node, index: int, data: torch.Tensor) -> None:
        self.constants[index] = data

    def slice(self, value: Value, data: torch.Tensor) -> torch.Tensor:
        for dim in range(data.dim()):
            kept = self.kept(value, dim)
            data = data if kept is None else data.index_select(dim, kept)
        return data

    def mask(self, value: Value, data: torch.Tensor) -> torch.Tensor:
        if not data.is_floating_point():
            return data
        for dim in range(data.dim()):
            kept = self.kept(value, dim)
            if kept is not None:
                ones = torch.zeros(data.shape[dim], dtype=data.dtype).index_fill(0, kept, 1)
                data = data * ones.reshape(-1, *[1] * (data.dim() - dim - 1))
        return data

    def keeps(self, value: Value) -> list[np.ndarray]:
        found = []
        for dim, size in enumerate(value.shape):
            kept = self.kept(value, dim)
            found.append(np.ones(size) if kept is None else np.isin(np.arange(size), kept.numpy()).astype(np.float64))
        return found


def label_sizes(relation: Relation) -> dict[str, int]:
    """Sizes of the labels that may lose indices."""
    sizes: dict[str, int] = {}
    for axes in relation.axes.values():
        for axis in axes:
            assert sizes.setdefault(axis.label, axis.size) == axis.size, f"label {axis.label} has two sizes"
    return {label: size for label, size in sizes.items() if size > 1 and label not in relation.frozen}


def check_relation(
    op: str,
    inputs: Sequence[np.ndarray | None],
    free: str,
    outputs: int = 1,
    compare: int | None = None,
    oracle: Oracle | None = None,
    constant: Sequence[int] = (),
    trials: int = 6,
    **attributes: Any,
) -> None:
    """Checks the relation of one application.

    Args:
        op: standard operator.
        inputs: arrays, ``None`` for left-out inputs.
        free: the labels that may lose indices, separated by spaces.
        outputs: number of outputs.
        compare: number of outputs to compare; all by default.
        oracle: the masked original where zeroing is not what it means (statistics over what is kept).
        constant: inputs that are constants.
        trials: number of random removals.
        attributes: of the node.
    """
    _, node = graph_of(op, inputs, outputs, constant, **attributes)
    relation = _relation(node)
    sizes = label_sizes(relation)
    assert set(sizes) == set(free.split()), sizes
    rng = np.random.default_rng(len(free))
    singles = [[label] for label in sorted(sizes)]
    several = [[label for label in sorted(sizes) if rng.random() < 0.6] for _ in range(trials)]
    for chosen in singles + [pick for pick in several if pick]:
        kept = {}
        for label in chosen:
            count = int(rng.integers(1, sizes[label]))
            kept[label] = np.sort(rng.choice(sizes[label], count, replace=False))
        _check(op, inputs, outputs, compare or outputs, oracle, kept, constant, attributes)


def _relation(node: Node) -> Relation:
    record = record_of(node)
    for value, kind in zip(node.outputs, record.infer(node), strict=True):
        value.type = kind
    relation = record.relate(node)
    assert relation is not None
    return relation


def _check(op, inputs, outputs, compare, oracle, kept, constant, attributes) -> None:
    _graph, node = graph_of(op, inputs, outputs, constant, **attributes)
    record, relation = record_of(node), _relation(node)
    taken = Taken(relation, kept)
    tensors = [None if a is None else torch.from_numpy(np.ascontiguousarray(a)).reshape(a.shape) for a in inputs]
    pairs = list(zip(node.inputs, tensors, strict=True))
    if oracle is None:
        want = execute(node, [None if t is None else taken.mask(v, t) for v, t in pairs])
    else:
        arrays = [None if a is None else np.asarray(a, dtype=np.float64) for a in inputs]
        want = tuple(torch.from_numpy(a).float() for a in oracle(arrays, taken.keeps(node.inputs[0])))
    want = [taken.slice(v, t) for v, t in zip(node.outputs, want, strict=False)]
    sliced = [None if t is None else taken.slice(v, t) for v, t in pairs]
    if record.shrink is not None:
        record.shrink(node, taken)
    for name, label in relation.attributes.items():
        if label in kept:
            node.attributes[name] = len(kept[label])
    sliced = [taken.constants.get(i, t) for i, t in enumerate(sliced)]
    arrays = [None if t is None else t.numpy() for t in sliced]
    _again, after = graph_of(op, arrays, outputs, constant, domain=node.domain, **dict(node.attributes))
    got = execute(after, sliced)[:outputs]
    for kind, tensor in zip(record.infer(after), got, strict=False):
        assert kind.shape == tuple(tensor.shape), (kept, kind, tensor.shape)
    for mine, theirs in zip(got[:compare], want, strict=False):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5, msg=lambda text: f"{op} without {kept}: {text}")
