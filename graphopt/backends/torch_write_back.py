"""Pruned weights into the user's own module, in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphopt.backends.torch_sync import bindings, tensors_of
from graphopt.errors import GraphoptError, PassError
from graphopt.ir import Graph, Node
from graphopt.ir.expect import expect_graph, expect_module
from graphopt.ops import attribute, record_of
from graphopt.runtime.compare import compare
from graphopt.runtime.executor import run
from graphopt.runtime.samples import runnable_inputs

_HINT = "write_back is for passes that only shrink parameters; take the whole module from to_torch instead"
# Far above what another order of additions makes of float32, far below what a wrong channel does.
_TOLERANCE = 1e-3


def write_back(graph: Graph, module: nn.Module, *, example: Sequence[torch.Tensor] | None = None) -> None:
    """Puts the graph's weights into the module that it was captured from, in place, shrinking its layers.

    Parameters and buffers get the graph's shapes and contents; ``out_channels``, ``num_features``, ``groups`` and so on
    follow. Parameters stay the same objects where their shape stays; where it does not, they are new ones without
    gradients (an optimizer over the old ones has to be made anew). Graph and module are then run and compared, because
    a module can hold sizes in its own code that no parameter tells.

    Args:
        graph: captured from `module`; passes may have changed shapes and contents of its parameters, nothing else.
        module: the user's module.
        example: graph inputs to compare with; random ones, with 2 for every open dimension, by default.

    Raises:
        GraphoptError: the graph is no longer the module with smaller parameters: some have vanished or are new,
            quantization was inserted, or the module's code does not fit. The module is then as it was.
    """
    expect_graph(graph, "write_back")
    expect_module(module, "write_back")
    _require_same_structure(graph, module)
    before = _Snapshot(module)
    try:
        _write(graph, module)
        _compare(graph, module, example)
    except BaseException:  # also an interrupt must not leave half of the weights
        before.restore()
        raise


def _require_same_structure(graph: Graph, module: nn.Module) -> None:
    if graph.signature is None:
        raise GraphoptError("cannot write back: the graph was not captured from a module", hint=_HINT)
    have = tensors_of(module)
    named = {n: v for v in graph.parameters if v.parameter for n in (v.parameter.name, *v.parameter.aliases)}
    gone = [name for name in have if name not in named]
    new = [prefix + key for prefix, binding in bindings(graph) for key in binding.keys if prefix + key not in have]
    for names, what in ((gone, "no longer in the graph"), (new, "new in the graph")):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise GraphoptError(f"cannot write back what is {what}: {shown}", hint=_HINT)
    for node in graph.walk():
        if not node.domain and node.op in ("QuantizeLinear", "DequantizeLinear"):
            raise GraphoptError("cannot write back: the graph is quantized", where=node.describe(), hint=_HINT)
    for name, value in named.items():
        if value.data is not None and value.data.dim() != have[name].dim():
            shapes = f"{list(have[name].shape)} in the module and {list(value.data.shape)} in the graph"
            raise GraphoptError(f"cannot write back: '{name}' is {shapes}", hint=_HINT)


class _Snapshot:
    """Everything about a module that `write_back` changes."""

    def __init__(self, module: nn.Module) -> None:
        self._modules = [(m, dict(m.__dict__), dict(m._parameters), dict(m._buffers)) for m in module.modules()]
        self._contents = [(tensor, tensor.data) for tensor in tensors_of(module).values()]

    def restore(self) -> None:
        for module, attributes, parameters, buffers in self._modules:
            for name, tensor in (*parameters.items(), *buffers.items()):
                setattr(module, name, tensor)  # a recurrent layer keeps a list of its own, which this updates
            for name, value in attributes.items():
                if name not in ("_parameters", "_buffers"):
                    module.__dict__[name] = value
        for tensor, contents in self._contents:
            tensor.data = contents


def _write(graph: Graph, module: nn.Module) -> None:
    readers = _readers(graph)
    resized: set[str] = set()
    for value in graph.parameters:
        parameter, data = value.parameter, value.data
        if parameter is None or data is None:
            continue
        names = (parameter.name, *parameter.aliases)
        if _assign(module, names, data):
            resized.update(name.rpartition(".")[0] for name in names)
    for path in sorted(resized):
        layer = module.get_submodule(path)
        for kind, follow in _ATTRIBUTES.items():
            if isinstance(layer, kind):
                follow(layer, readers.get(path))


def _readers(graph: Graph) -> dict[str, Node]:
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
        old.data = new.clone()  # not copied into: a graph may share the old contents
        return False
    tensor = nn.Parameter(new.clone(), old.requires_grad) if isinstance(old, nn.Parameter) else new.clone()
    for name in names:
        path, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(path), leaf, tensor)
    return True


def _compare(graph: Graph, module: nn.Module, example: Sequence[torch.Tensor] | None) -> None:
    """Raises GraphoptError unless module and graph compute the same."""
    records = [record_of(node) for node in graph.walk() if node.op != "Dropout"]
    if any(record is not None and record.random for record in records):
        return
    try:
        made = runnable_inputs(graph) if example is None else None
        inputs = list(example or ()) if made is None else made.inputs
        want = run(graph, inputs) if made is None else made.results
    except PassError as error:
        raise GraphoptError(
            f"cannot write back: the graph does not run on {'made-up inputs' if example is None else 'the example'}: "
            f"{error.what}", where=error.where, hint="say example=[...] with inputs of a size that the module takes",
        ) from error  # fmt: skip
    modes = [(m, m.training) for m in module.modules()]
    try:
        got = _call(graph, module.eval(), inputs)
    except Exception as error:  # the user's code may raise anything
        raise GraphoptError(
            f"cannot write back: the module fails with its new parameters ({type(error).__name__}: {error})",
            hint="its code holds sizes of its own (a view, a number of heads); take the module from to_torch instead",
        ) from error
    finally:
        for each, mode in modes:
            each.training = mode
    if not compare(got, want).within(_TOLERANCE):
        raise GraphoptError(
            "cannot write back: with the graph's parameters the module computes something else than the graph",
            hint=_HINT,
        )


def _call(graph: Graph, module: nn.Module, inputs: Sequence[torch.Tensor]) -> list[Any]:
    """Calls the module as it was captured, and gives the graph's outputs."""
    signature = graph.signature
    assert signature is not None
    device = next((t.device for t in tensors_of(module).values()), torch.device("cpu"))
    leaves = [leaf.literal if leaf.index is None else inputs[leaf.index].to(device) for leaf in signature.inputs]
    args, kwargs = pytree.tree_unflatten(leaves, signature.in_tree)
    with torch.no_grad():
        result = pytree.tree_leaves(module(*args, **kwargs))
    found: dict[int, Any] = {}
    for leaf, item in zip(signature.outputs, result, strict=True):
        if leaf.index is not None:
            found[leaf.index] = torch.as_tensor(item, dtype=graph.outputs[leaf.index].dtype.torch).cpu()
    return [found[index] for index in range(len(graph.outputs))]


# -- what follows from the shapes of parameters


def _conv(module: Any, node: Node | None) -> None:
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    if node is not None:
        module.groups = attribute(node, "group")
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
        module.num_groups = attribute(node, "num_groups")


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


__all__ = ["write_back"]
