"""Passes that win back what quantization loses."""

from graphopt.passes.quantize.recovery.absorb_bias import AbsorbBias
from graphopt.passes.quantize.recovery.adaround import AdaRound
from graphopt.passes.quantize.recovery.awq import Awq
from graphopt.passes.quantize.recovery.correct_bias import CorrectBias
from graphopt.passes.quantize.recovery.equalize import Equalize
from graphopt.passes.quantize.recovery.gptq import Gptq
from graphopt.passes.quantize.recovery.limit_drop import LimitDrop
from graphopt.passes.quantize.recovery.measure_effects import MeasureEffects
from graphopt.passes.quantize.recovery.mixed import InsertMixedQDQ
from graphopt.passes.quantize.recovery.split_channels import SplitChannels
from graphopt.passes.quantize.recovery.split_outliers import SplitOutliers

__all__ = [
    "AbsorbBias",
    "AdaRound",
    "Awq",
    "CorrectBias",
    "Equalize",
    "Gptq",
    "InsertMixedQDQ",
    "LimitDrop",
    "MeasureEffects",
    "SplitChannels",
    "SplitOutliers",
]
