"""learn-scales: the scales of Q/DQ pairs become parameters that fine-tuning trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from graphopt.ir import Graph, Parameter, Value
from graphopt.ops import attribute
from graphopt.ops.quant import integer_range
from graphopt.passes.quantize.fit import rows_of
from graphopt.passes.quantize.pairs import Pair, constant_data, is_weight, pairs
from graphopt.pipeline import Changes, Context, Contract, Pass, register


@register("learn-scales")
@dataclass(frozen=True)
class LearnScales(Pass):
    """Let `finetune` learn the step sizes of the quantization along with the weights (LSQ, arXiv:1902.08153).

    Comes between the insertion of pairs (with `calibrate`) and `finetune`; `pack-weights` stores what was learned. Zero
    points stay as they are.

    Attributes:
        tensors: whose scales: "all", or only those of "weights" or "activations".
        start: "keep" the scales as they are, or begin with LSQ's own for weights: 2 mean|w| / sqrt(greatest integer).
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE
    looks_for: ClassVar[frozenset[str]] = frozenset({"QuantizeLinear"})

    tensors: Literal["all", "weights", "activations"] = "all"
    start: Literal["keep", "lsq"] = "keep"

    def run(self, graph: Graph, context: Context) -> Changes:
        marked: dict[Value, None] = {}
        for pair in pairs(graph):
            weight = is_weight(pair)
            if self.tensors not in ("all", "weights" if weight else "activations"):
                continue
            if not pair.scale.is_constant or not pair.zero_point.dtype.is_integer or pair.scale in marked:
                continue
            if self.start == "lsq" and weight:
                pair.scale.data = _first(pair)
            stem = pair.source.parameter.name if pair.source.parameter is not None else pair.source.name
            pair.scale.parameter = Parameter(f"{stem}_scale", requires_grad=True)
            marked[pair.scale] = None
        return Changes(bool(marked), counts={"scales": len(marked)})


def _first(pair: Pair) -> torch.Tensor:
    """LSQ's first scale of a weight, in the shape of the one that is there."""
    data, scale = constant_data(pair.source), pair.scale.data
    assert data is not None and scale is not None, "weights and their scales are constants"
    axis = None if scale.numel() == 1 else int(attribute(pair.quantize, "axis")) % max(data.dim(), 1)
    rows = rows_of(data, axis, int(attribute(pair.quantize, "block_size")))
    greatest = integer_range(pair.zero_point.dtype)[1]
    size: torch.Tensor = 2 * rows.abs().mean(1) / float(greatest) ** 0.5
    size = size.clamp(min=torch.finfo(torch.float32).tiny)
    return size.reshape(scale.shape)
