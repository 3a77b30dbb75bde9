"""Linear layers side by side: several that read the same value become one, whose output is split."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cmp_to_key, reduce

import torch

from graphopt.analysis import propagate
from graphopt.ir import Graph, Node, Origin, Value
from graphopt.ops import attribute, record_of
from graphopt.ops.builder import Builder
from graphopt.passes.fuse.linear import is_add
from graphopt.pipeline import Changes, Context, Pass, register
from graphopt.rewrite import replace

_CONV = ("group", "kernel_shape", "strides", "pads", "dilations", "auto_pad")


@dataclass(frozen=True)
class _Branch:
    """One of the layers.

    Attributes:
        node: Conv, Gemm or MatMul.
        weight, bias: constants.
        last: the node whose output is the layer's: the Add behind a MatMul with a bias.
    """

    node: Node
    weight: Value
    bias: Value | None
    last: Node

    @property
    def nodes(self) -> int:
        return 1 if self.last is self.node else 2

    @property
    def axis(self) -> int:
        """Dimension of the output channels in the weight."""
        return 0 if self.node.op == "Conv" or bool(self.node.attributes.get("transB")) else 1


@register("fuse-parallel")
@dataclass(frozen=True)
class FuseParallel(Pass):
    """Merge parallel convolutions, or matrix products, of one input into one, where that leaves fewer nodes.

    The query, key and value of attention, say; an activation behind all of them is applied once. Contract: exact.
    Conditions: constant weights (and biases) that nothing else reads, and that are no parameters of a module captured
    from torch, which would lose them; the same attributes; no groups.
    """

    looks_for = frozenset({"Conv", "Gemm", "MatMul"})

    def run(self, graph: Graph, context: Context) -> Changes:
        propagate(graph)
        merged = 0
        for scope in list(graph.graphs()):
            values = [*scope.inputs, *(value for node in scope for value in node.outputs)]
            merged += sum(self._visit(value) for value in values if len(value.uses) > 1)
        return Changes(bool(merged), {"merged": merged})

    def _visit(self, x: Value) -> int:
        groups: dict[Hashable, list[_Branch]] = {}
        for node in x.users:
            branch = _branch(node, x)
            if branch is not None:
                groups.setdefault(_kind(branch), []).append(branch)
        return sum(self._merge(x, branches) for branches in groups.values())

    def _merge(self, x: Value, branches: Sequence[_Branch]) -> int:
        has_bias = branches[0].bias is not None
        after = 2 if branches[0].nodes == 1 else 3
        if sum(branch.nodes for branch in branches) <= after:
            return 0
        branches = sorted(branches, key=cmp_to_key(_in_order))
        first, graph = branches[0].node, branches[0].node.graph
        if graph is None:
            return 0
        origin = reduce(Origin.merge, (branch.node.origin for branch in branches)).touched_by(self.name)
        op = Builder(graph, first, origin)
        weight = op.constant(torch.cat([_data(branch.weight) for branch in branches], branches[0].axis))
        bias = op.constant(torch.cat([_data(b.bias) for b in branches if b.bias is not None])) if has_bias else None
        if branches[0].nodes == 2:
            y = op.Add(op.MatMul(x, weight), bias)
        else:
            y = op.like(first, x, weight, bias)
        readers = _activations(branches)
        if readers:
            y = op.like(readers[0], y)
        axis = 1 if first.op == "Conv" else (y.rank or 0) - 1
        sizes = [_data(branch.weight).shape[branch.axis] for branch in branches]
        parts = op.Split(y, sizes, axis=axis, outputs=len(sizes))
        replaced = [node.output for node in readers or [branch.last for branch in branches]]
        replace(replaced, parts, fresh=op.nodes[-1:], keep=lambda value: False)
        return len(branches)


def _in_order(a: _Branch, b: _Branch) -> int:
    return -1 if a.node.is_before(b.node) else 1


def _data(value: Value | None) -> torch.Tensor:
    assert value is not None and value.data is not None, "branches have constant weights"
    return value.data


def _branch(node: Node, x: Value) -> _Branch | None:
    if (
        node.domain
        or node.op not in ("Conv", "Gemm", "MatMul")
        or node.operand(0) is not x
        or node.graph is not x.graph
    ):
        return None
    weight, bias, last = node.operand(1), node.input(2), node
    if weight is x or not _is_own(weight) or not node.output.dtype.is_float:
        return None
    if node.op == "MatMul":
        if weight.rank != 2 or (x.rank or 0) < 2:
            return None
        bias, last = _added(node)
    elif bias is not None and not _is_own(bias):
        return None
    branch = _Branch(node, weight, bias, last)
    channels = _data(weight).shape[branch.axis]
    if bias is not None and tuple(_data(bias).shape) != (channels,):
        return None
    if node.op == "Conv" and attribute(node, "group") != 1:
        return None
    return branch


def _activations(branches: Sequence[_Branch]) -> list[Node]:
    """The activations behind the branches, one each, where all apply the same one; else none."""
    found: list[Node] = []
    for branch in branches:
        users = branch.last.output.users
        if len(branch.last.output.uses) != 1 or len(users) != 1 or users[0].graph is not branch.node.graph:
            return []
        found.append(users[0])
    record, first = record_of(found[0]), found[0]
    if record is None or not record.elementwise or first.domain:
        return []
    same = all((n.op, n.domain, n.attributes) == (first.op, "", first.attributes) for n in found)
    return found if same and all(len(n.inputs) == 1 and len(n.outputs) == 1 for n in found) else []


def _is_own(value: Value) -> bool:
    return value.is_constant and value.parameter is None and value.data is not None and len(value.uses) == 1


def _added(matmul: Node) -> tuple[Value | None, Node]:
    """The bias that is added to a MatMul, and the node that does it."""
    users = matmul.output.users
    if len(matmul.output.uses) != 1 or not users or not is_add(users[0]) or users[0].graph is not matmul.graph:
        return None, matmul
    others = [value for value in users[0].inputs if value is not None and value is not matmul.output]
    if len(others) != 1 or not _is_own(others[0]) or others[0].rank != 1:
        return None, matmul
    return others[0], users[0]


def _kind(branch: _Branch) -> Hashable:
    node = branch.node
    if node.op == "Conv":
        own: tuple[Hashable, ...] = tuple(str(node.attributes.get(name)) for name in _CONV)
        own = (*own, tuple(_data(branch.weight).shape[1:]))
    elif node.op == "Gemm":
        own = tuple(attribute(node, name) for name in ("alpha", "beta", "transA", "transB"))
    else:
        own = ()
    return node.op, branch.weight.dtype, branch.bias is None, branch.nodes, own
