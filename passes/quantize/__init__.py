"""Quantization passes."""

from graphopt.passes.quantize.calibrate import Calibrate
from graphopt.passes.quantize.insert import InsertQDQ
from graphopt.passes.quantize.measure import MeasureError
from graphopt.passes.quantize.pack import PackWeights
from graphopt.pipeline import register_alias

register_alias(
    "quantize",
    "insert-qdq,calibrate,measure-error,pack-weights",
    doc="Static quantization for a target: place Q/DQ pairs, calibrate on data, report errors, pack the weights.",
)

__all__ = ["Calibrate", "InsertQDQ", "MeasureError", "PackWeights"]
