"""Cheaper activations, named by whoever wants them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from graphopt.passes.substitute import activations as A
from graphopt.pipeline import Contract, register
from graphopt.rewrite import RewritePass, Rule


@register("substitute-activations")
@dataclass(frozen=True)
class SubstituteActivations(RewritePass):
    """Put cheaper activations in the place of costly ones, as the options say; the rest stays.

    What the model computes changes by as much as the activations differ; train it again, or measure, before using it.

    Attributes:
        silu: substitute for Swish (SiLU).
        gelu: substitute for Gelu; tanh and sigmoid are its usual approximations.
        mish: substitute for Mish.
        sigmoid: substitute for Sigmoid, other than in Swish.
        tanh: substitute for Tanh, other than in Mish.
    """

    contract = Contract.APPROXIMATE
    rules: ClassVar = (A.SubstituteSilu, A.SubstituteGelu, A.SubstituteMish, A.SubstituteSigmoid, A.SubstituteTanh)
    silu: Literal["none", "hardswish", "relu"] = "none"
    gelu: Literal["none", "tanh", "sigmoid", "relu"] = "none"
    mish: Literal["none", "hardswish", "relu"] = "none"
    sigmoid: Literal["none", "hardsigmoid"] = "none"
    tanh: Literal["none", "hardtanh"] = "none"

    def make_rules(self) -> list[Rule]:
        chosen = (self.silu, self.gelu, self.mish, self.sigmoid, self.tanh)
        return [rule(to) for rule, to in zip(self.rules, chosen, strict=True) if to != "none"]
