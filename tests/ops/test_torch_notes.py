"""Notes of torch in ONNX metadata."""

import json

import pytest
import torch

from graphopt.errors import LoadError
from graphopt.ir import Node, Origin, Parameter, Value
from graphopt.ops import torch_notes


@pytest.mark.parametrize(
    "parameter",
    [
        Parameter("a.b.weight"),
        Parameter("w", ("v",), places=(0, 3)),
        Parameter("x", ("y", "z"), buffer=True, persistent=False, requires_grad=False),
    ],
)
def test_a_parameter_comes_back(parameter):
    value = Value.constant(torch.ones(2))
    value.parameter = parameter
    metadata = {"mine": "kept", **dict(torch_notes.value_notes(value))}
    again = Value.constant(torch.ones(2))
    torch_notes.read_value_notes(again, metadata)
    assert again.parameter == parameter
    assert metadata == {"mine": "kept"}


def test_an_origin_comes_back():
    node = Node("Relu", name="r", origin=Origin("layer.0", ("r", "s"), ("fuse", "prune")))
    metadata = dict(torch_notes.node_notes(node))
    again = Node("Relu", name="r")
    torch_notes.read_node_notes(again, metadata)
    assert again.origin == node.origin
    assert not metadata


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", json.dumps({"name": 'x"); import os; ("'}), json.dumps({"name": "a\nb"}), json.dumps({"nome": "x"}),
        json.dumps({"name": "a.__class__.b"}), json.dumps({"name": "forward"}), json.dumps({"name": 3}),
        json.dumps({"name": "w", "aliases": ["v"], "places": [0, 1.5]}),
    ],
)  # fmt: skip
def test_damaged_or_hostile_notes_are_refused(text):
    with pytest.raises(LoadError, match=torch_notes.PARAMETER):
        torch_notes.read_value_notes(Value.constant(torch.ones(2)), {torch_notes.PARAMETER: text})


@pytest.mark.parametrize("text", ["{", '{"a": 1}', '["a", 1]', "3"])
def test_damaged_origins_are_refused(text):
    with pytest.raises(LoadError, match=r"not a list of strings|Expecting"):
        torch_notes.read_node_notes(Node("Relu", name="r"), {torch_notes.SOURCES: text})


def test_a_calling_convention_of_other_inputs_is_ignored():
    from graphopt.frontends import capture

    graph = capture(torch.nn.Linear(3, 2), (torch.ones(1, 3),))
    text = torch_notes.signature_note(graph.signature)
    assert torch_notes.read_signature_note(text, 1, 1) == graph.signature
    assert torch_notes.read_signature_note(text, 2, 1) is None
    with pytest.raises(LoadError, match=torch_notes.SIGNATURE):
        torch_notes.read_signature_note('{"in_tree": 3}', 1, 1)
