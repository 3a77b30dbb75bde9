"""Torch operators carried as they are: the encoding of their arguments, and their record."""

import math

import pytest
import torch

from graphopt.errors import UnsupportedOperatorError
from graphopt.ir import Graph, Node, TensorType, Value
from graphopt.ops import execute, record_of
from graphopt.ops.aten import DOMAIN, function_of, name_of, pack, unpack


def is_value(item):
    return isinstance(item, Value)


def test_arguments_survive():
    a, b, n = Value(), Value(), Value()
    args = [a, 2, -1.5, True, None, "same", [b, None, [n, 3]], math.inf, 2 + 1j]
    kwargs = {
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "layout": torch.strided,
        "memory_format": torch.channels_last,
        "other": b,
    }
    operands, text = pack(args, kwargs, is_value, lambda item: item is n)
    assert operands == [a, b, n, b]
    tensors = [torch.zeros(1), torch.zeros(2), torch.tensor(5), torch.zeros(3)]
    positional, keywords = unpack(text, tensors)
    assert positional[0] is tensors[0]
    assert positional[1:6] == [2, -1.5, True, None, "same"]
    assert positional[6] == [tensors[1], None, [5, 3]]
    assert positional[7:] == [math.inf, 2 + 1j]
    assert keywords == {**kwargs, "other": tensors[3]}
    assert math.isnan(unpack(pack([math.nan], {}, is_value)[1], [])[0][0])


def test_arguments_that_cannot_be_written():
    with pytest.raises(TypeError, match="an argument of type Generator cannot be carried"):
        pack([torch.Generator()], {}, is_value)


def carried(op, overload, tensors, args, outputs=1):
    graph = Graph()
    values = [graph.add_input(f"x{i}", TensorType.of(tensor)) for i, tensor in enumerate(tensors)]
    return graph.append(Node(op, values, {"args": args}, outputs, domain=DOMAIN, overload=overload))


def test_execution():
    x = torch.randn(3, 4)
    node = carried("cummax", "default", [x], '{"args": [{"operand": 0}, 1], "kwargs": {}}', 2)
    torch.testing.assert_close(execute(node, [x]), tuple(torch.cummax(x, 1)))
    assert not record_of(node).random
    size = torch.tensor(2)
    node = carried("roll", "default", [x, size], '{"args": [{"operand": 0}, [{"size": 1}], [0]], "kwargs": {}}')
    torch.testing.assert_close(execute(node, [x, size]), (x.roll(2, 0),))
    node = carried("bernoulli", "p", [x], '{"args": [{"operand": 0}, 0.5], "kwargs": {}}')
    assert record_of(node).random


def test_names():
    assert name_of(torch.ops.aten.roll.default) == ("roll", "default")
    assert name_of(torch.ops.aten.add.Tensor) == ("add", "Tensor")
    assert name_of(torch.ops.prims.sin.default)[0] == "prims::sin"
    x = torch.zeros(1)
    assert function_of(carried("prims::sin", "default", [x], "")) is torch.ops.prims.sin.default


def test_an_operator_that_this_torch_lacks():
    with pytest.raises(UnsupportedOperatorError, match=r"has no operator nowhere::op\.default"):
        execute(carried("nowhere::op", "default", [], '{"args": [], "kwargs": {}}'), [])
