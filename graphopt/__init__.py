"""graphopt: a compiler for neural-network graphs.

A model comes in from PyTorch or ONNX, becomes one graph, is rewritten by a pipeline of passes, and leaves as a PyTorch
module or an ONNX file:

    import graphopt as go

    graph = go.capture(module, (x,), dynamic={"x": {0: "batch"}})    # or go.load("model.onnx")
    report = go.optimize(graph, "simplify,fuse,prune-channels{ratio=0.5}")
    go.save(graph, "model.opt.onnx")
    module = go.to_torch(graph)
"""

from graphopt.backends import save, to_graphsurgeon, to_onnx, to_onnx_ir, to_pt2e, to_torch, update_from, write_back
from graphopt.errors import GraphoptError
from graphopt.frontends import capture, from_exported, load
from graphopt.ir import DType, Graph, Node, TensorType, Value, parse, verify
from graphopt.pipeline import Changes, Context, Contract, Pass, Report, optimize, register, register_alias
from graphopt.rewrite import RewritePass, Rule

# The graph offers taking trained weights back as a method; ir itself knows nothing of torch modules.
setattr(Graph, "update_from", update_from)  # noqa: B010 - mypy refuses the plain assignment

__version__ = "0.1.0"

__all__ = [
    "Changes", "Context", "Contract", "DType", "Graph", "GraphoptError", "Node", "Pass", "Report", "RewritePass",
    "Rule", "TensorType", "Value", "capture", "from_exported", "load", "optimize", "parse", "register",
    "register_alias", "save", "to_graphsurgeon", "to_onnx", "to_onnx_ir", "to_pt2e", "to_torch", "update_from",
    "verify", "write_back",
]  # fmt: skip
