"""From torch and from ONNX into a graph."""

from graphopt.frontends.capture import capture, from_exported
from graphopt.frontends.load import load

__all__ = ["capture", "from_exported", "load"]
