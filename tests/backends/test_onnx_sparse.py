"""Sparse weights in ONNX files: smaller, accepted by the checker and by ONNX Runtime, loaded as they were."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.ir import DType, difference
from graphopt.ir.literals import SparseTensor
from graphopt.ops.sparse import sparse_form
from graphopt.runtime import run
from graphopt.runtime.ort import OrtSession


def network():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(512, 40)
    ).eval()


@pytest.fixture
def case():
    graph = go.capture(network(), (torch.randn(2, 3, 8, 8),), dynamic=[{0: "batch"}])
    go.optimize(graph, "sparsify{ratio=0.9,ignore=['0']}", check=False)
    return graph


def test_written_where_smaller_and_loaded_equal(case, tmp_path):
    dense, sparse = tmp_path / "dense.onnx", tmp_path / "sparse.onnx"
    go.save(case, dense)
    go.save(case, sparse, sparse=True)
    bytes_of = {path: path.stat().st_size for path in (dense, sparse)}
    weights = {v.name: v.data for v in case.constants}
    saved = sum(4 * weights[n].numel() - 12 * int(torch.count_nonzero(weights[n])) for n in ("3.weight", "5.weight"))
    assert bytes_of[dense] - bytes_of[sparse] == pytest.approx(saved, abs=600)
    proto = onnx.load(sparse)
    onnx.checker.check_model(proto, full_check=True)
    held = [n.output[0] for n in proto.graph.node if n.attribute and n.attribute[0].name == "sparse_value"]
    assert held == ["3.weight", "5.weight"]  # 0.weight is dense, vectors are small
    assert proto == go.to_onnx(case, sparse=True)
    x = torch.randn(5, 3, 8, 8)
    want = OrtSession(dense.read_bytes()).run([x])[0]
    np.testing.assert_array_equal(OrtSession(sparse.read_bytes()).run([x])[0], want)
    loaded = go.load(sparse)
    assert difference(loaded, go.load(dense)) is None
    assert {v.name: v.parameter for v in loaded.constants} == {v.name: v.parameter for v in case.constants if v.uses}
    assert go.optimize(loaded, "prune-channels{ratio=0.5}").kept  # constants like any other
    np.testing.assert_allclose(run(go.load(sparse), [x])[0], want, rtol=1e-4, atol=1e-5)


def test_nothing_is_smaller(case, tmp_path):
    graph = go.capture(network(), (torch.randn(2, 3, 8, 8),))
    assert go.to_onnx(graph, sparse=True) == go.to_onnx(graph)
    go.optimize(graph, "sparsify{ratio=0.5}", check=False)  # half of float32 takes 1.5 times the bytes
    assert go.to_onnx(graph, sparse=True) == go.to_onnx(graph)


def test_beside_external_data(case, tmp_path):
    go.save(case, tmp_path / "model.onnx", external=True, sparse=True)
    assert difference(go.load(tmp_path / "model.onnx"), go.load(go.to_onnx(case))) is None
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.FLOAT32, DType.FLOAT64, DType.INT8])
def test_bytes_decide(dtype):
    data = torch.zeros(4000, dtype=dtype.torch)
    size = data.element_size()
    fits = (4000 * size - 128) // (size + 8)
    data[:fits] = 1
    found = sparse_form(data, dtype)
    assert isinstance(found, SparseTensor) == (fits * (size + 8) + 128 < 4000 * size)
    data[: fits + 1] = 1
    assert sparse_form(data, dtype) is None


@pytest.mark.parametrize("linear", [True, False])
def test_sparse_constants_of_others_are_computed(linear):
    dense = torch.zeros(3, 4)
    dense[0, 1], dense[2, 3] = 5, -2
    indices = torch.tensor([1, 11]) if linear else torch.tensor([[0, 1], [2, 3]])
    held = SparseTensor(torch.tensor([5.0, -2]), indices, (3, 4), DType.FLOAT32)
    assert torch.equal(held.dense(), dense)
    graph = go.Graph()
    x = graph.add_input("x", go.TensorType.make(DType.FLOAT32, (2, 3)))
    constant = graph.append(go.Node("Constant", [], {"sparse_value": held}))
    graph.add_output(graph.append(go.Node("MatMul", [x, constant.output])).output, "y")
    sample = torch.randn(2, 3)
    torch.testing.assert_close(run(graph, [sample])[0], sample @ dense)
    go.optimize(graph, "simplify")
    assert [node.op for node in graph] == ["MatMul"]
