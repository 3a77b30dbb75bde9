"""Equal constants: one tensor serves all that read the same numbers."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch

from graphopt.ir import Graph, Value
from graphopt.ir.dense import flat
from graphopt.pipeline import Changes, Context, Pass, register


@register("share-constants")
@dataclass(frozen=True)
class ShareConstants(Pass):
    """Let equal small constants be one: shapes, axes, scalars.

    Parameters and buffers of a captured module stay apart: they may be trained apart. So do float vectors of an ONNX
    model (the zeros of several biases, say), because sharing them would tie the channels of those layers when they are
    pruned.

    Attributes:
        bytes: largest constant to look at.
        vectors: share float tensors of more than one element, too.
    """

    bytes: int = 4096
    vectors: bool = False

    def run(self, graph: Graph, context: Context) -> Changes:
        shared = self._visit(graph, {})
        return Changes(bool(shared), {"shared": shared})

    def _visit(self, graph: Graph, table: dict[Hashable, Value]) -> int:
        shared, added = 0, []
        for value in list(graph.constants):
            key = self._key(value)
            if key is None:
                continue
            first = table.setdefault(key, value)
            if first is value:
                added.append(key)
                continue
            value.replace_uses(first)
            graph.remove_constant(value)
            shared += 1
        for node in graph.nodes:
            shared += sum(self._visit(body, table) for body in node.bodies)
        for key in added:
            del table[key]
        return shared

    def _key(self, value: Value) -> Hashable | None:
        data = value.data
        if value.parameter is not None or data is None or data.is_meta or data.nbytes > self.bytes:
            return None
        if value.dtype.is_float and data.numel() > 1 and not self.vectors:
            return None
        raw = flat(data).view(torch.uint8).numpy().tobytes()
        return value.dtype, tuple(data.shape), raw
