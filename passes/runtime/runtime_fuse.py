"""A runtime's own operators, for those who know where the model will run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.analysis import propagate
from graphopt.ir import Graph
from graphopt.passes.fuse.constants import FusePass
from graphopt.passes.runtime import blocks, layers
from graphopt.passes.runtime.blocks import FusedAttention, FusedBiasGelu, FusedQuickGelu, FusedSkipNorm
from graphopt.passes.runtime.layers import FusedConvActivation, FusedConvSum, FusedGemmActivation
from graphopt.pipeline import Changes, Context, register
from graphopt.rewrite import Rule, apply_rules
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

    def run(self, graph: Graph, context: Context) -> Changes:
        """Whole blocks first: attention begins with a product that a rule for products would take."""
        propagate(graph)
        fused = load_target(self.target).fused
        counts, notes, details = dict[str, int](), list[str](), dict[str, Any]()
        for family in (blocks.RULES, layers.RULES):
            rules = [rule() for rule in family if _MAKES[rule] <= fused]
            found = apply_rules(graph, rules, name=self.name, keep=self.keeps)
            propagate(graph)
            counts |= found.hits
            notes += found.notes()
            details |= found.details()["rules"]
        return Changes(bool(counts), counts, tuple(notes), details={"rules": details})
