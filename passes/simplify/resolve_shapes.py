"""Shape arithmetic: contents that shape propagation has found out become constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from graphopt.analysis import propagate
from graphopt.ir import Dim, DType, Graph, Node, Value
from graphopt.ir import dims as D
from graphopt.ops import attribute
from graphopt.ops.builder import Builder
from graphopt.pipeline import Changes, Context, Pass, register
from graphopt.rewrite import replace, sweep


@register("resolve-shapes")
@dataclass(frozen=True)
class ResolveShapes(Pass):
    """Turn integer values whose contents are known into constants, and give Reshape constant shapes where it can.

    CastLike becomes Cast, since the element type is known, and no longer depends on the operand that showed it.
    A Reshape whose new shape has one symbolic dimension gets -1 for it; of several, those that stand where they stood
    in its input get 0.

    Attributes:
        bytes: largest constant to make.
    """

    bytes: int = 1024

    def run(self, graph: Graph, context: Context) -> Changes:
        propagate(graph)
        resolved = reshapes = casts = 0
        for node in graph.walk():
            if node.op == "Reshape" and not node.domain:
                reshapes += _fix_reshape(node)
            elif node.op == "CastLike" and not node.domain and node.output.dtype is not DType.UNDEFINED:
                casts += _name_type(node)
            for value in node.outputs:
                resolved += self._resolve(value)
        counts = {"constants": resolved, "reshapes": reshapes, "casts": casts}
        return Changes(any(counts.values()), counts)

    def _resolve(self, value: Value) -> bool:
        known, graph = value.known, value.graph
        # Float contents are left to constant folding, which knows whether they depend on a trainable parameter.
        if known is None or graph is None or not value.uses or value.dtype.is_float or value.dtype is DType.UNDEFINED:
            return False
        if not all(isinstance(element, int) for element in known.flat):
            return False
        data = torch.tensor(list(known.flat), dtype=torch.int64).to(value.dtype.torch).reshape(known.shape)
        if data.nbytes > self.bytes:
            return False
        constant = graph.add_constant(data, value.name, dtype=value.dtype)
        replace([value], [constant])
        return True


def _name_type(node: Node) -> bool:
    """Puts a Cast in the place of a CastLike."""
    graph = node.graph
    if graph is None:
        return False
    origin = node.origin.touched_by(ResolveShapes.name)
    builder = Builder(graph, node, origin)
    cast = builder.Cast(node.operand(0), to=int(node.output.dtype), saturate=node.attributes.get("saturate"))
    replace(node.outputs, [cast], fresh=[] if cast.producer is None else [cast.producer])
    return True


def _fix_reshape(node: Node) -> bool:
    shape = node.input(1)
    if shape is None or shape.is_constant:
        return False
    target = reshape_target(node.operand(0).shape, node.output.shape)
    if target is None or node.graph is None:
        return False
    if attribute(node, "allowzero"):  # the new shape has no zero that means one
        del node.attributes["allowzero"]
    node.set_input(1, node.graph.add_constant(torch.tensor(target, dtype=torch.int64)))
    sweep([shape])
    return True


def reshape_target(source: Sequence[Dim] | None, target: Sequence[Dim] | None) -> list[int] | None:
    """A constant shape with which Reshape turns `source` into `target`; ``None`` when there is none."""
    if target is None or any(dim == 0 for dim in target):
        return None
    open_dims = [i for i, dim in enumerate(target) if not isinstance(dim, int)]
    if len(open_dims) > 1 and source is not None:
        open_dims = [i for i in open_dims if i >= len(source) or not D.same(source[i], target[i])]
    if len(open_dims) > 1:
        return None
    written = [dim if isinstance(dim, int) else 0 for dim in target]
    for i in open_dims:
        written[i] = -1
    return written
