"""Quantization passes."""

from graphopt.passes.quantize.calibrate import Calibrate
from graphopt.passes.quantize.dynamic import QuantizeDynamic
from graphopt.passes.quantize.insert import InsertQDQ
from graphopt.passes.quantize.learn_scales import LearnScales
from graphopt.passes.quantize.measure import MeasureError
from graphopt.passes.quantize.pack import PackWeights
from graphopt.passes.quantize.recovery import AdaRound, CorrectBias, Equalize, Gptq, LimitDrop
from graphopt.passes.quantize.weights import InsertWeightQDQ
from graphopt.pipeline import register_alias

register_alias(
    "quantize",
    "insert-qdq,calibrate,limit-drop,measure-error,pack-weights",
    doc="Static quantization for a target: place Q/DQ pairs, calibrate on data, report errors, pack the weights.",
)

register_alias(
    "quantize-weights",
    "insert-weight-qdq,pack-weights",
    doc="Weight-only quantization: small files, float computation. To round better, put gptq between the two passes.",
)

__all__ = [
    "AdaRound", "Calibrate", "CorrectBias", "Equalize", "Gptq", "InsertQDQ", "InsertWeightQDQ", "LearnScales",
    "LimitDrop",
    "MeasureError", "PackWeights", "QuantizeDynamic",
]  # fmt: skip
