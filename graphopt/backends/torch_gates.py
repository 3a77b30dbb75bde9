"""The weights of recurrent layers: ONNX's packed tensors and torch's.

ONNX packs the directions and gates of a layer into one tensor, torch keeps a tensor per direction. Where the packing is
part of the graph (Split, Concat, Unsqueeze of the module's parameters), it is recognised by running it on indices: it
does not matter how it is written. Where it has been folded into a constant, the module's tensors are cut out of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from graphopt.backends.torch_form import Weight, is_weight, plain
from graphopt.ir import Node, Value
from graphopt.ops import execute

#: Torch's gates in the order in which ONNX has them.
_ORDER: Mapping[str, tuple[int, ...]] = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
#: Operators that only move elements.
MOVES = frozenset(
    {"Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)


def _suffixes(layer: int, directions: int) -> list[str]:
    return [f"l{layer}", f"l{layer}_reverse"][:directions]


def leaves_of(layer: int, directions: int) -> tuple[tuple[str, ...], ...]:
    """Names of torch's tensors in ONNX's W, R and B, in order."""
    suffixes = _suffixes(layer, directions)
    return (
        tuple(f"weight_ih_{s}" for s in suffixes),
        tuple(f"weight_hh_{s}" for s in suffixes),
        tuple(f"bias_{kind}_{s}" for s in suffixes for kind in ("ih", "hh")),
    )


def _reorder(tensor: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    gates = tensor.chunk(len(order), 0)
    return torch.cat([gates[i] for i in order])


def _pack(tensors: Sequence[torch.Tensor], order: Sequence[int], directions: int) -> torch.Tensor:
    rows = [_reorder(tensor, order) for tensor in tensors]
    each = len(rows) // directions
    return torch.stack([torch.cat(rows[d * each : (d + 1) * each]) for d in range(directions)])


def _unpack(packed: torch.Tensor, order: Sequence[int], count: int) -> list[torch.Tensor]:
    inverse = [order.index(i) for i in range(len(order))]
    each = count // packed.shape[0]
    return [_reorder(part, inverse) for row in packed for part in row.chunk(each)]


def weights_of(value: Value, node: Node, leaves: Sequence[str], directions: int) -> list[Weight] | None:
    """The module's tensors in one of W, R and B."""
    order = _ORDER[node.op]
    if is_weight(value, node):
        if len(leaves) == 1 and len(order) == 1 and value.parameter is not None:
            return None
        return [
            Weight(
                value, tuple(leaves), layout="gates",
                unpack=lambda packed: _unpack(packed, order, len(leaves)),
                pack=lambda tensors: _pack(tensors, order, directions),
            )
        ]  # fmt: skip
    sources = _sources(value)
    if sources is None:
        return None
    named: dict[str, Value] = {}
    for source in sources:
        parameter = source.parameter
        names = () if parameter is None else (parameter.name, *parameter.aliases)
        for leaf in leaves:
            if any(name.rpartition(".")[2] == leaf for name in names):
                named[leaf] = source
    if set(named) != set(leaves) or len(set(named.values())) != len(sources):
        return None
    tags = _tags(sources)
    same = torch.equal(_run(value, tags), _pack([tags[named[leaf]] for leaf in leaves], order, directions))
    return [plain(leaf, named[leaf]) for leaf in leaves] if same else None


def _sources(value: Value) -> list[Value] | None:
    """The float constants that `value` is put together from; ``None`` when it is more than moving elements."""
    found: dict[Value, None] = {}
    stack = [value]
    while stack:
        each = stack.pop()
        if each.is_constant:
            if each.dtype.is_float:
                found[each] = None
            elif each.data is None:
                return None
            continue
        node = each.producer
        if node is None or node.domain or node.op not in MOVES:
            return None
        stack += [v for v in node.inputs if v is not None]
    return list(found)


def _tags(sources: Sequence[Value]) -> dict[Value, torch.Tensor]:
    """A tensor of distinct numbers for each constant."""
    tags, start = {}, 0
    for source in sources:
        assert source.data is not None
        count = source.data.numel()
        tags[source] = torch.arange(start, start + count).reshape(source.data.shape)
        start += count
    return tags


def _run(value: Value, env: dict[Value, torch.Tensor]) -> torch.Tensor:
    if value in env:
        return env[value]
    if value.data is not None:
        return value.data
    node = value.producer
    assert node is not None
    results = execute(node, [None if v is None else _run(v, env) for v in node.inputs])
    env.update(zip(node.outputs, results, strict=False))
    return env[value]


__all__ = ["MOVES", "leaves_of", "weights_of"]
