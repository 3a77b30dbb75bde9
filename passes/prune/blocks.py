"""Residual blocks: branches ``f`` of a sum ``x + f(x)`` that can be taken out, leaving ``x``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from graphopt.analysis.cost import UNIT, is_weight, node_cost
from graphopt.ir import Graph, Node, Value


@dataclass(frozen=True)
class Block:
    """A branch beside an identity.

    Attributes:
        add: the sum.
        place: number of its operand that stays.
        name: the module path that the branch shares; with the name of the sum where several blocks share it.
        branch: its operand that goes.
        nodes: what computes the branch from the skip, in graph order.
        weights: constants that nothing else reads.
    """

    add: Node
    place: int
    branch: Value
    nodes: tuple[Node, ...]
    weights: tuple[Value, ...]
    name: str = ""

    @property
    def params(self) -> int:
        """Elements of the weights that go with the block."""
        return sum(value.data.numel() for value in self.weights if value.data is not None)

    def macs(self, sizes: Mapping[str, int] = UNIT) -> int:
        """Multiply-accumulates that go with the block, at these sizes of named dimensions; the others count as 1."""
        return sum(node_cost(node, sizes).macs or 0 for node in self.nodes)

    def remove(self, graph: Graph) -> None:
        """Takes the branch out."""
        # Another block's removal may have put another value in the place of the skip.
        self.add.output.replace_uses(self.add.operand(self.place))
        graph.sweep([self.add.output])


def find_blocks(graph: Graph) -> list[Block]:
    """The residual blocks of `graph` with weights of their own, in graph order.

    A block is a sum of a value and of what is computed from it, of the same shape, where nothing but the sum reads the
    inside of the branch.
    """
    position = {node: number for number, node in enumerate(graph.nodes)}
    blocks = []
    for node in graph.nodes:
        if node.op != "Add" or node.domain or any(value is None for value in node.inputs):
            continue
        for place in (0, 1):
            block = _block(node, place, position)
            if block is not None:
                blocks.append(block)
                break
    paths = Counter(map(_path, blocks))
    return [replace(b, name=path if path and paths[path] == 1 else f"{path}:{b.add.output.name}".lstrip(":"))
            for b, path in zip(blocks, map(_path, blocks), strict=True)]  # fmt: skip


def _path(block: Block) -> str:
    origin = block.nodes[0].origin
    for node in block.nodes[1:]:
        origin = origin.merge(node.origin)
    return origin.module


def _block(add: Node, place: int, position: Mapping[Node, int]) -> Block | None:
    skip, branch = add.operand(place), add.operand(1 - place)
    if skip.is_constant or branch.producer is None or skip is branch or skip.type != add.output.type:
        return None
    start = -1 if skip.producer is None else position[skip.producer]
    behind = _behind(branch, start, position)
    inside = {skip}
    nodes = []
    for node in sorted(behind, key=lambda each: position[each]):
        if node.bodies:
            return None
        if any(value in inside for value in node.inputs):
            inside.update(node.outputs)
            nodes.append(node)
    members = {*nodes, add}
    if branch not in inside or any(use.user not in members for node in nodes for v in node.outputs for use in v.uses):
        return None
    own = dict.fromkeys(value for node in nodes for value in node.inputs if value is not None and is_weight(value))
    weights = tuple(value for value in own if all(use.user in members for use in value.uses))
    return Block(add, place, branch, tuple(nodes), weights) if weights else None


def _behind(value: Value, start: int, position: Mapping[Node, int]) -> set[Node]:
    """The nodes behind `start` that `value` is computed by."""
    found: set[Node] = set()
    pending = [value]
    while pending:
        node = pending.pop().producer
        if node is None or node in found or position[node] <= start:
            continue
        found.add(node)
        pending.extend(each for each in node.inputs if each is not None)
    return found
