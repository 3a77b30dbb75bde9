"""The module that `to_torch` returns: a `torch.fx.GraphModule` that copies and pickles without loss."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.fx.node import _get_qualified_name

# What GraphModule.__init__ derives from the graph, as opposed to what the user or we put on the module.
_STATE = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")


class TorchModule(fx.GraphModule):
    """A `torch.fx.GraphModule` that keeps everything that was registered on it.

    torch's own class re-traces its code when unpickled and makes non-persistent buffers persistent when deep-copied; it
    also drops parameters that no node reads. This one carries parameters, buffers (with their persistence), submodules
    and the graph across `copy.deepcopy`, `copy.copy` and `pickle` unchanged.
    """

    def __init__(self, root: nn.Module | dict[str, Any], graph: fx.Graph, class_name: str = "TorchModule") -> None:
        super().__init__(root, graph, class_name)
        if isinstance(root, nn.Module):
            for name in _STATE:
                self.__dict__[name] = copy.copy(root.__dict__[name])

    def _deepcopy_init(self) -> Callable[..., None]:
        name = type(self).__name__

        def init(copied: TorchModule, root: nn.Module, graph: fx.Graph) -> None:
            TorchModule.__init__(copied, root, graph, name)

        return init

    def __copy__(self) -> TorchModule:
        copied = TorchModule(self, copy.deepcopy(self.graph), type(self).__name__)
        copied.meta = dict(self.meta)
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        state = self.__dict__.copy()
        del state["_graph"]
        return _restore, (type(self).__name__, state, encode_graph(self.graph))


def _restore(class_name: str, state: dict[str, Any], nodes: list[NodeRecord]) -> TorchModule:
    module = TorchModule.__new__(TorchModule)
    type(module).__name__ = class_name
    module.__dict__.update(state)
    module.graph = decode_graph(nodes)
    return module


@dataclass(frozen=True)
class _Ref:
    """Stands for the fx node of that position in a pickled graph."""

    index: int


class _Path(NamedTuple):
    """Stands for the object of that qualified name."""

    module: str
    name: str


class _Overload(NamedTuple):
    """Stands for a torch operator."""

    namespace: str
    name: str
    overload: str


class NodeRecord(NamedTuple):
    """One fx node in a form that pickles without recursion along the graph."""

    op: str
    target: Any
    args: Any
    kwargs: Any
    name: str
    meta: dict[str, Any]


def encode_graph(graph: fx.Graph) -> list[NodeRecord]:
    """The nodes of `graph` as plain data. Functions are written as qualified names."""
    order = {node: _Ref(index) for index, node in enumerate(graph.nodes)}

    def encode(value: Any) -> Any:
        return _map(value, lambda leaf: order[leaf] if isinstance(leaf, fx.Node) else _encode_leaf(leaf))

    return [
        NodeRecord(node.op, _encode_leaf(node.target), encode(node.args), encode(node.kwargs), node.name, node.meta)
        for node in graph.nodes
    ]


def decode_graph(records: Iterable[NodeRecord]) -> fx.Graph:
    """Rebuilds the graph that `encode_graph` wrote."""
    graph = fx.Graph()
    nodes: list[fx.Node] = []

    def decode(value: Any) -> Any:
        return _map(value, lambda leaf: nodes[leaf.index] if isinstance(leaf, _Ref) else _decode_leaf(leaf))

    for record in records:
        node = graph.create_node(
            record.op,
            _decode_leaf(record.target),
            decode(record.args),
            decode(record.kwargs),
            name=record.name,
        )
        node.meta = dict(record.meta)
        nodes.append(node)
    return graph


def _map(value: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(value, (_Ref, _Path, _Overload)):
        return function(value)
    if isinstance(value, tuple):
        items = [_map(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [_map(item, function) for item in value]
    if isinstance(value, dict):
        return {key: _map(item, function) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(_map(item, function) for item in (value.start, value.stop, value.step)))
    return function(value)


def _encode_leaf(value: Any) -> Any:
    if isinstance(value, torch._ops.OpOverload):
        namespace, name = value._schema.name.split("::")
        return _Overload(namespace, name, value._overloadname)
    if isinstance(value, type) or not callable(value) or not hasattr(value, "__name__"):
        return value
    module, _, name = _get_qualified_name(value).rpartition(".")
    path = _Path(module or "builtins", name)
    try:
        found = _find(path)
    except (ImportError, AttributeError):
        return value
    return path if found is value else value


def _decode_leaf(value: Any) -> Any:
    if isinstance(value, _Overload):
        packet = getattr(getattr(torch.ops, value.namespace), value.name)
        return getattr(packet, value.overload or "default")
    return _find(value) if isinstance(value, _Path) else value


def _find(path: _Path) -> Any:
    module, attributes = path.module, [path.name]
    while True:
        try:
            found: Any = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            if not module:
                raise
            attributes.insert(0, last)
    for attribute in attributes:
        found = getattr(found, attribute)
    return found


def register(root: nn.Module, key: str, tensor: torch.Tensor, persistent: bool = True) -> None:
    """Registers a parameter or buffer at a dotted path, making the modules on the way."""
    path, _, name = key.rpartition(".")
    owner = submodule(root, path)
    if isinstance(tensor, nn.Parameter):
        owner.register_parameter(name, tensor)
    else:
        owner.register_buffer(name, tensor, persistent)


def submodule(root: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path; empty modules are made where there are none."""
    for part in path.split(".") if path else ():
        if part not in root._modules:
            root.add_module(part, nn.Module())
        child = root._modules[part]
        assert child is not None
        root = child
    return root


def install(root: nn.Module, path: str, module: nn.Module) -> None:
    """Puts `module` at a dotted path."""
    parent, _, name = path.rpartition(".")
    submodule(root, parent).add_module(name, module)


__all__ = ["NodeRecord", "TorchModule", "decode_graph", "encode_graph", "install", "register", "submodule"]
