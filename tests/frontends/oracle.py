"""The oracle for converters: torch itself, on the example and on other batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from torch.utils import _pytree as pytree

from graphopt.frontends.capture import capture
from graphopt.ir import DType, Graph, Node
from graphopt.ir import dims as D
from graphopt.ops.opset import CANONICAL_OPSET
from graphopt.runtime.executor import run


class Wrap(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def module_of(subject: Any) -> torch.nn.Module:
    return subject if isinstance(subject, torch.nn.Module) else Wrap(subject)


def check(
    subject: Any,
    *args: Any,
    batch: Sequence[int] | None = (0,),
    carried: Sequence[str] = (),
    tolerance: float = 2e-5,
) -> Graph:
    """Captures a function or module and compares the graph with it; returns the graph.

    Args:
        subject: what is captured.
        args: the example.
        batch: which arguments have an open batch as dimension 0 (none: nothing is open). These are captured with a
            batch of one, and run with one, with the example's, and with a larger one.
        carried: the torch operators that are expected to be carried.
        tolerance: absolute and relative.
    """
    module = module_of(subject).eval()
    dynamic = None
    example = args
    if batch:
        name = "args" if isinstance(module, Wrap) else None
        per = [{0: "n"} if i in batch else None for i in range(len(args))]
        dynamic = {name: per} if name else dict(enumerate(per))
        example = tuple(a[:1] if i in batch else a for i, a in enumerate(args))
    graph = capture(module, example, dynamic=dynamic)
    graph.verify()
    found = [node.op for node in graph.walk() if node.domain == "aten"]
    assert found == list(carried), found
    for node in graph.walk():
        if not node.domain:
            fits_standard(node)
    compare(graph, module, args, tolerance)
    if batch:
        compare(graph, module, example, tolerance)
        larger = [torch.cat([a, a, a[:1]]) if i in batch else a for i, a in enumerate(args)]
        compare(graph, module, larger, tolerance)
    return graph


def fits_standard(node: Node) -> None:
    """Numbers of inputs and outputs, attributes, and element types as ONNX's definition of the operator has them."""
    schema = onnx.defs.get_schema(node.op, CANONICAL_OPSET)
    assert schema.min_input <= len(node.inputs) <= schema.max_input, node
    assert schema.min_output <= len(node.outputs) <= schema.max_output, node
    unknown = set(node.attributes) - set(schema.attributes)
    assert not unknown, (node, unknown)
    missing = {name for name, attribute in schema.attributes.items() if attribute.required} - set(node.attributes)
    assert not missing, (node, missing)
    bound: dict[str, DType] = {}
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    for formal, value in zip(_formals(schema.inputs, len(node.inputs)), node.inputs, strict=True):
        if value is None:
            assert formal.option == onnx.defs.OpSchema.FormalParameterOption.Optional, node
            continue
        name = formal.type_str
        text = f"tensor({_ONNX_NAMES.get(value.dtype, str(value.dtype))})"
        assert text in allowed.get(name, [name]), (node, name, text)
        if formal.is_homogeneous:
            assert bound.setdefault(name, value.dtype) == value.dtype, (node, name, value.dtype)


_ONNX_NAMES = {DType.FLOAT32: "float", DType.FLOAT64: "double"}


def _formals(formals: Sequence[Any], count: int) -> list[Any]:
    """The formal parameter of each input; the last of a variadic operator stands for all that follow."""
    return [formals[min(i, len(formals) - 1)] for i in range(count)]


def compare(graph: Graph, module: torch.nn.Module, args: Sequence[Any], tolerance: float = 2e-5) -> None:
    """Values, element types and shapes of the graph's outputs against the module's."""
    with torch.no_grad():
        want = [leaf for leaf in pytree.tree_leaves(module(*args)) if isinstance(leaf, torch.Tensor)]
    inputs = [leaf for leaf in pytree.tree_leaves(tuple(args)) if isinstance(leaf, torch.Tensor)]
    got = run(graph, inputs)
    assert len(got) == len(want)
    binding: dict[str, int] = {}
    for value, tensor in zip(graph.inputs, inputs, strict=True):
        for dim, size in zip(value.shape, tensor.shape, strict=True):
            if D.is_symbolic(dim) and dim.is_Symbol:
                binding[str(dim)] = size
    for mine, theirs, value in zip(got, want, graph.outputs, strict=True):
        assert mine.dtype == theirs.dtype, (mine.dtype, theirs.dtype)
        assert mine.shape == theirs.shape, (mine.shape, theirs.shape)
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance, equal_nan=True)
        assert value.dtype.torch == theirs.dtype
        for dim, size in zip(value.shape, theirs.shape, strict=True):
            bound = D.substitute(dim, binding)
            assert not isinstance(bound, int) or bound == size, (value, dim, size)
