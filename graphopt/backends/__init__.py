"""From a graph out to torch and to ONNX."""

from graphopt.backends.onnx_file import save
from graphopt.backends.onnx_model import to_graphsurgeon, to_onnx, to_onnx_ir
from graphopt.backends.torch_emit import to_torch
from graphopt.backends.torch_pt2e import to_pt2e
from graphopt.backends.torch_sync import update_from
from graphopt.backends.torch_write_back import write_back

__all__ = ["save", "to_graphsurgeon", "to_onnx", "to_onnx_ir", "to_pt2e", "to_torch", "update_from", "write_back"]
