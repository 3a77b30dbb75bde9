"""Arguments of another type than the public functions take: an error of ours that says what was given."""

import re

import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.ir.text import read_text, write_text

X = torch.ones(2, 4)


@pytest.fixture(scope="module")
def graph():
    return go.capture(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), (X,))


@pytest.mark.parametrize("given", [None, 3, nn.ReLU(), "graph.txt", [1]])
@pytest.mark.parametrize(
    "function",
    [go.verify, go.to_graphsurgeon, go.to_onnx_ir, go.to_pt2e, go.to_torch, lambda g: go.update_from(g, nn.ReLU()),
     lambda g: go.write_back(g, nn.ReLU()), lambda g: write_text(g, "x.txt")],
)  # fmt: skip
def test_what_is_no_graph(function, given):
    with pytest.raises(go.GraphoptError, match=r"is no graph .*go\.capture\(module, args\) or go\.load\(path\)"):
        function(given)


@pytest.mark.parametrize("given", [None, 3, nn.ReLU, {"0.weight": X}])
@pytest.mark.parametrize("function", [go.update_from, go.write_back])
def test_what_is_no_module(function, given, graph):
    with pytest.raises(go.GraphoptError, match=r"is no torch module .*give a torch\.nn\.Module"):
        function(graph, given)
    with pytest.raises(go.GraphoptError, match="is no torch module"):
        getattr(graph, "update_from")(given)  # noqa: B009


@pytest.mark.parametrize(
    "function",
    [go.load, lambda p: go.load(b"x", folder=p), go.from_exported, go.capture, read_text,
     lambda p: go.save(go.Graph(), p), lambda p: write_text(go.Graph(), p),
     lambda p: go.optimize(go.Graph(), "simplify", data=p)],
)  # fmt: skip
@pytest.mark.parametrize("given", ["\0", "a\0b.onnx", "\ud800"])
def test_what_no_file_can_be_called(function, given):
    with pytest.raises(go.GraphoptError, match="no file can be called '") as caught:
        function(given)
    assert re.fullmatch("[ -~]*", str(caught.value))  # it can be printed anywhere


@pytest.mark.parametrize("given", [None, 3, [1]])
@pytest.mark.parametrize(
    "function",
    [lambda p: go.save(go.Graph(), p), lambda p: write_text(go.Graph(), p), read_text,
     lambda p: go.load(b"x", folder=p or 0)],
)  # fmt: skip
def test_what_is_no_path(function, given):
    with pytest.raises(go.GraphoptError, match="is no path"):
        function(given)


@pytest.mark.parametrize(
    ("given", "kind"), [(3, "an int"), (None, "None"), (b"graphopt 1", "a bytes"), (str, "the class str")]
)
def test_what_is_no_text(given, kind):
    with pytest.raises(go.GraphoptError, match=f"{kind} is no text"):
        go.parse(given)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"tolerance": "x"}, "tolerance is 'x'"), ({"seed": "x"}, "seed is 'x'"), ({"seed": 1 << 70}, "seed is 11805"),
     ({"evaluate": 3}, "evaluate is an int .*function that takes a graph"), ({"data": 3}, "an int is no data"),
     ({"data": [{3: X}]}, "array '3' names no input"), ({"data": [X.to_sparse()]}, r"is sparse .*to_dense\(\)")],
)  # fmt: skip
def test_options_of_optimize(arguments, words, graph):
    with pytest.raises(go.GraphoptError, match=words):
        go.optimize(graph, "quantize", **{"data": [X], **arguments})


def test_example_arguments(graph):
    with pytest.raises(go.GraphoptError, match=r"None is no set of example arguments \(at ReLU\); write \(x, y\)"):
        go.capture(nn.ReLU(), None)
    with pytest.raises(go.GraphoptError, match="an int is no set of example arguments"):
        go.capture(nn.ReLU(), (X,), 3)


def test_names_too_long_for_the_system(graph, tmp_path):
    with pytest.raises(go.GraphoptError, match="File name too long"):
        go.save(graph, tmp_path / ("a" * 300 + ".onnx"))
    with pytest.raises(go.GraphoptError, match="File name too long"):
        go.load(tmp_path / ("a" * 300 + ".onnx"))


def test_devices_are_no_models():
    with pytest.raises(go.GraphoptError, match="/dev/zero is a device, not a file"):
        go.load("/dev/zero")
