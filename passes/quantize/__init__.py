"""Quantization passes."""

from graphopt.passes.quantize.calibrate import Calibrate
from graphopt.passes.quantize.insert import InsertQDQ
from graphopt.passes.quantize.pack import PackWeights
from graphopt.pipeline import register_alias

register_alias(
    "quantize",
    "insert-qdq,calibrate,pack-weights",
    doc="Static quantization for a target: place Q/DQ pairs, calibrate on data, store weights as integers.",
)

__all__ = ["Calibrate", "InsertQDQ", "PackWeights"]
