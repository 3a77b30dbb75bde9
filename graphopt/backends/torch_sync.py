"""Weights between a graph and torch modules: trained ones back into the graph, pruned ones into the user's module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from graphopt.backends.torch_plan import Binding, plan
from graphopt.errors import DataError, GraphoptError, ShapeError
from graphopt.ir import Graph, Node, Value


def bindings(graph: Graph) -> Iterator[tuple[str, Binding]]:
    """All weights of a graph and the bodies inside it, with the path of the module that each binding is relative to."""
    yield from _bindings(graph, "")


def _bindings(graph: Graph, prefix: str) -> Iterator[tuple[str, Binding]]:
    made = plan(graph)
    for binding in made.bindings:
        yield prefix, binding
    for node, path in made.bodies.items():
        for name, body in node.attributes.items():
            if isinstance(body, Graph):
                yield from _bindings(body, f"{prefix}{path}.{name}.")


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers of a module by name, under every name that they have."""
    found: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    found.update(module.named_buffers(remove_duplicate=False))
    return found


def update_from(graph: Graph, module: nn.Module) -> None:
    """Takes the weights and statistics of a trained module back into the graph.

    The constants get new tensors, copied from the module; their element types and devices stay. Nothing is changed when
    something does not fit.

    Args:
        graph: the graph that `module` was made from (by `to_torch`), or captured from, not edited since.
        module: the module; copies of the original one will do.

    Raises:
        DataError: the module lacks a weight of the graph.
        ShapeError: a weight has another shape in the module; the message names it.
    """
    have = tensors_of(module)
    updates: list[tuple[Value, torch.Tensor]] = []
    for prefix, binding in bindings(graph):
        old = binding.value.data
        assert old is not None
        keys = [prefix + key for key in binding.keys]
        expected = [tuple(tensor.shape) for tensor in binding.unpack(old)]
        for key, shape in zip(keys, expected, strict=True):
            _check(key, have, shape)
        if binding.parameter.buffer and not binding.parameter.persistent and keys[0] not in have:
            continue
        new = binding.pack([have[key].detach() for key in keys]).to(dtype=old.dtype, device=old.device)
        if not torch.equal(new, old):
            updates.append((binding.value, new.clone()))
    for value, tensor in updates:
        value.data = tensor


def _check(key: str, have: Mapping[str, torch.Tensor], shape: tuple[int, ...]) -> None:
    if key not in have:
        raise DataError(
            f"the module has no '{key}', which the graph does",
            hint="give the module that to_torch made from this graph, before further passes ran",
        )
    if tuple(have[key].shape) != shape:
        raise ShapeError(
            f"'{key}' is {list(have[key].shape)} in the module and {list(shape)} in the graph",
            hint="give the module that to_torch made from this graph, before further passes ran",
        )


# -- write_back


def write_back(graph: Graph, module: nn.Module) -> None:
    """Puts the graph's weights into the module that it was captured from, in place, shrinking its layers.

    Parameters and buffers get the graph's shapes and contents; ``out_channels``, ``num_features``, ``groups`` and so on
    follow. Parameters stay the same objects where their shape stays, and gradients are dropped where it does not (an
    optimizer over the old ones has to be made anew).

    Args:
        graph: captured from `module`; passes may have changed shapes and contents of its parameters, nothing else.
        module: the user's module.

    Raises:
        GraphoptError: the graph's structure is no longer that of the module: parameters have vanished or are new, or
            quantization was inserted. Nothing is changed then.
    """
    _require_same_structure(graph, module)
    groups = _groups(graph)
    resized: set[str] = set()
    for value in graph.parameters:
        parameter, data = value.parameter, value.data
        assert parameter is not None and data is not None
        names = (parameter.name, *parameter.aliases)
        if _assign(module, names, data):
            resized.update(name.rpartition(".")[0] for name in names)
    modules = dict(module.named_modules(remove_duplicate=False))
    for path in sorted(resized):
        _refresh(modules[path], groups.get(path))


def _require_same_structure(graph: Graph, module: nn.Module) -> None:
    have = tensors_of(module)
    named = {n: v for v in graph.parameters if v.parameter for n in (v.parameter.name, *v.parameter.aliases)}
    hint = "write_back is for passes that only shrink parameters; take the whole module from to_torch instead"
    gone = [name for name in have if name not in named]
    new = [key for _, binding in bindings(graph) for key in binding.keys if key not in have]
    for names, what in ((gone, "are no longer in the graph"), (new, "are new in the graph")):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise GraphoptError(f"cannot write back: {shown} {what}", hint=hint)
    for node in graph.walk():
        if not node.domain and node.op in ("QuantizeLinear", "DequantizeLinear"):
            raise GraphoptError("cannot write back: the graph is quantized", where=node.describe(), hint=hint)
    for name, value in named.items():
        assert value.data is not None
        if value.data.dim() != have[name].dim():
            raise GraphoptError(
                f"cannot write back: '{name}' has shape {list(have[name].shape)} in the module and "
                f"{list(value.data.shape)} in the graph",
                hint=hint,
            )


def _groups(graph: Graph) -> dict[str, Node]:
    """For each module path the node that reads its weight: it knows what shapes do not tell."""
    found: dict[str, Node] = {}
    for value in graph.parameters:
        for user in value.users:
            if value.parameter is not None and user.op in ("Conv", "ConvTranspose", "GroupNormalization"):
                for name in (value.parameter.name, *value.parameter.aliases):
                    found[name.rpartition(".")[0]] = user
    return found


def _assign(module: nn.Module, names: tuple[str, ...], data: torch.Tensor) -> bool:
    """Puts `data` under all of `names`; True when the shape is a new one."""
    path, _, leaf = names[0].rpartition(".")
    old = getattr(module.get_submodule(path), leaf)
    new = data.detach().to(dtype=old.dtype, device=old.device)
    if new.shape == old.shape:
        with torch.no_grad():
            old.copy_(new)
        return False
    tensor = nn.Parameter(new.clone(), old.requires_grad) if isinstance(old, nn.Parameter) else new.clone()
    for name in names:
        path, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(path), leaf, tensor)
    return True


def _conv(module: Any, node: Node | None) -> None:
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    if node is not None:
        module.groups = node.attributes.get("group", 1)
    outer, inner = module.weight.shape[:2]
    module.in_channels, module.out_channels = outer, inner * module.groups
    if not transposed:
        module.in_channels, module.out_channels = inner * module.groups, outer


def _linear(module: Any, node: Node | None) -> None:
    module.out_features, module.in_features = module.weight.shape


def _features(module: Any, node: Node | None) -> None:
    module.num_features = next(t for t in (module.running_mean, module.weight) if t is not None).shape[0]


def _layer_norm(module: Any, node: Node | None) -> None:
    module.normalized_shape = tuple(module.weight.shape)


def _group_norm(module: Any, node: Node | None) -> None:
    module.num_channels = module.weight.shape[0]
    if node is not None:
        module.num_groups = node.attributes["num_groups"]


def _embedding(module: Any, node: Node | None) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _prelu(module: Any, node: Node | None) -> None:
    module.num_parameters = module.weight.shape[0]


def _recurrent(module: Any, node: Node | None) -> None:
    module.hidden_size = module.weight_hh_l0.shape[1]
    module.input_size = module.weight_ih_l0.shape[1]


#: Module class -> what follows from the shapes of its parameters.
_ATTRIBUTES: Mapping[type[nn.Module], Callable[[Any, Node | None], None]] = {
    nn.modules.conv._ConvNd: _conv,
    nn.Linear: _linear,
    nn.modules.batchnorm._NormBase: _features,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.PReLU: _prelu,
    nn.RNNBase: _recurrent,
}


def _refresh(module: nn.Module, node: Node | None) -> None:
    for kind, follow in _ATTRIBUTES.items():
        if isinstance(module, kind):
            follow(module, node)


__all__ = ["bindings", "tensors_of", "update_from", "write_back"]
