"""Quantization passes."""

from graphopt.passes.quantize.calibrate import Calibrate
from graphopt.passes.quantize.dequantize import Dequantize
from graphopt.passes.quantize.dynamic import QuantizeDynamic
from graphopt.passes.quantize.insert import InsertQDQ
from graphopt.passes.quantize.learn_scales import LearnScales
from graphopt.passes.quantize.lower import QOperatorToQDQ
from graphopt.passes.quantize.measure import MeasureError
from graphopt.passes.quantize.nbits import UseMatMulNBits
from graphopt.passes.quantize.pack import PackWeights
from graphopt.passes.quantize.recovery import AdaRound, CorrectBias, Equalize, Gptq, LimitDrop
from graphopt.passes.quantize.recovery.keep_statistics import KeepStatistics
from graphopt.passes.quantize.weights import InsertWeightQDQ
from graphopt.pipeline import register_alias

register_alias(
    "quantize",
    "equalize{above=2},insert-qdq,calibrate,limit-drop,measure-error,pack-weights",
    doc="Static quantization for a target: even out channels far apart, place Q/DQ pairs, calibrate, report, pack.",
)

register_alias(
    "quantize-weights",
    "insert-weight-qdq,pack-weights,use-matmul-nbits",
    doc="Weight-only quantization: small files, float computation. To round better, put gptq between the two passes.",
)

register_alias(
    "requantize",
    "qoperator-to-qdq,dequantize,insert-qdq,calibrate,measure-error,pack-weights",
    doc="A quantized model, in either of ONNX's formats, quantized anew for a target.",
)

__all__ = [
    "AdaRound", "Calibrate", "CorrectBias", "Dequantize", "Equalize", "Gptq", "InsertQDQ", "InsertWeightQDQ",
    "KeepStatistics", "LearnScales", "LimitDrop", "MeasureError", "PackWeights", "QOperatorToQDQ", "QuantizeDynamic",
    "UseMatMulNBits",
]  # fmt: skip
