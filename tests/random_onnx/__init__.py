"""Random ONNX graphs: see `tests.random_onnx.grower`, and `tests.onnx_round_trip` for what is asked of them."""

from tests.random_onnx import control, elementwise, layers, quant, rare, shapes
from tests.random_onnx.case import RandomModel, random_model
from tests.random_onnx.grower import BINDINGS, MAKERS

__all__ = [
    "BINDINGS", "MAKERS", "RandomModel", "control", "elementwise", "layers", "quant", "random_model", "rare", "shapes",
]  # fmt: skip
