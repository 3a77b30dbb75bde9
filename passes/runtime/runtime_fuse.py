"""A runtime's own operators, for those who know where the model will run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Graph
from graphopt.passes.fuse.constants import FusePass
from graphopt.passes.runtime import blocks, layers
from graphopt.passes.runtime.blocks import FusedAttention, FusedBiasGelu, FusedQuickGelu, FusedSkipNorm
from graphopt.passes.runtime.layers import FusedConvActivation, FusedConvSum, FusedGemmActivation
from graphopt.pipeline import register
from graphopt.rewrite import Rule
from graphopt.targets import load_target

# The operators that a rule makes.
_MAKES: dict[type[Rule], frozenset[str]] = {
    FusedConvSum: frozenset({"FusedConv"}),
    FusedConvActivation: frozenset({"FusedConv"}),
    FusedGemmActivation: frozenset({"FusedGemm"}),
    layers.FusedMatMulScale: frozenset({"FusedMatMul"}),
    layers.FusedMatMulTranspose: frozenset({"FusedMatMul"}),
    FusedAttention: frozenset({"MultiHeadAttention"}),
    FusedBiasGelu: frozenset({"BiasGelu", "FastGelu"}),
    FusedQuickGelu: frozenset({"QuickGelu"}),
    FusedSkipNorm: frozenset({"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"}),
    blocks.FusedSkipNormAndSum: frozenset({"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"}),
}


@register("runtime-fuse")
@dataclass(frozen=True)
class RuntimeFuse(FusePass):
    """Make a runtime's own operators (of domain com.microsoft) of standard ones. The file then runs nowhere else.

    ONNX Runtime makes most of them by itself when it loads a model; they are for sessions whose optimiser is off, for
    files that load faster, and for attention, which it finds in some models only. A layout of channels last is not
    made: ONNX Runtime's CPU kernels have it for integers alone, and turn to it by themselves.

    Attributes:
        target: whose operators; see `graphopt.targets`. Those that a target does not name are not made.
    """

    rules: ClassVar = (*blocks.RULES, *layers.RULES)
    drops_parameters: ClassVar[bool] = False
    target: str = "ort-cpu"

    def rules_for(self, graph: Graph) -> list[Rule]:
        fused = load_target(self.target).fused
        return [rule() for rule in self.rules if _MAKES[rule] <= fused]
