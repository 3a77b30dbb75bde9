"""Quantized graphs as torch's own compilers want them: the quantized_decomposed operators of PT2E.

``to_torch`` emits Q/DQ pairs as fake quantization, which trains. torch.compile's inductor and ExecuTorch instead look
for ``quantize_per_tensor``, ``dequantize_per_tensor`` and ``dequantize_per_channel`` around an operator, with weights
that are integers, and put an integer kernel in their place.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import fx, nn

from graphopt.backends.torch_emit import to_torch
from graphopt.errors import UnsupportedOperatorError
from graphopt.ir import Graph

_PER_TENSOR, _PER_CHANNEL = torch.fake_quantize_per_tensor_affine, torch.fake_quantize_per_channel_affine
_TYPES = {(0, 255): torch.uint8, (-128, 127): torch.int8, (-32768, 32767): torch.int16, (0, 65535): torch.uint16}


def to_pt2e(graph: Graph) -> fx.GraphModule:
    """Emits a quantized graph with quantized_decomposed operators, for ``torch.export`` and ``torch.compile``.

    Integer kernels need the weights to be constants of the compiler::

        program = torch.export.export(go.to_pt2e(graph), (x,))
        with torch.no_grad(), torch._inductor.config.patch(freezing=True):
            fast = torch.compile(program.module())

    Args:
        graph: with Q/DQ pairs, as after ``quantize{target=torch-inductor}``; weights packed or not.

    Returns:
        A module in eval mode. Weights behind pairs are integer buffers; it cannot be trained.

    Raises:
        UnsupportedOperatorError: an integer type that torch has no quantized operators for.
    """
    importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the operators
    module = to_torch(graph).eval()
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in (_PER_TENSOR, _PER_CHANNEL):
            _lower(module, node)
    module.graph.eliminate_dead_code()
    _drop_unread(module)
    module.recompile()
    return module


def _lower(module: fx.GraphModule, node: fx.Node) -> None:
    source, scale, zero = node.args[:3]
    low, high = (int(str(limit)) for limit in node.args[-2:])
    dtype = _TYPES.get((low, high))
    if dtype is None:
        raise UnsupportedOperatorError(
            f"torch has no quantized type for {low} to {high}", where=node.name, hint="quantize to 8 or 16 bits"
        )
    tail = (low, high, dtype)
    assert isinstance(source, fx.Node), "fake quantization reads a tensor"
    ops = torch.ops.quantized_decomposed
    if node.target is _PER_CHANNEL:
        quantize, dequantize = ops.quantize_per_channel.default, ops.dequantize_per_channel.default
        parameters: tuple[Any, ...] = (scale, zero, node.args[3])
    else:
        quantize, dequantize = ops.quantize_per_tensor.default, ops.dequantize_per_tensor.default
        parameters = (float(_tensor(module, scale)), int(_tensor(module, zero)))
    with module.graph.inserting_before(node):
        if source.op == "get_attr":
            stored = _store(module, source, node, dtype)
        else:
            stored = module.graph.call_function(quantize, (source, *parameters, *tail))
        restored = module.graph.call_function(dequantize, (stored, *parameters, *tail))
    node.replace_all_uses_with(restored)
    module.graph.erase_node(node)


def _store(module: fx.GraphModule, source: fx.Node, node: fx.Node, dtype: torch.dtype) -> fx.Node:
    """The weight that `node` fakes the quantization of, as an integer buffer."""
    weight = _tensor(module, source).detach().float()
    scale, zero = (_tensor(module, argument).detach() for argument in node.args[1:3])
    low, high = (int(str(limit)) for limit in node.args[-2:])
    if node.target is _PER_CHANNEL:
        axis = int(str(node.args[3]))
        shape = [-1 if dim == axis else 1 for dim in range(weight.dim())]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    integers = ((weight / scale).round() + zero).clamp(low, high).to(torch.int32).to(dtype)
    name = f"{str(source.target).replace('.', '_')}_integers"
    module.register_buffer(name, integers)
    return module.graph.get_attr(name)


def _tensor(module: nn.Module, node: Any) -> torch.Tensor:
    found: Any = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    assert isinstance(found, torch.Tensor), "parameters of fake quantization are buffers"
    return found


def _drop_unread(module: fx.GraphModule) -> None:
    """Removes parameters and buffers that nothing reads any more: float weights, scales that became numbers."""
    read = {str(node.target) for node in module.graph.nodes if node.op in ("get_attr", "call_module")}
    for name in [name for name, _ in (*module.named_parameters(), *module.named_buffers())]:
        path, _, leaf = name.rpartition(".")
        if name not in read and path not in read:
            delattr(module.get_submodule(path), leaf)


__all__ = ["to_pt2e"]
