"""Shape propagation: types and small integer contents, kept current as the graph is edited.

The graph notes which nodes an edit may have touched; propagation recomputes these and, wherever a type changes, what
lies downstream. Nodes are taken in topological order, so each is recomputed once.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping

from graphopt.errors import ShapeError
from graphopt.ir import Graph, Node, TensorType
from graphopt.ir import dims as D
from graphopt.ops.update import infer_node, merge


def propagate(graph: Graph) -> int:
    """Brings the types in `graph` (bodies included) up to date; returns the number of nodes recomputed.

    A type that is already there (from the file, or from the tracer) is kept where the operator's rule knows less.

    Raises:
        ShapeError: the inputs of a node do not fit its operator.
    """
    root = graph.root
    done = 0
    for scope, nodes in _by_graph(root, root.take_dirty()).items():
        done += _propagate_in(scope, nodes)
    while root._dirty:
        done += propagate(root)
    return done


def propagate_all(graph: Graph) -> int:
    """Recomputes every node, whether touched or not."""
    root = graph.root
    root.take_dirty()
    for node in root.walk():
        root._mark(node)
    return propagate(root)


def bind(graph: Graph, sizes: Mapping[str, int]) -> None:
    """Replaces named dimensions of the graph's inputs by numbers and propagates them.

    Raises:
        ShapeError: a name that no input has, with the names that there are.
    """
    names = {n for v in graph.inputs for d in v.tensor_type.shape or () for n in D.free_names(d)}
    for name in sizes:
        if name not in names:
            known = f"there are: {', '.join(sorted(names))}" if names else "all dimensions are numbers"
            raise ShapeError(f"no input has a dimension named '{name}'", hint=known)
    inputs = (value for scope in graph.graphs() for value in scope.inputs)
    for value in itertools.chain(inputs, *(node.outputs for node in graph.walk())):
        kind = value.type
        if isinstance(kind, TensorType) and kind.shape is not None:
            value.type = kind.with_shape(D.substitute(d, sizes) for d in kind.shape)
        value.known = None
    propagate_all(graph)


def _by_graph(root: Graph, nodes: Iterable[Node]) -> dict[Graph, list[Node]]:
    """Groups nodes by the graph that they are linked into, outer graphs first."""
    groups: dict[Graph, list[Node]] = {}
    for node in nodes:
        if node.graph is not None and node.graph.root is root:
            groups.setdefault(node.graph, []).append(node)
    return dict(sorted(groups.items(), key=lambda item: _depth(item[0])))


def _depth(graph: Graph) -> int:
    depth = 0
    while graph.owner is not None and graph.owner.graph is not None:
        graph, depth = graph.owner.graph, depth + 1
    return depth


def _propagate_in(scope: Graph, nodes: Iterable[Node]) -> int:
    ticket = itertools.count()
    queue = [(node._order, next(ticket), node) for node in nodes]
    heapq.heapify(queue)
    queued = {node for _, _, node in queue}
    done = 0
    while queue:
        _, _, node = heapq.heappop(queue)
        queued.discard(node)
        if node.graph is not scope:
            continue
        done += 1
        for value in infer_node(node):
            for user in value.users:
                if user.graph is scope and user not in queued:
                    queued.add(user)
                    heapq.heappush(queue, (user._order, next(ticket), user))
        # Setting types marked the users; those of this scope are queued, others wait for the next round.
    root = scope.root
    for node in [n for n in root._dirty if n.graph is scope]:
        del root._dirty[node]
    return done


__all__ = ["bind", "infer_node", "merge", "propagate", "propagate_all"]
