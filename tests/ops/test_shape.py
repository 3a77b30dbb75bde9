"""Shape, Size, Range against ONNX Runtime, and the data propagation of shape arithmetic."""

import numpy as np
import pytest
import torch

from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.ir import dims as D
from graphopt.ops import execute
from graphopt.ops.infer import static_integers
from graphopt.ops.update import infer_node
from tests.ops.oracle import check

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("attributes", [{}, {"start": 1}, {"end": -1}, {"start": -2, "end": 3}, {"start": 3, "end": 1}])
def test_shape(attributes):
    check("Shape", [array(2, 3, 0, 4)], symbolic={0: ("a", "b", 0, "c")}, **attributes)


@pytest.mark.parametrize("shape", [(), (2, 3), (0, 4)])
def test_size(shape):
    check("Size", [array(*shape)])


@pytest.mark.parametrize(
    ("start", "limit", "delta", "dtype"),
    [(0, 5, 1, np.int64), (5, 0, -2, np.int64), (3, 3, 1, np.int64), (0, -1, 1, np.int32), (1, 2, 0.25, np.float32),
     (2.5, 0.2, -0.7, np.float64)],
)  # fmt: skip
def test_range(start, limit, delta, dtype):
    check("Range", [np.array(n, dtype) for n in (start, limit, delta)], constant=[0, 1, 2])


class Chain:
    """Builds shape arithmetic on x [batch, 12, seq, 64] and runs rules and computations over it."""

    def __init__(self, *shape):
        self.graph = Graph()
        self.x = self.graph.add_input("x", TensorType.make(DType.FLOAT32, shape or ("batch", 12, "seq", 64)))

    def ints(self, *items):
        return self.graph.add_constant(torch.tensor(items, dtype=torch.int64))

    def number(self, item):
        return self.graph.add_constant(torch.tensor(item, dtype=torch.int64))

    def add(self, op, *inputs, **attributes):
        value = self.graph.add(op, *inputs, **attributes)
        infer_node(value.producer)
        return value

    def run(self, value, **sizes):
        env = {v: v.data for v in self.graph.constants}
        env[self.x] = torch.randn([D.substitute(d, sizes) for d in self.x.shape])
        for node in self.graph.nodes:
            results = execute(node, [None if v is None else env[v] for v in node.inputs])
            env.update(zip(node.outputs, results, strict=True))
        return env[value]


def texts(known):
    return [D.format_dim(D.normalise(d)) for d in known.flat]


def test_shape_chain_resolves():
    c = Chain()
    shape = c.add("Shape", c.x)
    batch = c.add("Gather", shape, c.number(0))
    seq = c.add("Squeeze", c.add("Slice", shape, c.ints(2), c.ints(3), c.ints(0)), c.ints(0))
    parts = [c.add("Unsqueeze", v, c.ints(0)) for v in (batch, seq)]
    target = c.add("Concat", parts[0], parts[1], c.ints(-1), axis=0)
    assert texts(target.known) == ["batch", "seq", "-1"]
    y = c.add("Reshape", c.add("Transpose", c.x, perm=(0, 2, 1, 3)), target)
    assert list(map(D.format_dim, y.shape)) == ["batch", "seq", "768"]
    assert c.run(y, batch=2, seq=5).shape == (2, 5, 768)


def test_contents_pass_through_views():
    c = Chain()
    shape = c.add("Shape", c.x)
    assert texts(c.add("Reshape", shape, c.ints(2, 2)).known) == ["batch", "12", "seq", "64"]
    matrix = c.add("Reshape", shape, c.ints(2, -1))
    assert matrix.known.shape == (2, 2)
    assert texts(c.add("Transpose", matrix, perm=(1, 0)).known) == ["batch", "seq", "12", "64"]
    assert texts(c.add("Flatten", matrix, axis=0).known) == ["batch", "12", "seq", "64"]
    assert texts(c.add("Slice", shape, c.ints(-1), c.ints(-100), c.ints(0), c.ints(-2)).known) == ["64", "12"]
    assert texts(c.add("Gather", matrix, c.ints(1, 0), axis=1).known) == ["12", "batch", "64", "seq"]
    assert texts(c.add("Tile", shape, c.ints(2)).known) == ["batch", "12", "seq", "64"] * 2
    assert texts(c.add("Expand", c.add("Gather", shape, c.ints(2)), c.ints(3)).known) == ["seq"] * 3
    assert texts(c.add("Pad", shape, c.ints(1, 2)).known) == ["0", "batch", "12", "seq", "64", "0", "0"]
    assert texts(c.add("ScatterND", shape, c.graph.add_constant(torch.tensor([[1]])), c.ints(7)).known) == [
        "batch", "7", "seq", "64",
    ]  # fmt: skip


def test_contents_of_split_and_size():
    c = Chain()
    shape = c.add("Shape", c.x)
    node = c.graph.append(Node("Split", [shape, c.ints(1, 3)], outputs=2))
    infer_node(node)
    assert [texts(v.known) for v in node.outputs] == [["batch"], ["12", "seq", "64"]]
    assert texts(c.add("Size", c.x).known) == ["768*batch*seq"]


def test_partly_known_contents():
    c = Chain("batch", None, 64)
    shape = c.add("Shape", c.x)
    target = c.add("Concat", c.add("Gather", shape, c.ints(1)), c.ints(8, 8), axis=0)
    assert texts(target.known) == ["?", "8", "8"]
    unknown = c.graph.add_input("n", TensorType.make(DType.INT64, (1,)))
    assert texts(c.add("Concat", unknown, c.ints(4), axis=0).known) == ["?", "4"]


def test_constants_of_a_known_shape():
    c = Chain()
    three = c.add("ConstantOfShape", c.ints(3), value=torch.tensor([7]))
    assert texts(three.known) == ["7"] * 3
    assert texts(c.add("Range", c.number(0), c.number(6), c.number(2)).known) == ["0", "2", "4"]
    assert texts(c.add("NonZero", c.ints(0, 3, 0, 1)).known) == ["1", "3"]
    assert static_integers(c.add("Constant", value_ints=(1, 2))) == [1, 2]
    assert c.add("ConstantOfShape", c.ints(3)).known is None, "floats are not tracked"
    assert c.add("Expand", c.ints(1), c.ints(100000)).known is None, "large tensors are not tracked"


def test_range_over_a_symbolic_size():
    c = Chain()
    seq = c.add("Gather", c.add("Shape", c.x), c.number(2))
    y = c.add("Range", c.number(0), seq, c.number(1))
    assert texts(np.array(y.shape, dtype=object)) == ["seq"]
    zeros = c.add("ConstantOfShape", c.add("Shape", c.x), value=torch.zeros(1))
    assert list(map(D.format_dim, zeros.shape)) == ["batch", "12", "seq", "64"]
