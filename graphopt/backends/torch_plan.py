"""The plan: under which name every weight of a graph lives in a torch module, and which nodes are modules.

The plan depends on the graph alone, so that `update_from` finds the weights again whatever has happened to the module
in between (training, copying, pickling, loading of a state dict).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from graphopt.backends.torch_form import Form, Pack, Unpack, Weight, is_filled, is_weight
from graphopt.backends.torch_forms import FORMS, TRAINED
from graphopt.backends.torch_module import install, register, submodule
from graphopt.backends.torch_quant import dequantized_weight
from graphopt.ir import Graph, Node, Parameter, Value

_QUALIFIED = re.compile(r"[A-Za-z_]\w*(\.\w+)+")


@dataclass(frozen=True)
class Binding:
    """A constant of the graph and the state of the module that holds it.

    Attributes:
        value: the constant.
        keys: ``state_dict`` keys, one per tensor that the constant is unpacked into.
        aliases: further keys of the same tensor; only where there is one.
        parameter: kind (parameter or buffer), persistence and trainability.
        unpack: from the constant to the module's tensors.
        pack: back again.
    """

    value: Value
    keys: tuple[str, ...]
    aliases: tuple[str, ...]
    parameter: Parameter
    unpack: Unpack
    pack: Pack


@dataclass
class Plan:
    """How a graph becomes a module.

    Attributes:
        bindings: what holds the weights, in the order of the graph's constants.
        calls: nodes that are modules: the module's path, and the form with what it is called with.
        forms: the module at each path.
        bodies: nodes with bodies, and the paths of the modules that run them.
        absorbed: nodes that another node's module stands for.
        keys: for each constant that the module holds as it is, where.
        dequantized: for DequantizeLinear nodes of constants, the key of the float weight that they stand for.
        annotated: the graph knows which of its constants are parameters.
    """

    annotated: bool
    bindings: list[Binding] = field(default_factory=list)
    calls: dict[Node, tuple[str, Form]] = field(default_factory=dict)
    forms: dict[str, Form] = field(default_factory=dict)
    bodies: dict[Node, str] = field(default_factory=dict)
    absorbed: set[Node] = field(default_factory=set)
    keys: dict[Value, str] = field(default_factory=dict)
    dequantized: dict[Node, str] = field(default_factory=dict)


def plan(graph: Graph) -> Plan:
    """Decides names and modules for `graph` (not for the bodies inside it)."""
    return _Planner(graph).run()


class _Planner:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.plan = Plan(annotated=any(value.parameter is not None for value in graph.root.constants))
        self.names: dict[str, Value] = {}
        self.children: dict[str, set[str]] = {}
        self.containers: set[str] = set()  # paths that have modules below them
        self.unnamed: dict[tuple[Any, ...], str] = {}  # forms that were placed, by identity
        self.claimed: dict[Value, str] = {}
        self.counters: dict[str, int] = {}

    def run(self) -> Plan:
        for value in self.graph.constants:
            if value.parameter is not None:
                self._bind(Weight(value, ("",)), value.parameter)
        # Modules without weights come last: they take what room the others leave.
        for node, forms in sorted(self._matches(), key=lambda match: not match[1][0].weights):
            self._place(node, forms)
        for node in self.graph.nodes:
            self._dequantized(node)
            self._leftovers(node)
            if node.bodies:
                self.plan.bodies[node] = path = self._numbered(node.op.lower())
                self._occupy(path)
        self._named_constants()
        order = {value: index for index, value in enumerate(self.graph.constants)}
        self.plan.bindings.sort(key=lambda binding: order.get(binding.value, len(order)))
        return self.plan

    # -- which nodes are modules

    def _matches(self) -> list[tuple[Node, list[Form]]]:
        """Nodes with the forms that could be used, in graph order. A node behind another one may absorb it."""
        found = []
        for node in reversed(self.graph):
            if node.domain or node.op not in FORMS or node in self.plan.absorbed:
                continue
            forms = [form for form in FORMS[node.op](node) if self._prefix(node, form) is not None]
            if forms:
                found.append((node, forms))
                self.plan.absorbed.update(forms[0].absorbed)
        return found[::-1]

    def _prefix(self, node: Node, form: Form) -> str | None:
        """Where the names of the weights say that the module is: "" when they say nothing, ``None`` if it cannot be."""
        named = [weight for weight in form.weights if weight.value.parameter is not None]
        if not all(self._fits(node, weight) for weight in form.weights):
            return None
        if not named:
            return ""
        prefixes: set[str] | None = None
        for weight in named:
            parameter = weight.value.parameter
            assert parameter is not None
            if len(weight.leaves) != 1 or weight.layout or parameter.buffer != weight.buffer:
                return None
            here = {
                name.removesuffix("." + weight.leaves[0])
                for name in (parameter.name, *parameter.aliases)
                if name.endswith("." + weight.leaves[0])
            }
            prefixes = here if prefixes is None else prefixes & here
        usable = [prefix for prefix in sorted(prefixes or ()) if self._exact(prefix, form)]
        return node.origin.module if node.origin.module in usable else next(iter(usable), None)

    def _fits(self, node: Node, weight: Weight) -> bool:
        if weight.layout and len(weight.value.uses) > 1:
            return False
        return weight.value.parameter is not None or self._trainable(node)

    def _trainable(self, node: Node) -> bool:
        """Whether constants without a name that `node` reads may become state of the module.

        A file does not tell parameters from constants, and what a pass has made stands for what it replaced. But the
        constants of a module that was captured are no part of its ``state_dict``.
        """
        return not self.plan.annotated or bool(node.origin.passes)

    def _exact(self, prefix: str, form: Form) -> bool:
        """True when the module at `prefix` would have the state that is registered there, no more and no less."""
        there = self.children.get(prefix, set())
        return prefix not in self.containers and there <= {*form.leaves, *form.extra}

    # -- where they go

    def _place(self, node: Node, forms: Sequence[Form]) -> None:
        for form in forms:
            path = self._prefix(node, form)
            if path is None:
                continue
            known = path or self.unnamed.get(form.identity, "")
            if known in self.plan.forms:
                if self.plan.forms[known].identity != form.identity:
                    continue
                self.plan.calls[node] = known, form
                return
            if any(w.value in self.claimed and w.value.parameter is None for w in form.weights):
                continue
            path = path or self._fresh(node, form)
            for weight in form.weights:
                self._claim(path, weight)
            self.plan.calls[node], self.plan.forms[path] = (path, form), form
            if form.weights:
                self.unnamed[form.identity] = path
            self._occupy(path, *form.leaves, *form.extra)
            return
        for absorbed in forms[0].absorbed:
            self.plan.absorbed.discard(absorbed)

    def _occupy(self, path: str, *leaves: str) -> None:
        self.children.setdefault(path, set()).update(leaves)
        self.containers.update(_ancestors(path))

    def _claim(self, path: str, weight: Weight) -> None:
        self.claimed[weight.value] = path
        if weight.value.parameter is not None:
            return
        keys = tuple(f"{path}.{leaf}" for leaf in weight.leaves)
        self._bind(weight, Parameter(keys[0], buffer=weight.buffer), keys)

    def _bind(self, weight: Weight, parameter: Parameter, keys: tuple[str, ...] = ()) -> None:
        keys, aliases = keys or (parameter.name,), parameter.aliases
        self.plan.bindings.append(Binding(weight.value, keys, aliases, parameter, weight.unpack, weight.pack))
        for key in (*keys, *aliases):
            self.names[key] = weight.value
            prefix, _, leaf = key.rpartition(".")
            self._occupy(prefix, leaf)
        if not weight.layout:
            self.plan.keys[weight.value] = keys[0]

    # -- names

    def _fresh(self, node: Node, form: Form) -> str:
        """A path for a module whose weights have no module paths yet."""
        for weight in form.weights:
            prefix, _, leaf = weight.value.name.rpartition(".")
            if _QUALIFIED.fullmatch(weight.value.name) and leaf in weight.leaves and self._is_free(prefix):
                return prefix
        scope = node.origin.module or scope_path(node.name) or scope_path(next(iter(node.origin.sources), ""))
        if scope and self._is_free(scope):
            return scope
        return self._numbered(node.op.lower(), "" if form.weights else scope)

    def _numbered(self, stem: str, scope: str = "") -> str:
        """The first free "stem_0", "stem_1", ..., inside the innermost module of `scope` that can hold modules."""
        while scope and (scope in self.plan.forms or scope in self.names or not self._is_open(scope)):
            scope = scope.rpartition(".")[0]
        stem = f"{scope}.{stem}" if scope else stem
        while True:
            self.counters[stem] = number = self.counters.get(stem, -1) + 1
            if self._is_free(f"{stem}_{number}"):
                return f"{stem}_{number}"

    def _is_free(self, path: str) -> bool:
        """True when a module can be put at `path`."""
        if not path or path in self.children or path in self.containers:
            return False
        return self._is_open(path) and path not in self.names

    def _key_is_free(self, key: str) -> bool:
        """True when a parameter can be called `key`."""
        prefix = key.rpartition(".")[0]
        return self._is_free(key) and prefix not in self.plan.forms

    def _is_open(self, path: str) -> bool:
        taken = any(hasattr(nn.Module, part) for part in path.split("."))
        return not taken and not any(a in self.names or a in self.plan.forms for a in _ancestors(path))

    # -- weights outside of modules

    def _dequantized(self, node: Node) -> None:
        weight = dequantized_weight(node)
        if weight is None:
            return
        value = weight.value
        if value.parameter is not None and (value.parameter.buffer or not value.parameter.requires_grad):
            return
        if value.parameter is None and not self._trainable(node):
            return
        if value.parameter is None:
            named = _QUALIFIED.fullmatch(value.name) and self._key_is_free(value.name)
            key = value.name if named else self._numbered("quantized_weight")
            self._bind(weight, Parameter(key))
            self.plan.dequantized[node] = key
            return
        position = next(i for i, binding in enumerate(self.plan.bindings) if binding.value is value)
        old = self.plan.bindings[position]
        self.plan.bindings[position] = Binding(value, old.keys, old.aliases, old.parameter, weight.unpack, weight.pack)
        self.plan.dequantized[node] = old.keys[0]
        self.plan.keys.pop(value, None)

    def _leftovers(self, node: Node) -> None:
        """Weights of operators for which no module was found: parameters all the same."""
        if node.domain or node in self.plan.calls or node in self.plan.absorbed or not self._trainable(node):
            return
        weights = {
            leaf: value
            for index, leaf in TRAINED.get(node.op, {}).items()
            if (value := node.input(index)) is not None
            and is_weight(value, node)
            and value.parameter is None
            and value not in self.claimed
            and not (is_filled(value, 0) or is_filled(value, 1))
        }
        path = ""
        for leaf, value in weights.items():
            named = _QUALIFIED.fullmatch(value.name) and self._key_is_free(value.name)
            if not named and not path:
                path = self._numbered(node.op.lower())
            key = value.name if named else f"{path}.{leaf}"
            self.claimed[value] = key.rpartition(".")[0]
            self._bind(Weight(value, (leaf,)), Parameter(key))

    def _named_constants(self) -> None:
        """In a file, a float tensor with a module path for a name was a parameter (layer scale, position embedding)."""
        if self.plan.annotated:
            return
        bound = {binding.value for binding in self.plan.bindings}
        for value in self.graph.constants:
            if value in bound or value.data is None or not value.uses or not value.dtype.is_float:
                continue
            if math.prod(value.data.shape) > 1 and _QUALIFIED.fullmatch(value.name) and self._key_is_free(value.name):
                self._bind(Weight(value, ("",)), Parameter(value.name))


def _ancestors(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:k]) for k in range(1, len(parts))]


def scope_path(name: str) -> str:
    """The module path in a node name as torch's ONNX exporter writes them: "/layer1/layer1.0/conv1/Conv"."""
    pieces = name.split("/")
    if len(pieces) < 3 or pieces[0]:
        return ""
    path: list[str] = []
    previous = ""
    for piece in pieces[1:-1]:
        if not re.fullmatch(r"\w+(\.\w+)*", piece):
            return ""
        path += [piece.removeprefix(previous + ".")] if previous and piece.startswith(previous + ".") else [piece]
        previous = piece
    return ".".join(path)


def build(plan: Plan, training: bool) -> nn.Module:
    """Makes the modules and registers the weights (copies of the graph's constants), without a forward."""
    root = nn.Module()
    waiting = dict(plan.forms)
    pairs: list[tuple[str, torch.Tensor, bool]] = []
    tied: dict[int, tuple[str, torch.Tensor, bool]] = {}  # by their places in the module's state
    aliases: list[tuple[str, torch.Tensor, bool]] = []  # of which no place is known
    for binding in plan.bindings:
        assert binding.value.data is not None
        persistent = binding.parameter.persistent
        tensors = [_state(tensor, binding.parameter) for tensor in binding.unpack(binding.value.data)]
        names = [*binding.keys, *binding.aliases]
        if binding.aliases and len(binding.parameter.places) == len(names):
            tied |= {at: (key, tensors[0], persistent) for at, key in zip(binding.parameter.places, names, strict=True)}
            continue
        pairs += [(key, tensor, persistent) for key, tensor in zip(binding.keys, tensors, strict=True)]
        aliases += [(alias, tensors[0], persistent) for alias in binding.aliases]
    for place in sorted(tied):
        pairs.insert(place, tied[place])
    for key, tensor, persistent in pairs + aliases:
        path, _, leaf = key.rpartition(".")
        if path in waiting:
            install(root, path, _empty(waiting.pop(path), tensor))
        if path in plan.forms:
            setattr(submodule(root, path), leaf, tensor)
        else:
            register(root, key, tensor, persistent)
    for path, form in waiting.items():
        install(root, path, _empty(form, None))
    _forget_counters(plan, root)
    return root.train(training)


def _state(tensor: torch.Tensor, parameter: Parameter) -> torch.Tensor:
    # The graph's constants are shared and never written in place; a module's weights are, in training.
    copied = tensor.detach().clone()
    if parameter.buffer:
        return copied
    differentiable = copied.is_floating_point() or copied.is_complex()
    return nn.Parameter(copied, requires_grad=parameter.requires_grad and differentiable)


def _empty(form: Form, like: torch.Tensor | None) -> nn.Module:
    if like is None:
        return form.module(**form.options)
    module = form.module(**form.options, device="meta", dtype=like.dtype if like.is_floating_point() else None)
    for name, buffer in module.named_buffers():
        if name in form.extra:  # not on the meta device, where nothing has a content
            setattr(module, name, torch.zeros_like(buffer, device=like.device))
    return module


def _forget_counters(plan: Plan, root: nn.Module) -> None:
    """Drops state that a module class has by itself and the captured module did not have."""
    held = {key for binding in plan.bindings for key in (*binding.keys, *binding.aliases)}
    for path, form in plan.forms.items():
        for name in form.extra if plan.annotated else ():
            if f"{path}.{name}" not in held:
                setattr(submodule(root, path), name, None)


__all__ = ["Binding", "Plan", "build", "plan", "scope_path"]
