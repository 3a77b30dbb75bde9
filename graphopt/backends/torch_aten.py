"""Torch operators that the graph carries as they are: emitted exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import fx
from torch.fx.node import map_aggregate

from graphopt.ir import Node, Value
from graphopt.ops.aten import function_of, unpack

if TYPE_CHECKING:
    from graphopt.backends.torch_emit import Emitter


def emit_aten(emitter: Emitter, node: Node) -> fx.Node:
    """The call that was captured, with the sizes among its arguments as integers."""

    def size(value: Value) -> Any:
        known = emitter.sizes.contents(value)
        return emitter.method("item", emitter.tensor(value)) if known is None else known[0]

    args, kwargs = unpack(node.attributes["args"], node.inputs, size)

    def place(item: Any) -> Any:
        return emitter.tensor(item) if isinstance(item, Value) else item

    function = function_of(node)
    return emitter.call(function, *map_aggregate(tuple(args), place), **map_aggregate(kwargs, place))


def gives_tuple(node: Node) -> bool:
    """Whether the torch operator returns several tensors, or a list of them."""
    returns = function_of(node)._schema.returns
    return len(returns) != 1 or str(returns[0].type).startswith("List")


__all__ = ["emit_aten", "gives_tuple"]
