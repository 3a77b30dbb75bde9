"""Every model of the zoo, captured and as torch.onnx.export writes it."""

import copy

import pytest
import torch
from torch.utils import _pytree as pytree

import graphopt as go
from graphopt.analysis.cost import Cost
from graphopt.ir import TensorType
from graphopt.models import ZOO, build
from graphopt.pipeline import Context, run_pipeline
from graphopt.pipeline.instruments import CostDelta, Equivalence, Verify
from graphopt.runtime import run
from graphopt.runtime.calls import call_flat
from graphopt.runtime.compare import compare
from graphopt.runtime.ort import OrtSession
from tests.zoo import captured

PIPELINES = ("prune-channels{ratio=0.5}", "prune-channels{ratio=0.4,scope=global,criterion=l2}")

# Where part of the network cannot be pruned, the reduction that the rest gives.
LESS = {
    "bert": 1.5,  # returns its hidden states, which freezes the width of the residual stream and of the embeddings
}


def leaves(args):
    return [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]


def prune(graph, pipeline, inputs):
    before = [value.type for value in (*graph.inputs, *graph.outputs)]
    weights = Cost(graph).weights
    report = run_pipeline(graph, pipeline, Context(graph), [Verify(), CostDelta(), Equivalence(1e-4, inputs)])
    assert [value.type for value in (*graph.inputs, *graph.outputs)] == before
    return report, weights / Cost(graph).weights


def check_trains_and_exports(graph, inputs, want):
    """One step of training, the way out to ONNX, and back from the trained module."""
    module = go.to_torch(graph)
    with torch.no_grad():
        assert compare(call_flat(module.eval(), graph, inputs), want).within(1e-4)
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), 1e-3)
    before = copy.deepcopy(dict(module.named_parameters()))
    results = call_flat(module, graph, inputs)
    sum(result.square().mean() for result in results if result.is_floating_point()).backward()
    optimizer.step()
    assert any(not torch.equal(before[name], now) for name, now in module.named_parameters())
    session = OrtSession(go.to_onnx(graph))
    assert compare([torch.from_numpy(each) for each in session.run(inputs)], want).within(1e-4)
    go.update_from(graph, module)
    module.eval()
    with torch.no_grad():
        assert compare(run(graph, inputs), call_flat(module, graph, inputs)).within(1e-4)


@pytest.mark.parametrize("name", ZOO)
def test_captured(name):
    module, args = build(name)
    inputs = leaves(args)
    whole = captured(name)
    for pipeline in PIPELINES:
        graph = whole.clone()
        names = {value.name: value.parameter for value in graph.constants}
        report, factor = prune(graph, pipeline, inputs)
        if "global" not in pipeline:
            assert factor >= LESS.get(name, 1.8)
        want = run(graph, inputs)
        if not report.passes[0].details["restricted"]:
            check_against_module(module, args, want, report.kept, names)
    check_trains_and_exports(graph, inputs, want)


def check_against_module(module, args, want, kept, names):
    """The oracle that knows nothing of graphs: the module with the removed slices of its state zeroed."""
    zeroed = copy.deepcopy(module)
    state = {**dict(zeroed.named_parameters()), **dict(zeroed.named_buffers())}
    for name, dims in kept.items():
        parameter = names.get(name)  # an initial state of zeros has none
        if parameter is None or parameter.name not in state:
            continue
        tensor = state[parameter.name]
        for dim, indices in dims.items():
            gone = sorted(set(range(tensor.shape[dim])) - set(indices))
            with torch.no_grad():
                tensor.index_fill_(dim, torch.tensor(gone), 0)
    with torch.no_grad():
        assert compare(want, leaves(zeroed(*args))).within(1e-4)


@pytest.mark.parametrize("name", ZOO)
def test_exported(name, zoo_file):
    _, args = build(name)
    inputs = leaves(args)
    loaded = go.load(zoo_file(name))
    for pipeline in PIPELINES:
        graph = loaded.clone()
        _, factor = prune(graph, pipeline, inputs)
        if "global" not in pipeline:
            assert factor >= LESS.get(name, 1.8)
    check_trains_and_exports(graph, inputs, run(graph, inputs))


@pytest.mark.parametrize("name", ["resnet", "vit", "shufflenet_v2"])
def test_captured_with_a_free_batch(name):
    _, args = build(name)
    graph = captured(name, "batch")
    assert not isinstance(graph.inputs[0].shape[0], int)
    prune(graph, PIPELINES[0], leaves(args))
    one = [leaf[:1] for leaf in leaves(args)]
    assert run(graph, one)[0].shape[0] == 1
    assert isinstance(graph.outputs[0].type, TensorType)
