"""Arguments and results of an emitted module, in the structure that the captured module had."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import fx
from torch.utils import _pytree as pytree

from graphopt.backends.torch_leaf import expect, or_default
from graphopt.ir import Leaf, Signature, Value

if TYPE_CHECKING:
    from graphopt.backends.torch_emit import Emitter

_LITERALS = (bool, int, float, str, type(None))


def placeholders(emitter: Emitter, captured: Sequence[Value]) -> None:
    """Writes the arguments; binds the graph's inputs to them, or to what is inside them."""
    signature = emitter.graph.signature
    if signature is None:
        _flat(emitter, captured)
        return
    arguments = _arguments(signature)
    defaults = _trailing_literals(arguments)
    nodes = []
    for position, (name, _, leaves) in enumerate(arguments):
        if position >= len(arguments) - defaults:
            nodes.append(emitter.fx.placeholder(name, default_value=leaves[0].literal))
        else:
            nodes.append(emitter.fx.placeholder(name))
    left = set(range(len(emitter.graph.inputs)))
    for (name, spec, leaves), node in zip(arguments, nodes, strict=True):
        stream = iter(leaves)
        _unpack(emitter, node, spec, stream, name)
        left -= {leaf.index for leaf in leaves if leaf.index is not None}
    for index in sorted(left):  # an input that a pass has added
        _bind(emitter, emitter.graph.inputs[index], emitter.fx.placeholder(emitter.graph.inputs[index].name))


def _flat(emitter: Emitter, captured: Sequence[Value]) -> None:
    pairs = []
    values = [*emitter.graph.inputs, *captured]
    required = [value for value in values if not (value.is_input and value.data is not None)]
    for value in required:
        pairs.append((value, emitter.fx.create_node("placeholder", _identifier(value.name))))
    for value in emitter.graph.inputs:
        if value.data is not None:
            name = _identifier(value.name)
            pairs.append((value, emitter.fx.create_node("placeholder", name, (None,))))
    for value, node in pairs:
        # fx names a placeholder's parameter by its target, and keeps only the node's name unique.
        node.target = node.name
        if value.is_input and value.graph is emitter.graph and value.data is not None:
            node = emitter.call(or_default, node, emitter.buffer(value.data, value.name + "_default"))
        _bind(emitter, value, node)


def _identifier(name: str) -> str:
    text = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
    return text if text.isidentifier() else f"input_{text}".rstrip("_")


def _bind(emitter: Emitter, value: Value, node: fx.Node) -> None:
    emitter.env[value] = node
    emitter.sizes.bind(value, node)


Argument = tuple[str, Any, list[Leaf]]


def _arguments(signature: Signature) -> list[Argument]:
    """Name, structure and leaves of each argument."""
    positional, keywords = children(signature.in_tree)
    specs = [*children(positional), *children(keywords)]
    count = len(children(positional))
    names = [
        name if name.isidentifier() else f"arg_{index}"
        for index, name in enumerate((*signature.argument_names[:count], *[""] * count)[:count])
    ]
    names += [str(name) for name in keywords.context or ()]
    stream = iter(signature.inputs)
    return [
        (name, spec, [next(stream) for _ in range(spec.num_leaves)]) for name, spec in zip(names, specs, strict=True)
    ]


def _trailing_literals(arguments: Sequence[Argument]) -> int:
    count = 0
    for _, spec, leaves in reversed(arguments):
        if not spec.is_leaf() or leaves[0].index is not None or not isinstance(leaves[0].literal, _LITERALS):
            break
        count += 1
    return count


def children(spec: Any) -> Sequence[Any]:
    """The children of a ``TreeSpec``, in every version of torch."""
    found: Sequence[Any] = spec.children() if hasattr(spec, "children") else spec.children_specs
    return found


def _unpack(emitter: Emitter, node: fx.Node, spec: Any, leaves: Iterator[Leaf], name: str) -> None:
    if spec.is_leaf():
        leaf = next(leaves)
        if leaf.index is not None:
            _bind(emitter, emitter.graph.inputs[leaf.index], node)
            return
        check = emitter.call(expect, node, leaf.literal, name)
        check.meta["check"] = True
        return
    if issubclass(spec.type, (list, tuple)):
        keys: Sequence[Any] = range(spec.num_children)
    elif issubclass(spec.type, dict):
        keys = spec.context[1] if spec.type.__name__ == "defaultdict" else spec.context
    else:
        flat = emitter.call(pytree.tree_leaves, node)
        for index in range(spec.num_leaves):
            item = emitter.call(operator.getitem, flat, index)
            _unpack(emitter, item, pytree.tree_flatten(0)[1], leaves, f"{name}.{index}")
        return
    for key, child in zip(keys, children(spec), strict=True):
        _unpack(emitter, emitter.call(operator.getitem, node, key), child, leaves, f"{name}[{key!r}]")


def output(emitter: Emitter, always_tuple: bool = False) -> None:
    """Writes the result."""
    graph = emitter.graph
    nodes = [emitter.tensor(value) for value in graph.outputs]
    if graph.signature is None:
        emitter.fx.output(tuple(nodes) if always_tuple or len(nodes) != 1 else nodes[0])
        return
    leaves = (_result(emitter, leaf, nodes) for leaf in graph.signature.outputs)
    emitter.fx.output(_build(emitter, graph.signature.out_tree, leaves))


def _result(emitter: Emitter, leaf: Leaf, nodes: Sequence[fx.Node]) -> Any:
    if leaf.index is None:
        return leaf.literal
    return emitter.method("item", nodes[leaf.index]) if leaf.number else nodes[leaf.index]


def _build(emitter: Emitter, spec: Any, leaves: Iterator[Any]) -> Any:
    if spec.is_leaf():
        return next(leaves)
    if spec.type in (list, tuple, dict) and _is_plain(spec):
        items = [_build(emitter, child, leaves) for child in children(spec)]
        return dict(zip(spec.context, items, strict=True)) if spec.type is dict else spec.type(items)
    key = f"_out_spec_{len(emitter.specs)}"
    emitter.specs[key] = spec
    items = [next(leaves) for _ in range(spec.num_leaves)]
    return emitter.call(pytree.tree_unflatten, items, emitter.fx.create_node("get_attr", key))


def _is_plain(spec: Any) -> bool:
    return spec.type is not dict or all(isinstance(key, str) for key in spec.context)


__all__ = ["children", "output", "placeholders"]
