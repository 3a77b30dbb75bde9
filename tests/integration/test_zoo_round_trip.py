"""Every zoo model: into the graph, out to torch and to ONNX, and back, with nothing lost."""

import onnx
import pytest
import torch
from torch.utils import _pytree as pytree

import graphopt as go
from graphopt.ir import difference
from graphopt.models import ZOO, build
from graphopt.runtime.compare import compare
from graphopt.runtime.ort import OrtSession
from tests.zoo import captured


def tensors(result):
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


@pytest.fixture(scope="module", params=list(ZOO))
def case(request):
    module, args = build(request.param)
    with torch.no_grad():
        want = module(*args)
    graph = captured(request.param)
    go.verify(graph)
    return module, args, want, graph


def test_torch_comes_back_as_it_was(case):
    module, args, want, graph = case
    emitted = go.to_torch(graph)
    assert list(emitted.state_dict()) == list(module.state_dict())
    for name, tensor in module.state_dict().items():
        assert torch.equal(emitted.state_dict()[name], tensor), name
    with torch.no_grad():
        got = emitted(*args)
    assert pytree.tree_structure(got) == pytree.tree_structure(want)
    assert compare(tensors(got), tensors(want)).within(1e-5)


def test_onnx_passes_the_checker_and_computes_the_same(case):
    _, args, want, graph = case
    model = go.to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    got = OrtSession(model).run(pytree.tree_leaves(args))
    assert compare([torch.from_numpy(array) for array in got], tensors(want)).within(1e-4)


def test_saved_and_loaded_it_is_the_same_graph(case, tmp_path):
    """Up to what ONNX has no place for: module parameters that nothing reads (num_batches_tracked)."""
    graph = case[3].clone()
    go.save(graph, tmp_path / "model.onnx")
    again = go.load(tmp_path / "model.onnx")
    graph.sweep([value for value in graph.constants if not value.uses])
    assert difference(graph, again) is None
    go.save(again, tmp_path / "again.onnx")
    assert difference(again, go.load(tmp_path / "again.onnx")) is None
