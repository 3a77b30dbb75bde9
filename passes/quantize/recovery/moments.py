"""Second moments of what layers read, gathered sample by sample in memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

from graphopt.ir import Graph, Node, Value
from graphopt.ops.windows import Windows, window
from graphopt.passes.quantize.recovery.layers import Layer
from graphopt.runtime import run
from graphopt.runtime.executor import bind_inputs

T = TypeVar("T")

#: Layers are taken together as long as their moments need no more than this many bytes.
_AT_ONCE = 512 << 20
#: Patches of convolutions are made of this many rows of a batch at a time.
_ROWS = 16


def has_moments(layer: Layer) -> bool:
    """True for layers whose weight multiplies a matrix of inputs: products, and convolutions over images or less."""
    linear = layer.linear
    return linear.node.op != "ConvTranspose" and (not linear.is_convolution or (linear.node.output.rank or 9) <= 4)


def matrix_of(layer: Layer, weight: torch.Tensor) -> torch.Tensor:
    """A weight, shaped as stored, as one matrix for each group: [groups, out, in]."""
    linear = layer.linear
    if linear.is_convolution:
        return weight.reshape(linear.group, weight.shape[0] // linear.group, -1)
    return (weight if linear.transposed else weight.t())[None]


def weight_of(layer: Layer, matrix: torch.Tensor) -> torch.Tensor:
    """The inverse of `matrix_of`."""
    linear = layer.linear
    if linear.is_convolution:
        assert layer.weight.data is not None, "weights of layers are constants"
        return matrix.reshape(layer.weight.data.shape)
    return matrix[0] if linear.transposed else matrix[0].t().contiguous()


def chunks(items: Sequence[T], layers_in: Callable[[T], Sequence[Layer]]) -> Iterator[list[T]]:
    """The items in order, as many at a time as memory allows for the moments of the layers in them."""
    chunk: list[T] = []
    size = 0
    for item in items:
        needed = sum(8 * groups * width**2 for groups, _, width in map(_matrix_shape, layers_in(item)))
        if chunk and size + needed > _AT_ONCE:
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += needed
    if chunk:
        yield chunk


def _matrix_shape(layer: Layer) -> tuple[int, int, int]:
    assert layer.weight.data is not None, "weights of layers are constants"
    groups, rows, width = matrix_of(layer, layer.weight.data).shape
    return groups, rows, width


def second_moments(
    graph: Graph, layers: Sequence[Layer], samples: Iterable[Sequence[torch.Tensor]]
) -> dict[Layer, torch.Tensor]:
    """The mean of ``x x^T`` over all that each layer multiplies its weight with, quantized as the graph has it.

    Args:
        graph: the graph.
        layers: layers of it, `has_moments` true for each.
        samples: inputs of the graph.

    Returns:
        for each layer [groups, in, in], float64, in the order of columns that `matrix_of` has.
    """
    readers: dict[Value, list[Layer]] = {}
    sums: dict[Layer, torch.Tensor] = {}
    counts: dict[Layer, int] = {}
    for layer in layers:
        readers.setdefault(layer.node.operand(0), []).append(layer)
        groups, _, width = _matrix_shape(layer)
        sums[layer] = torch.zeros(groups, width, width, dtype=torch.float64)
        counts[layer] = 0

    def see(value: Value, tensor: torch.Tensor) -> None:
        for layer in readers.get(value, ()):
            for patches in _patches(layer, tensor):
                sums[layer] += (patches @ patches.transpose(1, 2)).double()
                counts[layer] += patches.shape[2]

    def hook(node: Node, results: tuple[Any, ...]) -> tuple[Any, ...]:
        for value, result in zip(node.outputs, results, strict=False):
            see(value, result)
        return results

    for inputs in samples:
        for value, tensor in bind_inputs(graph, inputs).items():
            see(value, tensor)
        run(graph, inputs, hook=hook)
    return {layer: sums[layer] / max(counts[layer], 1) for layer in layers}


def _patches(layer: Layer, x: torch.Tensor) -> Iterator[torch.Tensor]:
    """What the weight is multiplied with, some rows at a time: [groups, in, positions], float32."""
    x = x.detach().float()
    if not layer.linear.is_convolution:
        yield x.reshape(1, -1, x.shape[-1]).transpose(1, 2)
        return
    assert layer.weight.data is not None, "weights of layers are constants"
    kernel = layer.weight.data.shape[2:]
    strides, dilations, pads, automatic = window(layer.node, len(kernel))
    windows = Windows.resolve(x, kernel, strides, dilations, pads, automatic)
    padded = windows.pad(x, 0.0)
    if len(kernel) == 1:
        padded = padded.unsqueeze(2)
    for rows in torch.split(padded, _ROWS):
        columns = F.unfold(rows, _planar(kernel), _planar(dilations), 0, _planar(strides))
        grouped = columns.reshape(len(rows), layer.linear.group, -1, columns.shape[2])
        yield grouped.permute(1, 2, 0, 3).flatten(2)


def _planar(numbers: Sequence[int]) -> tuple[int, ...]:
    """Window numbers of one or two dimensions as those of two."""
    return (*[1] * (2 - len(numbers)), *numbers)
