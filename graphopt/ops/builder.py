"""Making nodes: ``b.Conv(x, w, strides=[1, 1])`` inserts a node, with its output types, and returns its value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, overload

import numpy as np
import torch

from graphopt.errors import OptionError
from graphopt.ir import Attribute, DType, Graph, Node, Origin, Parameter, Value
from graphopt.ops.update import infer_node

#: What stands for an input: a value, nothing, or what `Builder.constant` takes.
Operand: TypeAlias = Value | torch.Tensor | np.ndarray | int | Sequence[int] | None


class _Emit(Protocol):
    @overload
    def __call__(
        self, *inputs: Operand, outputs: int, domain: str = ..., name: str = ..., **attributes: Attribute
    ) -> list[Value]: ...
    @overload
    def __call__(self, *inputs: Operand, domain: str = ..., name: str = ..., **attributes: Attribute) -> Value: ...


class Builder:
    """Inserts nodes into a graph, one after the other, and infers their output types at once.

    Args:
        graph: where to.
        before: insert in front of this node of `graph`; at the end by default.
        origin: provenance of every node that is made.

    Attributes:
        nodes: the nodes made, in order.
        constants: the constants made, in order.

    Example:
        >>> b = Builder(graph)
        >>> y = b.Relu(b.Conv(x, w, strides=[1, 1]))
        >>> first, second = b.Split(y, axis=1, num_outputs=2, outputs=2)
    """

    def __init__(self, graph: Graph, before: Node | None = None, origin: Origin | None = None) -> None:
        self.graph = graph
        self.before = before
        self.origin = origin or Origin()
        self.nodes: list[Node] = []
        self.constants: list[Value] = []

    def __getattr__(self, op: str) -> _Emit:
        if not op[:1].isupper():
            raise AttributeError(f"Builder has no attribute '{op}', and operators start with a capital letter")

        def emit(*inputs: Operand, **keywords: Any) -> Any:
            return self(op, *inputs, **keywords)

        return emit

    @overload
    def __call__(
        self, op: str, *inputs: Operand, outputs: int, domain: str = ..., name: str = ..., **attributes: Attribute
    ) -> list[Value]: ...

    @overload
    def __call__(
        self, op: str, *inputs: Operand, domain: str = ..., name: str = ..., **attributes: Attribute
    ) -> Value: ...

    def __call__(
        self,
        op: str,
        *inputs: Operand,
        outputs: int | None = None,
        domain: str = "",
        name: str = "",
        **attributes: Attribute,
    ) -> Value | list[Value]:
        """Makes a node and returns its output, or the list of its outputs when their number is given.

        Args:
            op: operator.
            inputs: values; ``None`` for one that is left out; a tensor, integer or list of integers becomes a constant.
            outputs: number of outputs.
            domain: dialect of the operator.
            name: label of the node.
            attributes: of the node. Attributes that are ``None`` are left out.

        Raises:
            ShapeError: the inputs do not fit the operator. The node has not been inserted.
        """
        values = [v if v is None or isinstance(v, Value) else self.constant(v) for v in inputs]
        while values and values[-1] is None:
            values.pop()
        given = {key: value for key, value in attributes.items() if value is not None}
        node = Node(op, values, given, outputs or 1, domain=domain, name=name, origin=self.origin)
        infer_node(node)
        self.insert(node)
        return node.output if outputs is None else list(node.outputs)

    def like(self, node: Node, *inputs: Operand, **attributes: Attribute) -> Value:
        """Makes a node with the operator and attributes of `node`, some of them changed, and returns its first output.

        Args:
            node: the example.
            inputs: as above.
            attributes: in place of the example's; ``None`` leaves one out.
        """
        changed: dict[str, Any] = {**node.attributes, **attributes}
        made: list[Value] = self(node.op, *inputs, outputs=len(node.outputs), domain=node.domain, **changed)
        return made[0]

    def insert(self, node: Node) -> Node:
        """Links a detached node in."""
        if self.before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self.before, node)
        self.nodes.append(node)
        return node

    def constant(
        self,
        data: torch.Tensor | np.ndarray | float | Sequence[int],
        *,
        like: Value | None = None,
        dtype: DType | None = None,
        name: str = "",
        parameter: Parameter | None = None,
    ) -> Value:
        """Adds a constant.

        Args:
            data: a tensor, which is shared and not copied; or numbers, which become int64.
            like: take the element type of this value (tensors are cast).
            dtype: element type where the tensor's own does not tell it (int4 carried as int8, ...).
            name: label.
            parameter: what it is in its module.

        Raises:
            OptionError: numbers that are no integers, without `like` to say what they are.
        """
        tensor = self._tensor(data, like)
        kind = like.dtype if dtype is None and like is not None else dtype
        value = self.hold(tensor, kind, name, parameter)
        self.constants.append(value)
        return value

    def hold(self, tensor: torch.Tensor, dtype: DType | None, name: str, parameter: Parameter | None) -> Value:
        """Puts a constant where this builder keeps them."""
        return self.graph.add_constant(tensor, name, parameter=parameter, dtype=dtype)

    @staticmethod
    def _tensor(data: Any, like: Value | None) -> torch.Tensor:
        if isinstance(data, np.ndarray):
            data = torch.from_numpy(np.ascontiguousarray(data)).reshape(data.shape)
        if isinstance(data, torch.Tensor):
            return data if like is None else data.to(like.dtype.torch)
        if like is not None:
            return torch.tensor(data, dtype=like.dtype.torch)
        numbers = data if isinstance(data, Sequence) else [data]
        if not all(isinstance(number, int) for number in numbers):
            raise OptionError(
                f"the constant {data} is not made of integers", hint="give a tensor, or like=VALUE for its element type"
            )
        return torch.tensor(data, dtype=torch.int64)

    def in_module(self, path: str) -> None:
        """Makes the nodes that follow belong to the module at `path`."""
        self.origin = replace(self.origin, module=path)

    def discard(self) -> None:
        """Takes everything that was made out of the graph again; nothing else may read it by now."""
        for node in reversed(self.nodes):
            if node.graph is not None:
                node.graph.erase(node)
        for value in reversed(self.constants):
            if value.graph is not None and not value.uses:
                value.graph.remove_constant(value)
        self.nodes, self.constants = [], []


__all__ = ["Builder", "Operand"]
