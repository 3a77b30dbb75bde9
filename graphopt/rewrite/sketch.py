"""A builder whose nodes stay apart until a rule has made up its mind, so that one that declines leaves no trace."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from graphopt.ir import DType, Node, Parameter, TensorType, Value
from graphopt.ops.builder import Builder


class Sketch(Builder):
    """Makes nodes and constants that are not in the graph yet; `place` puts them there."""

    def insert(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    def hold(self, tensor: torch.Tensor, dtype: DType | None, name: str, parameter: Parameter | None) -> Value:
        kind = TensorType.of(tensor) if dtype is None else TensorType(dtype, tuple(tensor.shape))
        return Value(kind, name or (parameter.name if parameter else ""), tensor, parameter)

    def place(self, returned: Iterable[Value]) -> None:
        """Links the nodes in, and the constants that they, or the caller who gets them `returned`, read."""
        read = {*returned, *(value for node in self.nodes for value in node.inputs if value is not None)}
        for value in self.constants:
            if value in read:
                self.graph.add_constant(value)
        nodes, self.nodes = self.nodes, []
        for node in nodes:
            super().insert(node)

    def discard(self) -> None:
        self.nodes, self.constants = [], []
