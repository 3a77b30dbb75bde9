"""From a graph out to torch and to ONNX."""

from graphopt.backends.torch_emit import to_torch
from graphopt.backends.torch_sync import update_from, write_back

__all__ = ["to_torch", "update_from", "write_back"]
