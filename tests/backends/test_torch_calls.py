"""Functions: what they read like, that they compute what the records do, and that sizes stay open."""

import inspect
import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graphopt.analysis.shapes import propagate
from graphopt.backends import to_torch
from graphopt.backends.torch_calls import CALLS
from graphopt.frontends.capture import capture
from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.ops import operators
from graphopt.runtime import run


def constant(graph, data):
    return graph.add_constant(data if isinstance(data, torch.Tensor) else torch.tensor(data))


def one_node(op, inputs, shapes=None, outputs=1, **attributes):
    """A graph of one operator: tensors are graph inputs, lists and numbers constants; and example inputs."""
    graph, values, feed = Graph(), [], []
    for item in inputs:
        if item is None:
            values.append(None)
        elif isinstance(item, torch.Tensor):
            shape = (shapes or {}).get(len(feed), tuple(item.shape))
            values.append(graph.add_input(f"x{len(feed)}", TensorType.make(DType.of(item.dtype), shape)))
            feed.append(item)
        else:
            values.append(constant(graph, item))
    node = graph.append(Node(op, values, attributes, outputs))
    for index, value in enumerate(node.outputs):
        graph.add_output(value, f"y{index}")
    return graph, feed


def check(graph, feed):
    module = to_torch(graph)
    got = module(*feed)
    for mine, theirs in zip(got if isinstance(got, tuple) else (got,), run(graph, feed), strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5, equal_nan=True)
    return module


def calls(module):
    return [node.target for node in module.graph.nodes if node.op in ("call_function", "call_method")]


torch.manual_seed(0)
X = torch.randn(2, 3, 4, 6)
INTS = torch.arange(-6, 6).reshape(3, 4)
BIG = 2**63 - 1

FORMS = [
    ("Reshape", [X, [2, -1, 6]], {}, ["reshape"]),
    ("Reshape", [X, [0, 12, 6]], {}, ["reshape"]),
    ("Flatten", [X], {}, [torch.flatten]),
    ("Flatten", [X], {"axis": 2}, ["reshape"]),
    ("Transpose", [X], {"perm": (0, 1, 3, 2)}, ["transpose"]),
    ("Transpose", [X], {"perm": (0, 2, 3, 1)}, ["permute"]),
    ("Transpose", [X], {}, ["permute"]),
    ("Squeeze", [X[:1], [0]], {}, ["squeeze"]),
    ("Squeeze", [X[:1, :1], [0, -3]], {}, ["squeeze"]),
    ("Unsqueeze", [X, [0, -1]], {}, ["unsqueeze", "unsqueeze"]),
    ("Expand", [X[:, :1], [1, 5, 1, 1]], {}, ["expand"]),
    ("Expand", [X[0, 0, 0, 0], torch.zeros(0, dtype=torch.int64)], {}, ["expand"]),
    ("Slice", [X, [1, -5], [BIG, -1], [1, 3], [1, 2]], {}, [operator.getitem]),
    ("Concat", [X, X + 1], {"axis": 1}, [torch.cat]),
    ("Gather", [X, 2], {"axis": 1}, ["select"]),
    ("Gather", [X, -1], {"axis": 3}, ["select"]),
    ("Gather", [X, [1, 2]], {"axis": 1}, ["narrow"]),
    ("Gather", [X, [2, 0]], {"axis": 1}, ["index_select"]),
    ("Pad", [X, [0, 0, 1, 2, 0, 0, 3, 0], 1.5], {}, [F.pad]),
    ("Pad", [X, [0, 0, 0, 0, 0, 0, 0, 0]], {}, []),
    ("Pad", [X, [1, 2], None, [3]], {"mode": "reflect"}, [F.pad]),
    ("Pad", [X, [0, 0, 1, 2, 0, 0, 1, 1]], {"mode": "edge"}, [F.pad]),
    ("Tile", [X, [1, 2, 1, 3]], {}, ["repeat"]),
    ("ConstantOfShape", [[2, 3]], {"value": torch.tensor([7])}, [torch.full]),
    ("Range", [1, 7, 2], {}, [torch.arange]),
    ("DepthToSpace", [torch.randn(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}, [F.pixel_shuffle]),
    ("Shape", [X], {}, [getattr, torch.tensor]),
    ("Add", [X, 2.0], {}, [operator.add]),
    ("Sub", [1.0, X], {}, [operator.sub]),
    ("Div", [X, [[4.0]]], {}, [operator.truediv]),
    ("Pow", [X, 2.0], {}, [operator.pow]),
    ("Greater", [X, 0.0], {}, [operator.gt]),
    ("Clip", [X, 0.0, 6.0], {}, [torch.clamp]),
    ("Clip", [X, None, 1.0], {}, [torch.clamp]),
    ("Cast", [X], {"to": DType.FLOAT64}, ["to"]),
    ("Where", [X > 0, X, 0.0], {}, [torch.where]),
    ("ReduceMean", [X, [2, 3]], {}, ["mean"]),
    ("ReduceSum", [X, [-1]], {"keepdims": 0}, ["sum"]),
    ("ReduceMax", [X], {"keepdims": 0}, ["amax"]),
    ("Relu", [X], {}, [torch.relu]),
    ("Softmax", [X], {"axis": 1}, [torch.softmax]),
    ("MatMul", [X, X.transpose(2, 3)], {}, [torch.matmul]),
    ("Gemm", [X[0, 0], X[1, 0], torch.randn(4)], {"transB": 1}, [F.linear]),
    ("Conv", [X, torch.randn(5, 3, 2, 2), torch.randn(5)], {"pads": (0, 1, 1, 1)}, [F.pad, F.conv2d]),
    ("LayerNormalization", [X, torch.randn(6), torch.randn(6)], {"axis": -1}, [F.layer_norm]),
    ("MaxPool", [X], {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "strides": (2, 2)}, [F.max_pool2d]),
    ("MaxPool", [X], {"kernel_shape": (2, 2), "dilations": (1, 2), "ceil_mode": 1}, [F.max_pool2d]),
    ("AveragePool", [X], {"kernel_shape": (3, 2), "pads": (1, 0, 1, 0)}, [F.avg_pool2d]),
    ("AveragePool", [X], {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "count_include_pad": 1}, [F.avg_pool2d]),
    ("GlobalAveragePool", [X], {}, [F.adaptive_avg_pool2d]),
    ("Attention", [X, X + 1, X - 1], {}, [F.scaled_dot_product_attention]),
    ("Attention", [X, X + 1, X - 1], {"is_causal": 1, "scale": 0.3}, [F.scaled_dot_product_attention]),
    ("Attention", [X, X, X, torch.randn(4, 4)], {}, [F.scaled_dot_product_attention]),
    ("Resize", [X, None, [1.0, 1.0, 2.0, 3.0]],
     {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, [F.interpolate]),
    ("Resize", [X, None, None, [2, 3, 5, 7]], {"mode": "linear"}, [F.interpolate]),
    ("Resize", [X, None, None, [2, 3, 8, 3]],
     {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, [F.interpolate]),
    ("Resize", [X, None, None, [2, 3, 8, 12]], {"mode": "cubic"}, [F.interpolate]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "expected"), FORMS, ids=[f"{i}-{f[0]}" for i, f in enumerate(FORMS)]
)
def test_form(op, inputs, attributes, expected):
    module = check(*one_node(op, inputs, **attributes))
    assert calls(module) == expected


def test_split():
    graph, feed = one_node("Split", [X, [1, 2]], outputs=2, axis=1)
    assert calls(check(graph, feed)) == ["split", operator.getitem, operator.getitem]
    graph, feed = one_node("Split", [X], outputs=3, axis=3, num_outputs=3)
    assert calls(check(graph, feed))[0] == "split"


# What torch's own functions would get wrong goes to the record.
FALLBACKS = [
    ("Add", [INTS, 2.0 * torch.ones(3, 4)], None),
    ("Div", [INTS, 4], {}),
    ("Slice", [X, [-1], [-100], [3], [-2]], {}),
    ("Gather", [X, [-1, 0]], {"axis": 2}),
    ("Pad", [X, [1, 0, 0, 0, 0, 0, 0, 1]], {"mode": "reflect"}),
    ("AveragePool", [X], {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "strides": (2, 2), "ceil_mode": 1}),
    ("MaxPool", [X], {"kernel_shape": (2, 2), "pads": (0, 0, 1, 1)}),
    ("MaxPool", [X], {"kernel_shape": (3, 3), "auto_pad": "SAME_UPPER", "strides": (2, 2)}),
    ("Conv", [X, torch.randn(5, 3, 3, 3)], {"auto_pad": "SAME_LOWER", "strides": (2, 2)}),
    ("DepthToSpace", [torch.randn(1, 8, 2, 3)], {"blocksize": 2}),
    ("Gemm", [X[0, 0], X[1, 0].t(), torch.randn(4, 4)], {"alpha": 0.5}),
    ("Gemm", [X[0, 0], X[1, 0], torch.randn(1)], {"transB": 1}),
    ("ReduceMean", [INTS, [1]], {}),
    ("ReduceL2", [X, [1]], {}),
    ("Cast", [X * 300], {"to": DType.UINT8}),
    ("Resize", [X, None, [1.0, 1.0, 1.5, 1.5]], {"mode": "linear"}),
    ("Attention", [X, X[:, :, :3], X[:, :, :3], torch.zeros(4, 2)], {"is_causal": 0}),
    ("TopK", [X, [2]], {"axis": 1, "outputs": 2}),
    ("CumSum", [X, 1], {}),
    ("Trilu", [X, 1], {}),
    ("HardSigmoid", [X], {"alpha": 0.3}),
    ("Celu", [X], {"alpha": 0.7}),
    ("Mod", [INTS, 4], {}),
    ("ArgMax", [X], {"axis": 1}),
    ("GatherElements", [X, torch.zeros(2, 1, 4, 6, dtype=torch.int64)], {"axis": 1}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"), [f for f in FALLBACKS if f[2] is not None],
    ids=[f"{i}-{f[0]}" for i, f in enumerate(FALLBACKS) if f[2] is not None],
)  # fmt: skip
def test_everything_else_is_the_records_computation(op, inputs, attributes):
    check(*one_node(op, inputs, **attributes))


def test_shapes_computed_from_data_still_work():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2, 6)))
    shape = graph.add_input("shape", TensorType.make(DType.INT64, (2,)))
    graph.add_output(graph.add("Reshape", x, shape), "y")
    module = to_torch(graph)
    assert module(torch.randn(2, 6), torch.tensor([3, -1])).shape == (3, 4)


def arity_of(record):
    try:
        parameters = inspect.signature(record.compute).parameters.values()
    except ValueError:  # functions of torch itself
        return 2 if record.name in ("And", "Or", "Xor", "BitwiseAnd", "BitwiseOr", "BitwiseXor") else 1
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    return sum(p.default is p.empty and p.kind is not p.KEYWORD_ONLY for p in parameters)


def test_inline_computations_can_all_be_traced():
    """A record that says so has no control flow on values inside."""
    seen = 0
    for record in operators():
        if not record.inline or record.domain or record.name in CALLS or not record.elementwise:
            continue
        arity = arity_of(record)
        logical = record.name in ("Not", "And", "Or", "Xor")
        integer = record.name.startswith("Bitwise") or record.name == "Mod"
        sample = torch.rand(3, 4) + 1
        sample = sample > 1.5 if logical else INTS.abs() + 1 if integer else sample
        check(*one_node(record.name, [sample] * arity))
        seen += 1
    assert seen > 30


# -- open sizes


class Sizes(nn.Module):
    def forward(self, x, y):
        batch, length, width = x.shape
        heads = x.view(batch, length, 2, width // 2).transpose(1, 2)
        flat = heads.reshape(batch * 2, length, width // 2)
        rows = torch.arange(length) * 2
        tail = flat[:, : length - 1] + y[: length - 1, None]
        grown = torch.cat([tail, x.new_zeros(2 * batch, 1, width // 2)], 1) + rows[:, None]
        mean = grown.sum(1) / length
        return mean.reshape(batch, -1).unsqueeze(1).expand(batch, length, width), torch.ones(batch, length + 2)


def test_sizes_are_read_off_the_inputs():
    x, y = torch.randn(3, 5, 8), torch.randn(5)
    graph = capture(Sizes(), (x, y), dynamic={"x": {0: "batch", 1: "length"}, "y": {0: "length"}})
    module = to_torch(graph)
    assert "batch = x.size(0)" in module.code
    assert "graphopt" not in module.code
    for batch, length in ((1, 2), (3, 5), (4, 9)):
        inputs = torch.randn(batch, length, 8), torch.randn(length)
        for got, want in zip(module(*inputs), Sizes()(*inputs), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    length = torch.export.Dim("length", min=3, max=64)
    dynamic = {"x": {0: torch.export.Dim("batch"), 1: length}, "y": {0: length}}
    program = torch.export.export(module, (x, y), dynamic_shapes=dynamic)
    inputs = torch.randn(2, 7, 8), torch.randn(7)
    torch.testing.assert_close(program.module()(*inputs)[0], Sizes()(*inputs)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("expression", "sizes", "expected"),
    [
        ("2*n + 1", {"n": 5}, 11),
        ("n - 1", {"n": 5}, 4),
        ("1 - n", {"n": 5}, -4),
        ("n*m", {"n": 5, "m": 3}, 15),
        ("n**3", {"n": 2}, 8),
        ("floor(n/2) + 1", {"n": 5}, 3),
        ("ceiling(n/2)", {"n": 5}, 3),
        ("n/2", {"n": 6}, 3),
        ("n/2 - m/2", {"n": 7, "m": 3}, 2),
        ("Max(n, m, 4)", {"n": 5, "m": 7}, 7),
        ("Min(n, m + 1)", {"n": 5, "m": 7}, 5),
        ("Mod(n, 3)", {"n": 5}, 2),
        ("floor((n - 3)/2)*m", {"n": 10, "m": 2}, 6),
    ],
)
def test_expressions_of_sizes(expression, sizes, expected):
    from torch import fx

    from graphopt.backends.torch_sizes import Sizes as Written
    from graphopt.ir.dims import parse_dim

    graph = Graph()
    value = graph.add_input("x", TensorType.make(DType.FLOAT32, tuple(sizes)))
    written = fx.Graph()
    sizes_of = Written(written)
    sizes_of.bind(value, written.placeholder("x"))
    written.output(sizes_of.dim(parse_dim(expression)))
    module = fx.GraphModule(nn.Module(), written)
    assert module(torch.empty(*sizes.values())) == expected


def test_a_size_that_no_input_tells_is_computed():
    """NonZero makes a dimension of its own: the reshape goes by the tensor of sizes."""
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, ("n",)))
    found = graph.add("NonZero", x)
    shape = graph.add("Shape", found)
    graph.add_output(graph.add("Reshape", graph.add("Cast", found, to=DType.FLOAT32), shape), "y")
    propagate(graph)
    assert to_torch(graph)(torch.tensor([0.0, 1.0, 2.0])).tolist() == [[1.0, 2.0]]


def test_carried_torch_operators_are_called_exactly():
    class Special(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x).view(x.shape[0], -1), torch.linalg.eigvalsh(x @ x.transpose(1, 2))

    x = torch.randn(2, 3, 3)
    graph = capture(Special(), (x,), dynamic={"x": {0: "batch"}})
    assert any(node.domain == "aten" for node in graph.nodes)
    module = to_torch(graph)
    assert torch.ops.aten.special_bessel_j0.default in calls(module)
    x = torch.randn(4, 3, 3)
    torch.testing.assert_close(module(x), Special()(x))


def test_carried_operators_with_several_results():
    class Sorted(nn.Module):
        def forward(self, x):
            values, counts = torch.unique_consecutive(x, return_counts=True)
            return torch.linalg.qr(torch.diag(x))[1], values.sum(), counts.sum()

    x = torch.tensor([1.0, 1.0, 3.0])
    module = to_torch(capture(Sorted(), (x,)))
    torch.testing.assert_close(module(x), Sorted()(x))
