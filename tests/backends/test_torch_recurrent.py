"""Recurrent layers as torch modules: which initial states are zeros that nobody needs to hand over."""

import pytest
import torch
from torch import nn

from graphopt.backends import to_torch
from graphopt.runtime.executor import run
from tests.passes.rule_cases import Draft


def _expanded(d, batch):
    return d.Expand(d.full(0, 1, 1, 1), d.Concat(d.constant([1]), batch, d.constant([4]), axis=0))


def _filled(number):
    def state(d, batch):
        shape = d.Concat(d.constant([1]), batch, d.constant([4]), axis=0)
        return d.ConstantOfShape(shape, value=None if number is None else torch.tensor([number]))

    return state


def _given(d, batch):
    return d.input(1, "n", 4)


def emitted(state):
    """A GRU over [3, n, 2] from `state`, as a graph and as the module that torch gets."""
    d = Draft()
    x = d.input(3, "n", 2)
    batch = d.Shape(x, start=1, end=2)
    weights = d.weight(1, 12, 2), d.weight(1, 12, 4), d.weight(1, 24)
    d.output(*d.GRU(x, *weights, None, state(d, batch), hidden_size=4, linear_before_reset=1, outputs=2))
    return d.graph, to_torch(d.graph)


@pytest.mark.parametrize(
    ("state", "handed_over"),
    [(_expanded, 0), (_filled(None), 0), (_filled(0.0), 0), (_filled(1.0), 1), (_given, 1)],
    ids=["expanded zeros", "default fill", "zeros", "ones", "given"],
)
def test_states(state, handed_over):
    graph, module = emitted(state)
    [gru] = [layer for layer in module.modules() if isinstance(layer, nn.GRU)]
    [call] = [
        node for node in module.graph.nodes if node.op == "call_module" and module.get_submodule(node.target) is gru
    ]
    assert len(call.args) == 1 + handed_over
    inputs = [torch.randn(3, 5, 2), *([torch.randn(1, 5, 4)] if state is _given else [])]
    torch.testing.assert_close(list(module(*inputs)), run(graph, inputs))
