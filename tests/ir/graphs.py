"""Random graphs and random edits for the property tests."""

import random

import numpy as np
import torch

from graphopt.ir import (
    DType,
    Graph,
    MapType,
    ModelInfo,
    Node,
    OptionalType,
    Origin,
    Parameter,
    SequenceType,
    TensorType,
    Use,
    Value,
)
from graphopt.ir.literals import EmptyList, SparseTensor, TypedTensor

NAMES = ("", "", "x", "x", "y", "conv:0", "/layer/Conv_output_0", "7", 'q"uo\\te', "naïve\n", "a#2", "none", "return")
DIMS = (1, 2, 7, None, "batch", "2*seq", "floor(seq/2) + 1", "batch*seq", '"odd name"', "Max(1, seq - 3)")
TYPES = (
    TensorType(),
    TensorType(DType.FLOAT32, None),
    TensorType(DType.INT64, (3,), sparse=True),
    SequenceType(TensorType(DType.FLOAT16, (2, None))),
    OptionalType(SequenceType(TensorType(DType.STRING, ()))),
    MapType(DType.INT64, TensorType(DType.FLOAT32, None)),
)


def random_type(rng: random.Random):
    if rng.random() < 0.3:
        return rng.choice(TYPES)
    return TensorType.make(rng.choice(list(DType)), [rng.choice(DIMS) for _ in range(rng.randrange(4))])


def random_tensor(rng: random.Random) -> torch.Tensor:
    dtype = rng.choice([d for d in DType if d not in (DType.UNDEFINED, DType.STRING)]).torch
    shape = [rng.choice((0, 1, 2, 3)) for _ in range(rng.randrange(4))]
    count = int(np.prod(shape)) * dtype.itemsize
    raw = torch.tensor([rng.randrange(2 if dtype == torch.bool else 256) for _ in range(count)], dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


ATTRIBUTES = (
    lambda rng: rng.randrange(-5, 1 << 40),
    lambda rng: rng.choice((0.1, -0.0, 1e300, float("nan"), float("-inf"), 3.0)),
    lambda rng: rng.random() < 0.5,
    lambda rng: rng.choice(('a "string"\n\\', b"\x00\xff", (), DType.FLOAT16, EmptyList("FLOATS"))),
    lambda rng: [1, 2, [3.5, "x"]],
    lambda rng: random_tensor(rng),
    lambda rng: np.array(["s", b"\xff"], dtype=object),
    lambda rng: random_type(rng),
    lambda rng: TypedTensor(torch.tensor([1, -2], dtype=torch.int8), DType.INT4),
    lambda rng: SparseTensor(torch.tensor([1.5]), torch.tensor([[0, 1]]), (2, 3), DType.FLOAT32),
)


def random_attribute(rng: random.Random):
    return rng.choice(ATTRIBUTES)(rng)


def random_constant(rng: random.Random, graph: Graph, number: int) -> Value:
    name = rng.choice(NAMES)
    kind = rng.randrange(4)
    if kind == 0:
        strings = np.array(["a", "b\n", b"\xfe"][: rng.randrange(4)], dtype=object)
        return graph.add_constant(strings, name)
    if kind == 1:
        return graph.add_constant(torch.tensor([-8, 7], dtype=torch.int8), name, dtype=DType.INT4)
    parameter = None
    if kind == 2:
        flags = [rng.random() < 0.5 for _ in range(3)]
        parameter = Parameter(
            f"p{number}.{id(graph)}", (f"alias{number}.{id(graph)}",) * flags[0], flags[1], True, flags[2]
        )
    return graph.add_constant(random_tensor(rng), name, parameter=parameter)


def random_node(rng: random.Random, readable: list[Value], depth: int) -> Node:
    inputs = [rng.choice([None, *readable]) for _ in range(rng.randrange(4))]
    attributes = {f"a{i}": random_attribute(rng) for i in range(rng.randrange(3))}
    if depth and rng.random() < 0.25:
        attributes["body"] = random_graph(rng, readable, depth - 1)
    if depth and rng.random() < 0.1:
        attributes["branches"] = [random_graph(rng, readable, depth - 1) for _ in range(2)]
    node = Node(
        rng.choice(("Relu", "Conv", "weird op", "name")), inputs, attributes, rng.choice((0, 1, 1, 1, 2, 3)),
        domain=rng.choice(("", "", "com.microsoft", "my domain")), overload=rng.choice(("", "", "default")),
        name=rng.choice(NAMES), origin=Origin(rng.choice(("", "a.b")), ("s",) * rng.randrange(3), ("p",)),
    )  # fmt: skip
    for value in node.outputs:
        value.name = rng.choice(NAMES)
        value.type = random_type(rng)
        if rng.random() < 0.1:
            value.doc = "a value"
            value.metadata["k"] = "v"
    if rng.random() < 0.1:
        node.doc, node.metadata = "line\nline", {"key": "value"}
    return node


def random_graph(rng: random.Random, outer: list[Value] | None = None, depth: int = 2) -> Graph:
    graph = Graph(rng.choice(("main", "g h")))
    readable = list(outer or ())
    for index in range(rng.randrange(3)):
        default = torch.tensor([0.5, 1.5]) if rng.random() < 0.3 else None
        kind = TensorType.make(DType.FLOAT32, ("n",)) if default is not None else random_type(rng)
        readable.append(graph.add_input(f"in:{index}", kind, default=default))
    readable += [random_constant(rng, graph, number) for number in range(rng.randrange(3))]
    for _ in range(rng.randrange(7)):
        readable += graph.append(random_node(rng, readable, depth)).outputs
    for index in range(rng.randrange(3)):
        if readable:
            graph.add_output(rng.choice(readable), f"out {index}")
    if outer is None:
        graph.doc, graph.metadata = rng.choice(("", "doc")), rng.choice(({}, {"a": "b"}))
        graph.model = ModelInfo(opset=rng.choice((0, 17)), domains={"d": 1}, functions=(b"\x01",))
    return graph


def _visible(node: Node | None, graph: Graph) -> list[Value]:
    """What may be read just before `node`, or at the end of `graph`."""
    found = [*graph.inputs, *graph.constants]
    for each in graph.nodes:
        if each is node:
            break
        found += each.outputs
    if graph.owner is not None and graph.owner.graph is not None:
        found += _visible(graph.owner, graph.owner.graph)
    return found


def _erase(rng: random.Random, graph: Graph) -> None:
    unread = [n for n in graph.nodes if not any(v.uses for v in n.outputs)]
    if unread:
        node = rng.choice(unread)
        graph.erase(node)
        if rng.random() < 0.5:  # put it back somewhere else, changed while it was detached
            if node.inputs:
                node.set_input(0, rng.choice([None, *graph.inputs]))
            node.name = "moved"
            node.attributes["moved"] = 1
            for value in node.outputs:
                value.name = "moved"
            for body in node.bodies:
                body.name = "of a moved node"
                body.metadata["m"] = "n"
            if any(v not in set(_visible(None, graph)) for v in [*node.inputs] if v is not None):
                node.set_inputs([])
            if not node.bodies:
                graph.append(node)


def _inputs(rng: random.Random, graph: Graph) -> None:
    for node in graph.nodes:
        if node.inputs and rng.random() < 0.4:
            readable = [None, *_visible(node, graph)]
            node.set_input(rng.randrange(len(node.inputs)), rng.choice(readable))
        elif rng.random() < 0.1:
            node.set_inputs([v for v in node.inputs if v is not None] * 2)


def _insert(rng: random.Random, graph: Graph) -> None:
    nodes = list(graph.nodes)
    anchor = rng.choice(nodes) if nodes else None
    new = random_node(rng, _visible(anchor, graph), 1)
    if anchor is None:
        graph.prepend(new)
    else:
        graph.insert_before(anchor, new)
        graph.insert_after(anchor, random_node(rng, _visible(anchor, graph), 0))


def _outputs(rng: random.Random, graph: Graph) -> None:
    readable = _visible(None, graph)
    if graph.outputs and readable:
        graph.set_input(rng.randrange(len(graph.outputs)), rng.choice(readable))
    if readable:
        graph.add_output(rng.choice(readable), f"new {len(graph.outputs)}")
    if rng.random() < 0.3:
        graph.set_outputs(graph.outputs[::-1], graph.output_names[::-1])


def _sources(rng: random.Random, graph: Graph) -> None:
    graph.add_input(f"new {len(graph.inputs)} {rng.random()}", index=rng.randrange(len(graph.inputs) + 1))
    random_constant(rng, graph, graph.version)
    for value in [v for v in graph.inputs if not v.uses][:1]:
        graph.remove_input(value)
    for value in [v for v in graph.constants if not v.uses][:1]:
        graph.remove_constant(value)
        value.name = "removed"


def _labels(rng: random.Random, graph: Graph) -> None:
    graph.name, graph.doc = "renamed", "told"
    graph.root.model.domains["new"] = 7
    for node in graph.nodes:
        if rng.random() < 0.4:
            node.op, node.name, node.doc, node.overload = "Other", "n", "d", "o"
            node.metadata["x"] = "y"
            node.origin = node.origin.touched_by("labels")
            for value in node.outputs:
                value.type, value.name, value.doc = random_type(rng), "v", "d"
                value.metadata.update(z="z")
    for value in graph.constants:
        value.parameter = None
        if value.data is not None:
            value.data = value.data.clone()


def _attributes(rng: random.Random, graph: Graph) -> None:
    for node in graph.nodes:
        if node.attributes and rng.random() < 0.5:
            del node.attributes[rng.choice(list(node.attributes))]
        elif rng.random() < 0.5:
            node.attributes["new"] = random_attribute(rng)
        elif rng.random() < 0.3:
            node.attributes["body"] = random_graph(rng, _visible(node, graph), 0)


def _steal(rng: random.Random, graph: Graph) -> None:
    """A new node takes over the bodies of another, which is erased."""
    for node in [n for n in graph.nodes if n.bodies and not any(v.uses for v in n.outputs)][:1]:
        graph.insert_before(node, Node("Thief", node.inputs, node.attributes))
        graph.erase(node)


def _sweep(rng: random.Random, graph: Graph) -> None:
    graph.sweep([v for n in graph.nodes for v in n.outputs])


def _propagate(rng: random.Random, graph: Graph) -> None:
    graph.root.take_dirty()


def random_edit(rng: random.Random, graph: Graph) -> None:
    """One edit somewhere in the graph or its bodies that leaves it well-formed."""
    target = rng.choice(list(graph.graphs()))
    edits = (_erase, _inputs, _insert, _outputs, _sources, _labels, _attributes, _steal, _sweep, _propagate)
    rng.choice(edits)(rng, target)


def uses_from_inputs(graph: Graph) -> dict[Value, set[Use]]:
    """The uses as the inputs and outputs have them, found without looking at a `uses`."""
    found: dict[Value, set[Use]] = {}
    for scope in graph.graphs():
        for value in scope.values():
            found.setdefault(value, set())
        for node in scope.nodes:
            for index, value in enumerate(node.inputs):
                if value is not None:
                    found.setdefault(value, set()).add(Use(node, index))
        for index, value in enumerate(scope.outputs):
            found.setdefault(value, set()).add(Use(scope, index))
    return found
