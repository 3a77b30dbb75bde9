"""Large kernels become stacks of small ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from graphopt.analysis import propagate
from graphopt.ir import Graph
from graphopt.passes.fuse.kernels import Window
from graphopt.passes.substitute.factors import RowsAndColumns, Stage
from graphopt.passes.substitute.layers import Layer, layers, put
from graphopt.passes.substitute.stacks import largest_system, stacked
from graphopt.pipeline import Changes, Context, Contract, Pass, register

# Least-squares problems with more unknowns take too long to be worth it.
_MOST_UNKNOWNS = 512
_SMALLEST = 5
_EXACT = 1e-12


@register("stack-kernels")
@dataclass(frozen=True)
class StackKernels(Pass):
    """Replace convolutions of 5x5 and larger by a column and a row, where these are the same, or by stacked 3x3 ones.

    Stacks are found by least squares. Zeros are padded in front of the first stage alone, so a stack is as near to the
    large kernel at the border as inside. Kernels that are far from every stack stay, as most trained ones do.

    Attributes:
        error: largest difference of the composed kernel from the large one, relative to its norm.
        pays: most multiply-accumulates of a replacement, as a share of the layer's.
    """

    contract = Contract.APPROXIMATE
    looks_for = frozenset({"Conv"})
    error: float = 0.1
    pays: float = 0.9

    def run(self, graph: Graph, context: Context) -> Changes:
        propagate(graph)
        counts, notes, details = {"separated": 0, "stacked": 0}, list[str](), list[dict[str, Any]]()
        for layer in filter(_is_large, list(layers(graph))):
            kind, error, stages = "separated", 0.0, _separated(layer)
            if not self._pays(layer, stages):
                kind, error, stages = "stacked", *_stack(layer, context.seed)
            if not self._pays(layer, stages) or error > self.error:
                why = f"the nearest stack is off by {error:.2f}" if stages and error > self.error else "no stack pays"
                notes.append(f"{layer.label} is left: {why}")
                continue
            put(layer, stages, self.name, layer.group)
            counts[kind] += 1
            details.append({"layer": layer.label, "error": error, "shapes": [list(s.weight.shape) for s in stages]})
        return Changes(any(counts.values()), counts, tuple(notes), details={"layers": details})

    def _pays(self, layer: Layer, stages: Sequence[Stage]) -> bool:
        """Whether there are stages, with few enough multiply-accumulates; halos are not counted."""
        if not stages:
            return False
        return layer.macs([stage.plan for stage in stages]) <= self.pays * layer.macs([layer.whole()])


def _is_large(layer: Layer) -> bool:
    kernel = layer.weight.shape[2:]
    is_square = len(kernel) == 2 and kernel[0] == kernel[1] and kernel[0] % 2 == 1
    depthwise = layer.group == layer.weight.shape[0] and layer.weight.shape[1] == 1
    return is_square and kernel[0] >= _SMALLEST and layer.windows is not None and (layer.group == 1 or depthwise)


def _separated(layer: Layer) -> list[Stage]:
    """A column and a row for every kernel; none where that is not exact."""
    weight = layer.weight
    if layer.group == 1:
        return RowsAndColumns(weight).stages(1 - _EXACT)
    u, s, v = torch.linalg.svd(weight[:, 0])
    if bool((s[:, 1:].square().sum(1) > _EXACT * s.square().sum(1)).any()):
        return []
    root = s[:, :1].sqrt()
    return [Stage((u[:, :, 0] * root)[:, None, :, None], (0,)), Stage((v[:, 0] * root)[:, None, None, :], (1,))]


def _stack(layer: Layer, seed: int) -> tuple[float, list[Stage]]:
    """Kernels of extent 3, and by how much their composition misses the large one."""
    found = layer.windows
    if found is None or largest_system(layer.weight, layer.group) > _MOST_UNKNOWNS:
        return 0.0, []
    weights, error = stacked(layer.weight, layer.group, seed)
    stages = []
    for number, weight in enumerate(weights):
        own = tuple(_window(window, number, len(weights)) for window in found)
        is_last = number == len(weights) - 1
        stages.append(Stage(weight, (0, 1) if is_last else (), own))
    return error, stages


def _window(whole: Window, number: int, count: int) -> Window:
    """The window of a stage: the first has the pads, the last the strides."""
    window = replace(whole, extent=3)
    if number:
        window = replace(window, begin=0, end=0)
    return window if number == count - 1 else replace(window, stride=1)
