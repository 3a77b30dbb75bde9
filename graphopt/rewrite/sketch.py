"""A builder whose nodes stay apart until a rule has made up its mind, so that one that declines leaves no trace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from graphopt.ir import DType, Node, Parameter, TensorType, Value
from graphopt.ops.builder import Builder


class Sketch(Builder):
    """Makes nodes and constants that are not in the graph yet; `place` puts them there."""

    def insert(self, node: Node) -> Node:
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
        tensor = self._tensor(data, like)
        kind = like.dtype if dtype is None and like is not None else dtype
        shape = TensorType.of(tensor) if kind is None else TensorType(kind, tuple(tensor.shape))
        value = Value(shape, name or (parameter.name if parameter else ""), tensor, parameter)
        self.constants.append(value)
        return value

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
