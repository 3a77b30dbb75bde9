"""Torch modules over more than tensors: strings, sequences, optionals, types in attributes, functions of a model."""

import copy
import pickle

import numpy as np
import onnx
import pytest
import torch

from graphopt import capture, load, parse, to_onnx, to_torch, write_back
from graphopt.errors import UnsupportedOperatorError
from graphopt.ir.text import print_graph
from graphopt.runtime import run
from graphopt.runtime.calls import call_flat


def parsed(body, opset=21, more=""):
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}{more}]>\n{body}')


STRINGS = """g (string[n] x) => (string[n] y, bool[n] same) {
    word = Constant <value_string = "b"> ()
    y = StringConcat (x, word)
    same = Equal (x, word)
}"""


@pytest.mark.parametrize("through", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_constant_strings_survive_copies(through):
    module = through(to_torch(load(parsed(STRINGS))))
    y, same = module(np.array(["a", "b"], dtype=object))
    assert y.tolist() == ["ab", "bb"]
    assert same.tolist() == [False, True]


def test_types_in_attributes_survive_copies():
    body = """g (bool c, float[2] x) => (bool has) {
        either = If (c) <then_branch = t () => (optional(float[2]) p) { p = Optional (x) },
                         else_branch = e () => (optional(float[2]) q)
                         { q = Optional <type: type_proto = float[2]> () }>
        has = OptionalHasElement (either)
    }"""
    module = copy.deepcopy(to_torch(load(parsed(body))))
    assert [bool(module(torch.tensor(c), torch.ones(2))) for c in (True, False)] == [True, False]


def test_sequences_in_and_out():
    body = """g (seq(float[?]) s, float[2] x) => (seq(float[?]) y, float[m] z) {
        y = SequenceInsert (s, x)
        z = ConcatFromSequence <axis = 0> (y)
    }"""
    module = to_torch(load(parsed(body)))
    items, joined = module([torch.zeros(1)], torch.ones(2))
    assert [each.tolist() for each in items] == [[0], [1, 1]]
    assert joined.tolist() == [0, 1, 1]


def test_an_optional_input_may_be_empty():
    graph = load(parsed("g (optional(float[2]) x) => (bool y) { y = OptionalHasElement (x) }"))
    assert not run(graph, [None])[0]
    assert not to_torch(graph)(None)
    assert run(graph, [torch.ones(2)])[0]


def test_functions_of_a_model_need_to_be_put_in_place():
    text = """<ir_version: 10, opset_import: ["" : 21, "mine" : 1]>
    g (float[2] x) => (float[2] y) { y = mine.twice (x) }
    <opset_import: ["" : 21], domain: "mine"> twice (a) => (b) { b = Add (a, a) }"""
    model = onnx.parser.parse_model(text)
    with pytest.raises(UnsupportedOperatorError, match="inline=True"):
        run(load(model), [torch.ones(2)])
    with pytest.raises(UnsupportedOperatorError, match="inline=True"):
        to_torch(load(model))
    assert to_torch(load(model, inline=True))(torch.ones(2)).tolist() == [2, 2]


# -- numbers among the results


class Numbers(torch.nn.Module):
    def forward(self, x):
        top = x.to(torch.int64).amax().item()
        return {"list": x[:, 0].tolist(), "sum": x.sum().item(), "top": top, "literal": 3, "y": x * 2,
                "more": (x.sum() > 0).item(), "tensor": x.sum()}  # fmt: skip


class Sizes(torch.nn.Module):
    def forward(self, x):
        return {"sum": x.sum().item(), "rows": x.shape[0], "twice": 2 * x.shape[0], "y": x + 1}


@pytest.mark.parametrize(("module", "dynamic"), [(Numbers(), None), (Sizes(), None), (Sizes(), {"x": {0: "n"}})])
@pytest.mark.parametrize(
    "through",
    [lambda g: g, lambda g: load(to_onnx(g)), lambda g: parse(print_graph(g, weights=True)), lambda g: g.clone()],
)
def test_what_the_module_gives_as_a_number_stays_one(module, dynamic, through):
    x = torch.arange(6.0).reshape(3, 2)
    graph = capture(module, (x,), dynamic=dynamic)
    want, got = module(x), to_torch(through(graph))(x)
    assert {name: type(item) for name, item in got.items()} == {name: type(item) for name, item in want.items()}
    for name, item in want.items():
        assert torch.equal(got[name], item) if torch.is_tensor(item) else got[name] == item
    tensors, computed = call_flat(module, graph, [x]), run(graph, [x])
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(tensors, computed, strict=True))


def test_weights_go_back_into_a_module_that_gives_numbers():
    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(2, 2)

        def forward(self, x):
            return self.fc(x).sum().item(), self.fc(x)

    module = Module()
    graph = capture(module, (torch.ones(3, 2),))
    value = next(value for value in graph.parameters if value.parameter.name == "fc.weight")
    value.data = value.data * 2
    write_back(graph, module)
    assert torch.equal(module.fc.weight, value.data)
