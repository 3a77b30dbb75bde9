"""ONNX files: streamed, atomic, external where large."""

import os
import sys

import numpy as np
import onnx
import pytest
import torch

import graphopt.backends.onnx_file as onnx_file
import graphopt.backends.onnx_model as onnx_model
from graphopt.backends.onnx_file import save
from graphopt.backends.onnx_model import to_graphsurgeon, to_onnx, to_onnx_ir
from graphopt.errors import SaveError
from graphopt.frontends.capture import capture
from graphopt.frontends.load import load
from graphopt.ir import DType, Graph, TensorType
from tests.onnx_same import assert_close, assert_same, run


def network(width=40, layers=3):
    graph = Graph("net")
    value = graph.add_input("x", TensorType.make(DType.FLOAT32, ("n", width)))
    for index in range(layers):
        weight = graph.add_constant(torch.randn(width, width), f"layer.{index}.weight")
        bias = graph.add_constant(torch.randn(width), f"layer.{index}.bias")
        value = graph.add("Add", graph.add("MatMul", value, weight), bias)
    graph.add_output(value, "y")
    return graph


X = np.ones((2, 40), np.float32)


def test_the_streamed_file_is_the_model(tmp_path):
    graph = network()
    save(graph, tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == ["m.onnx"]
    model = onnx.load(tmp_path / "m.onnx")
    assert model == to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    assert_close(run(str(tmp_path / "m.onnx"), X), run(to_onnx(graph), X))
    assert [t.name for t in model.graph.initializer][:2] == ["layer.0.weight", "layer.0.bias"]


def test_external_weights(tmp_path):
    graph = network()
    path = tmp_path / "m.onnx"
    save(graph, path, external=True)
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.data"]
    onnx.checker.check_model(str(path), full_check=True)
    assert_close(run(str(path), X), run(to_onnx(graph), X))
    model = onnx.load(path, load_external_data=False)
    entries = {t.name: {e.key: e.value for e in t.external_data} for t in model.graph.initializer}
    assert entries["layer.0.bias"] == {}  # small ones stay where shape inference sees them
    assert all(int(entries[f"layer.{i}.weight"]["offset"]) % 4096 == 0 for i in range(3))
    again = load(path)
    assert_same(load(to_onnx(graph)), again)
    save(again, path, external=True)  # onto the very file that the weights are mapped from
    assert_same(load(to_onnx(graph)), load(path))


def test_models_beyond_what_a_message_holds_go_external(tmp_path, monkeypatch):
    graph = network()
    for module in (onnx_file, onnx_model):
        monkeypatch.setattr(module, "PROTOBUF_LIMIT", 10_000)
    save(graph, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").exists()
    with pytest.raises(SaveError, match=r"use save\(graph, path\)"):
        to_onnx(graph)


def test_every_kind_of_weight_is_streamed(tmp_path):
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FLOAT32, (1,)))
    graph.add_output(graph.add("Relu", x), "y")
    big = 4001
    graph.add_constant(torch.randint(-8, 8, (big,), dtype=torch.int8), "int4", dtype=DType.INT4)
    graph.add_constant(torch.randn(big).to(torch.bfloat16), "bf16")
    graph.add_constant(torch.randn(3, big).t(), "strided")
    graph.add_constant(torch.randn(big) > 0, "bool")
    graph.add_constant(torch.randn(big).to(torch.float8_e5m2), "fp8")
    graph.add_constant(torch.randn(1).expand(2, big), "expanded")
    graph.add_constant(np.array(["a" * 5000, "b"], dtype=object), "strings")
    for external in (False, True):
        save(graph, tmp_path / "m.onnx", external=external)
        assert_same(load(to_onnx(graph)), load(tmp_path / "m.onnx"))


def test_a_failed_save_leaves_everything_as_it_was(tmp_path, monkeypatch):
    graph = network()
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    next(iter(graph)).output.type = TensorType(DType.FLOAT32, (1, 1, 1))
    with pytest.raises(SaveError, match="checker refuses"):
        save(graph, path)
    calls = []

    def full(tensor, dtype):
        calls.append(dtype)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return np.zeros(tensor.numel() * 4, np.uint8)

    monkeypatch.setattr(onnx_file, "pack", full)
    for external in (False, True):
        calls.clear()
        with pytest.raises(SaveError, match="No space left"):
            save(network(), path, external=external)
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["m.onnx"]


def test_places_that_cannot_be_written(tmp_path):
    graph = network(layers=1)
    with pytest.raises(SaveError, match=r"folder '.*absent' does not exist"):
        save(graph, tmp_path / "absent" / "m.onnx")
    with pytest.raises(SaveError, match="is a folder"):
        save(graph, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match=r"folder '.*file' does not exist"):
        save(graph, tmp_path / "file" / "m.onnx")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that even root cannot write to")
def test_a_folder_without_permission_is_named():
    with pytest.raises(SaveError, match="cannot write to folder '/proc/self'"):
        save(network(layers=1), "/proc/self/m.onnx")


def test_permissions_of_a_new_and_of_a_replaced_file(tmp_path):
    graph = network(layers=1)
    plain = tmp_path / "plain"
    plain.write_text("")
    save(graph, tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx").stat().st_mode == plain.stat().st_mode
    plain.chmod(0o640)
    save(graph, plain)
    assert plain.stat().st_mode & 0o777 == 0o640


def test_other_libraries():
    graph = network()
    surgeon = to_graphsurgeon(graph)
    assert [node.op for node in surgeon.nodes] == ["MatMul", "Add"] * 3
    assert_same(load(to_onnx(graph)), load(surgeon_again(surgeon, graph)))
    assert_same(load(to_onnx(graph)), load(to_onnx_ir(graph)))


def surgeon_again(surgeon, graph):
    """onnx-graphsurgeon's export with what it drops put back: the producer."""
    import onnx_graphsurgeon

    model = onnx_graphsurgeon.export_onnx(surgeon)
    model.producer_name, model.ir_version = "graphopt", 8
    return model


@pytest.mark.parametrize("name", ["model.pt2", "model.txt", "model.pth"])
def test_names_of_other_kinds_of_files(name, tmp_path):
    graph = capture(torch.nn.Linear(2, 3), (torch.randn(1, 2),))
    with pytest.raises(SaveError, match=rf"{name}' is the name of .* end it in \.onnx"):
        save(graph, tmp_path / name)
    assert not list(tmp_path.iterdir())
