"""Weights as indices into a table of numbers: ``Mul(Gather(table, Cast(indices)), scales)``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.ir import DType, Graph, Node, Origin, Parameter, TensorType, Value
from graphopt.ops.quant import spread
from graphopt.passes.quantize.fit import nearest_entries, storage
from graphopt.passes.quantize.placement import WeightSite
from graphopt.passes.quantize.scales import blocked


def insert_table(
    graph: Graph, site: WeightSite, table: torch.Tensor, scale: torch.Tensor, before: Node, origin: Origin,
    *, trainable: bool,
) -> Value:  # fmt: skip
    """Puts a table and the indices of a weight's elements in place of the weight, and returns what comes out.

    Args:
        graph: the graph of `before`.
        site: the weight.
        table: ascending, [entries], entries a power of two or one less.
        scale: what entries are multiplied with: a scalar, a vector along the site's axis, or blocked.
        before: where to put the nodes.
        origin: where they come from.
        trainable: the table is a parameter.
    """
    data, name, block = site.value.data, site.value.name, site.block
    assert data is not None, "weights are constants"
    axis = 0 if site.axis is None else site.axis
    split = blocked(data.detach().float(), axis, block) if block else data.detach().float()
    factor = scale.unsqueeze(axis + 1) if block else spread(scale, data, axis, 0)
    dtype = storage(max((len(table) - 1).bit_length(), 2), symmetric=False)
    stored = graph.add_constant(nearest_entries(split / factor, table).to(torch.uint8), f"{name}_indices", dtype=dtype)
    numbers = graph.add_constant(table, f"{name}_table")
    if trainable:
        stem = site.value.parameter.name if site.value.parameter is not None else name
        numbers.parameter = Parameter(f"{stem}_table", requires_grad=True)

    def op(kind: str, inputs: list[Value], shape: Sequence[int], dtype: DType = DType.FLOAT32, **given: int) -> Value:
        made = Value(TensorType(dtype, tuple(shape)), f"{name}_{kind.lower()}")
        return graph.insert_before(before, Node(kind, list(inputs), dict(given), [made], origin=origin)).output

    def integers(*numbers: int) -> Value:
        return graph.add_constant(torch.tensor(numbers), f"{name}_shape")

    wide = op("Cast", [stored], split.shape, DType.INT32, to=int(DType.INT32))
    weight = op("Gather", [numbers, wide], split.shape, axis=0)
    weight = op("Mul", [weight, graph.add_constant(factor.contiguous(), f"{name}_scale")], split.shape)
    if not block:
        return weight
    whole = [*data.shape[:axis], split.shape[axis] * block, *data.shape[axis + 1 :]]
    weight = op("Reshape", [weight, integers(*whole)], whole)
    if whole[axis] == data.shape[axis]:
        return weight
    return op("Slice", [weight, integers(0), integers(data.shape[axis]), integers(axis)], data.shape)
