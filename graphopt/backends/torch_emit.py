"""Graph -> torch: emission of a graph as a `torch.fx.GraphModule`."""

from __future__ import annotations

import enum
import inspect
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from graphopt.analysis.shapes import propagate
from graphopt.backends import torch_signature
from graphopt.backends.torch_aten import emit_aten, gives_tuple
from graphopt.backends.torch_calls import CALLS, steering
from graphopt.backends.torch_control import CONTROL, emit_control
from graphopt.backends.torch_form import Form
from graphopt.backends.torch_leaf import first, leaf
from graphopt.backends.torch_module import TorchModule
from graphopt.backends.torch_plan import Plan, build, plan
from graphopt.backends.torch_sizes import Sizes
from graphopt.errors import ShapeError, UnsupportedOperatorError
from graphopt.ir import DType, Graph, MapType, Node, OptionalType, SequenceType, TensorType, Value
from graphopt.ir.expect import expect_graph
from graphopt.ir.literals import TypedTensor
from graphopt.ops import aten, record_of
from graphopt.ops.definition import departure
from graphopt.ops.dispatch import stand_in
from graphopt.ops.record import how_to_compute

_NICE = re.compile(r"[A-Za-z]\w*")


def to_torch(graph: Graph) -> fx.GraphModule:
    """Emits a graph as a torch module.

    Operators with weights are ``nn.Conv2d``, ``nn.Linear``, ``nn.BatchNorm2d``, ... at the paths that the names of
    their weights give; constants without such names get a path from the names in the file. ``state_dict`` keys of a
    captured module are kept. Everything else is a function call. The module holds copies of the graph's constants.

    Args:
        graph: the graph; its types are brought up to date.

    Returns:
        A module with the calling convention of the module that was captured, or with the graph's inputs as arguments.
        It is in the mode in which the original was captured; in eval mode when the graph comes from a file.

    Raises:
        UnsupportedOperatorError: operators without a meaning in torch; all of them are named.
        ShapeError: a node is not as its operator's definition has it.
    """
    expect_graph(graph, "to_torch")
    propagate(graph)
    require_supported(graph)
    training = graph.signature is not None and graph.signature.training
    return emit(graph, plan(graph), training)


def require_supported(graph: Graph) -> None:
    """Raises UnsupportedOperatorError with all operators in `graph` that torch cannot compute.

    Raises ShapeError for a node that is not as its operator's definition has it.
    """
    missing: dict[str, Node] = {}
    for node in graph.walk():
        record = record_of(node)
        if not node.bodies and (record is None or record.compute is None):
            missing.setdefault(f"{node.domain}::{node.op}" if node.domain else node.op, node)
        if node.bodies and (node.domain, node.op) not in CONTROL:
            missing.setdefault(node.op, node)
    if missing:
        raise UnsupportedOperatorError(
            f"torch has no counterpart of {', '.join(sorted(missing))}",
            where=", ".join(node.describe() for node in missing.values()),
            hint=how_to_compute(next(iter(missing.values()))),
        )
    for node in graph.walk():
        wrong = departure(node) or _unknown_attribute(node)
        if wrong is not None:
            raise ShapeError(wrong, where=node.describe(), hint="check the number of inputs and the attributes")


def _unknown_attribute(node: Node) -> str | None:
    record = record_of(node)
    unknown = None if record is None or node.bodies else record.unknown_attribute(node)
    return None if unknown is None else f"{node.op} has an attribute '{unknown}', which is not known"


def emit(graph: Graph, plan: Plan, training: bool, captured: Sequence[Value] = ()) -> TorchModule:
    """The module of one graph, or of a body that is called with `captured` values behind its own inputs."""
    root = build(plan, training)
    emitter = Emitter(graph, plan, root)
    torch_signature.placeholders(emitter, captured)
    for node in graph.nodes:
        if node not in plan.absorbed:
            emitter.emit(node)
    torch_signature.output(emitter, always_tuple=graph.owner is not None)
    _sweep(emitter.fx)
    emitter.register_buffers()
    for name, spec in emitter.specs.items():
        object.__setattr__(root, name, spec)
    module = TorchModule(root, emitter.fx, _class_name(graph))
    return module.train(training)


def _class_name(graph: Graph) -> str:
    return graph.name if graph.name.isidentifier() and graph.name[0].isupper() else "TorchModule"


def _sweep(graph: fx.Graph) -> None:
    """Erases what nothing reads, but for the checks of arguments."""
    for node in reversed(graph.nodes):
        kept = node.op in ("placeholder", "output") or "check" in node.meta
        if not kept and not node.users:
            graph.erase_node(node)


#: Kinds of attributes that code cannot spell out: strings in arrays, types, tensors of narrow elements.
_HELD = (np.ndarray, TensorType, SequenceType, OptionalType, MapType, TypedTensor)


class Emitter:
    """Writes the nodes of one graph into one fx graph.

    Attributes:
        graph: what is emitted.
        plan: where its weights are.
        root: the module that nodes refer to.
        fx: the fx graph that is being written.
        sizes: dimensions as integers.
        env: what stands for each value: an fx node.
        pairs: fake-quantized values, by QuantizeLinear.
        specs: what else the module has to hold, by attribute: pytree specifications, strings, types.
    """

    def __init__(self, graph: Graph, plan: Plan, root: nn.Module) -> None:
        self.graph = graph
        self.plan = plan
        self.root = root
        self.fx = fx.Graph()
        self.sizes = Sizes(self.fx)
        self.env: dict[Value, Any] = {}
        self.pairs: dict[Node, fx.Node] = {}
        self._tracer = fx.proxy.GraphAppendingTracer(self.fx)
        self._attributes: dict[str, fx.Node] = {}
        self._buffers: dict[str, torch.Tensor] = {}
        self._items: dict[tuple[fx.Node, int], fx.Node] = {}
        self._device: fx.Node | None = None
        self.specs: dict[str, Any] = {}

    # -- building blocks

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """A call of a function."""
        return self.fx.call_function(function, args, kwargs)

    def method(self, name: str, *args: Any, **kwargs: Any) -> fx.Node:
        """A call of a tensor's method."""
        return self.fx.call_method(name, args, kwargs)

    def attribute(self, key: str) -> fx.Node:
        """A parameter or buffer, fetched once."""
        if key not in self._attributes:
            self._attributes[key] = self.fx.create_node("get_attr", key)
        return self._attributes[key]

    def buffer(self, tensor: torch.Tensor, name: str) -> fx.Node:
        """A constant that is not part of the ``state_dict``."""
        stem = re.sub(r"\W+", "_", name).strip("_") or "constant"
        if not _NICE.fullmatch(stem) or hasattr(nn.Module, stem):
            stem = f"constant_{stem}"
        key, number = stem, 0
        while key in self._buffers or hasattr(self.root, key):
            number += 1
            key = f"{stem}_{number}"
        self._buffers[key] = tensor
        return self.attribute(key)

    def register_buffers(self) -> None:
        """Registers the constants that emitted code reads."""
        read = {node.target for node in self.fx.nodes if node.op == "get_attr"}
        for key, tensor in self._buffers.items():
            if key in read:
                self.root.register_buffer(key, tensor.detach().clone(), persistent=False)

    def tensor(self, value: Value) -> fx.Node:
        """What stands for a value: an fx node."""
        if value not in self.env:
            self.env[value] = self._constant(value)
        found: fx.Node = self.env[value]
        return found

    def _constant(self, value: Value) -> fx.Node:
        if value in self.plan.keys:
            return self.attribute(self.plan.keys[value])
        if value.data is None:
            return self.held(value.strings, "strings")
        return self.buffer(value.data, value.name)

    def held(self, item: Any, name: str) -> fx.Node:
        """Something that is no tensor and that generated code cannot spell out, kept by the module."""
        key = f"_{name}_{len(self.specs)}"
        self.specs[key] = item
        return self.fx.create_node("get_attr", key)

    def operands(self, node: Node) -> list[fx.Node | None]:
        """All inputs of a node."""
        return [None if value is None else self.tensor(value) for value in node.inputs]

    def number(self, value: Value | None) -> Any:
        """The single element of a constant as a Python number; ``None`` when it is none, or has a name to keep."""
        if value is None or not value.is_constant or value.data is None or value.data.numel() != 1:
            return None
        if value in self.plan.keys or value.data.is_complex() or value.data.is_meta:
            return None
        return value.data.reshape(()).item()

    # -- nodes

    def emit(self, node: Node) -> None:
        """Writes one node and notes what stands for its outputs."""
        last = next(iter(reversed(self.fx.nodes)), None)
        results = self._results(node)
        for value, result in zip(node.outputs, results, strict=False):
            if result is not None:
                self.env[value] = result
        self._annotate(node, last, results)

    def _results(self, node: Node) -> Sequence[Any]:
        if node in self.plan.calls:
            return self._module(node, *self.plan.calls[node])
        if node.bodies:
            return self.split(emit_control(self, node), len(node.outputs), True)
        if not node.domain and node.op in CALLS and stand_in(node) is None:
            result = CALLS[node.op](self, node)
            if result is not None:
                return result if isinstance(result, tuple) else (result,)
        return self._function(node)

    def _module(self, node: Node, path: str, form: Form) -> Sequence[Any]:
        args = [self._given(value) for value in form.inputs]
        if form.pad:
            args[0] = self.call(nn.functional.pad, args[0], list(form.pad))
        result = self.fx.call_module(path, tuple(args))
        if not form.results:
            return (result,)
        self.env.update({value: pick(self, result) for value, pick in form.results})
        return [self.env.get(value) for value in node.outputs]

    def _given(self, value: Any) -> Any:
        return tuple(self.tensor(each) for each in value) if isinstance(value, tuple) else self.tensor(value)

    def item(self, result: fx.Node, index: int) -> fx.Node:
        """Entry `index` of a tuple, taken once."""
        key = (result, index)
        if key not in self._items:
            self._items[key] = self.call(operator.getitem, result, index)
        return self._items[key]

    def _function(self, node: Node) -> Sequence[Any]:
        """The record's computation: traced through, or called."""
        if node.domain == aten.DOMAIN:
            return self.split(emit_aten(self, node), len(node.outputs), gives_tuple(node))
        record = record_of(node)
        assert record is not None and record.compute is not None
        args: list[Any] = [self._argument(node, index) for index in range(len(node.inputs))]
        kwargs = {name: self._literal(name, value) for name, value in node.attributes.items()}
        kwargs |= record.told(node)
        other = stand_in(node)
        if other is not None:
            return self.split(self.call(other, node.op, *args, **kwargs), len(node.outputs), None)
        # Steering inputs that are not known are read where the code runs.
        steered = any(isinstance(arg, fx.Node) and steering(node, i) == "vector" for i, arg in enumerate(args))
        if record.inline and not steered and not _has_strings(node) and not is_builtin(record.compute):
            return self._trace(record.compute, args, kwargs)
        result = self.call(leaf(record), *args, **kwargs)
        return self.split(result, len(node.outputs), returns_tuple(record.compute))

    def _literal(self, name: str, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.buffer(value, name)
        if isinstance(value, _HELD):
            return self.held(value, name)
        return int(value) if isinstance(value, enum.IntEnum) else value

    def _argument(self, node: Node, index: int) -> Any:
        value = node.inputs[index]
        if value is None:
            return None
        kind = steering(node, index)
        if kind:
            known = self.sizes.contents(value)
            if known is not None:
                return known[0] if kind == "scalar" else known
            if value.is_constant and value.data is not None and value.data.is_floating_point():
                numbers = value.data.flatten().tolist()
                return numbers[0] if kind == "scalar" else numbers
        return self.tensor(value)

    def _trace(self, compute: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        proxies = [fx.Proxy(arg, self._tracer) if isinstance(arg, fx.Node) else arg for arg in args]
        result = compute(*proxies, **kwargs)
        results = result if isinstance(result, tuple) else (result,)
        return [item.node if isinstance(item, fx.Proxy) else item for item in results]

    def split(self, result: Any, count: int, is_tuple: bool | None) -> Sequence[Any]:
        """The entries of a result; `is_tuple` tells whether it is a tuple of them, ``None`` that it may be."""
        if is_tuple or (is_tuple is None and count > 1):
            return [self.item(result, index) for index in range(count)]
        return (result if is_tuple is False else self.call(first, result),)

    def device(self) -> Any:
        """The device of the first input, for tensors made from nothing; the CPU when there is no input."""
        if self._device is None:
            source = next((self.env[value] for value in self.graph.inputs if value in self.env), None)
            if source is None:
                return torch.device("cpu")
            with self.fx.inserting_after(self.sizes.after_inputs(source)):
                self._device = self.fx.create_node("call_function", getattr, (source, "device"), name="device")
        return self._device

    def _annotate(self, node: Node, last: fx.Node | None, results: Sequence[Any]) -> None:
        new: list[fx.Node] = []
        for written in reversed(self.fx.nodes):
            if written is last:
                break
            new.append(written)
            if written.op not in ("get_attr", "placeholder"):
                written.meta.setdefault("module_path", node.origin.module)
                written.meta.setdefault("origin", node.origin)
        fresh = set(new)
        for value, result in zip(node.outputs, results, strict=False):
            named = isinstance(result, fx.Node) and result in fresh and result.op != "call_module"
            if named and _NICE.fullmatch(value.name) and result.op != "get_attr":
                result._rename(value.name)


def _has_strings(node: Node) -> bool:
    return any(value is not None and value.dtype is DType.STRING for value in (*node.inputs, *node.outputs))


def is_builtin(function: Callable[..., Any]) -> bool:
    """True for functions of torch and Python themselves, which code calls by name."""
    module = getattr(function, "__module__", None) or ""
    return inspect.isbuiltin(function) or module.partition(".")[0] in ("torch", "_operator", "math")


def returns_tuple(compute: Callable[..., Any]) -> bool | None:
    """Whether a computation returns a tuple, by its annotation; ``None`` when it may or may not."""
    if is_builtin(compute):
        return False
    hint = str(getattr(compute, "__annotations__", {}).get("return", ""))
    if hint.startswith("tuple") and "|" not in hint.rpartition("]")[2]:
        return True
    return False if hint in ("torch.Tensor", "Tensor") else None


__all__ = ["Emitter", "emit", "require_supported", "to_torch"]
