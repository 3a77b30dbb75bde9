"""What load accepts, and what it says about what it does not."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon
import onnx_ir
import pytest
import torch
from onnx import helper

from graphopt.errors import LoadError
from graphopt.frontends.load import load
from tests.onnx_models import info, model, node, tensor
from tests.onnx_same import assert_same

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def linear():
    nodes = [node("MatMul", "x w", "h", name="dense"), node("Relu", "h", "y")]
    return model(nodes, [info("x", ["n", 2])], [info("y", ["n", 3])], [tensor("w", WEIGHT)])


def test_every_kind_of_source_gives_the_same_graph(tmp_path):
    proto = linear()
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    want = load(proto)
    assert [n.op for n in want] == ["MatMul", "Relu"]
    assert want.inputs[0].type.shape[1] == 2
    (weight,) = want.constants
    assert torch.equal(weight.data, torch.from_numpy(WEIGHT))
    for source in (str(path), path, path.read_bytes(), bytearray(path.read_bytes())):
        assert_same(want, load(source))
    surgeon = load(onnx_graphsurgeon.import_onnx(proto))
    assert [n.op for n in surgeon] == ["MatMul", "Relu"]
    assert torch.equal(next(iter(surgeon.constants)).data, weight.data)
    assert_same(want, load(onnx_ir.serde.deserialize_model(proto)))


def test_an_onnx_ir_model_knows_where_its_weights_are(tmp_path):
    onnx.save(linear(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    want = load(tmp_path / "m.onnx")
    assert_same(want, load(onnx_ir.load(tmp_path / "m.onnx")))
    elsewhere = onnx_ir.load(tmp_path / "m.onnx")
    assert_same(want, load(elsewhere, folder=tmp_path))


def test_the_message_is_not_changed_and_its_data_is_shared():
    proto = linear()
    before = proto.SerializeToString()
    load(proto)
    assert proto.SerializeToString() == before


# -- errors of the file


def one_line(source, *parts, **options):
    with pytest.raises(LoadError) as raised:
        load(source, **options)
    text = str(raised.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


def test_files_that_are_no_models(tmp_path):
    path = tmp_path / "m.onnx"
    one_line(path, "no such file", "m.onnx")
    one_line(tmp_path, "cannot read")
    path.write_bytes(b"")
    one_line(path, "is empty")
    path.write_text("hello, this is a text and no model at all")
    one_line(path, "is not an ONNX model")
    path.write_bytes(b"\x08\x01")
    one_line(path, "is not an ONNX model")
    one_line(3, "cannot load an int", "give a path")


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.99])
def test_truncated_file(tmp_path, kept):
    data = linear().SerializeToString()
    cut = data[: int(len(data) * kept)]
    one_line(cut, "cut off", "bytes are missing")


def test_an_opset_from_the_future():
    one_line(model([node("Relu", "x", "y")], [info("x", [1])], ["y"], opset=9999), "opset 9999", "upgrade onnx")


# -- errors of the graph


def test_cycle():
    nodes = [node("Add", "x b", "a", name="first"), node("Relu", "a", "b", name="second")]
    one_line(model(nodes, [info("x", [1])], ["b"]), "cycle", "computed from itself", "'a'", "'first'")


def test_cycle_through_a_body():
    body = helper.make_graph([node("Relu", "z", "t")], "then", [], [info("t")])
    nodes = [node("If", "c", "y", then_branch=body, else_branch=body), node("Relu", "y", "z")]
    proto = model(nodes, [info("c", [], onnx.TensorProto.BOOL)], ["z"])
    one_line(proto, "cycle")


def test_nodes_out_of_order_are_sorted():
    body = helper.make_graph([node("Neg", "h", "t")], "then", [], [info("t")])
    other = helper.make_graph([node("Abs", "h", "e")], "else", [], [info("e")])
    nodes = [
        node("If", "c", "y", then_branch=body, else_branch=other),
        node("Relu", "g", "h"),
        node("Exp", "x", "g"),
    ]
    inputs = [info("c", [], onnx.TensorProto.BOOL), info("x", [2])]
    assert [n.op for n in load(model(nodes, inputs, ["y"]))] == ["Exp", "Relu", "If"]


def test_a_value_defined_twice():
    x = info("x", [1])
    twice = [node("Relu", "x", "y"), node("Neg", "x", "y", name="again")]
    one_line(model(twice, [x], ["y"]), "'y' is defined twice", "'again'")
    one_line(model([node("Relu", "x", "x")], [x], ["x"]), "'x' is defined twice")
    one_line(model([node("Relu", "x", "y")], [x, x], ["y"]), "input 'x' is defined twice")
    w = tensor("w", WEIGHT)
    one_line(model([node("Relu", "w", "y")], [x], ["y"], [w, w]), "initializer 'w' is defined twice")


def test_values_that_nothing_defines():
    one_line(model([node("Relu", "q", "y", name="n")], [info("x", [1])], ["y"]), "'q'", "nothing defines", "'n'")
    one_line(model([node("Relu", "x", "y")], [info("x", [1])], ["q"]), "returns 'q'")


def test_a_tensor_attribute_of_wrong_size_names_its_node():
    bad = onnx.TensorProto(name="t", dims=[5], data_type=1, raw_data=b"1234")
    for op, name in (("Constant", "value"), ("ConstantOfShape", "value")):
        each = node(op, "" if op == "Constant" else "x", "y", name="culprit", **{name: bad})
        one_line(model([each], [info("x", [1], onnx.TensorProto.INT64)], ["y"]), "takes 20", "culprit")


# -- external data


def external(location="w.bin", **entries):
    proto = linear()
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, text in {"location": location, **entries}.items():
        weight.external_data.add(key=key, value=str(text))
    return proto


def test_external_data_is_mapped_and_never_written(tmp_path):
    (tmp_path / "w.bin").write_bytes(b"\0" * 16 + WEIGHT.tobytes())
    onnx.save(external(offset=16, length=24), tmp_path / "m.onnx")
    graph = load(tmp_path / "m.onnx")
    (weight,) = graph.constants
    assert torch.equal(weight.data, torch.from_numpy(WEIGHT))
    weight.data.add_(1)  # nobody should, but the file is safe
    assert (tmp_path / "w.bin").read_bytes()[16:] == WEIGHT.tobytes()
    again = load(external(offset=16), folder=tmp_path)
    assert torch.equal(next(iter(again.constants)).data, torch.from_numpy(WEIGHT))


def test_external_data_that_lies_anywhere_is_copied_where_it_must(tmp_path):
    (tmp_path / "w.bin").write_bytes(b"\0" * 3 + WEIGHT.tobytes())
    graph = load(external(offset=3), folder=tmp_path)
    assert torch.equal(next(iter(graph.constants)).data, torch.from_numpy(WEIGHT))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "absent.bin"}, "cannot be read"),
        ({"location": "../w.bin"}, "outside the model's folder"),
        ({"location": "link.bin"}, "outside the model's folder"),
        ({"location": "/etc/passwd"}, "outside the model's folder"),
        ({"location": ""}, "without a location"),
        ({"offset": 1}, "too short: 24 bytes, 25 are needed"),
        ({"length": 23}, "has 23 bytes where 24 are needed"),
        ({"offset": "-8"}, "offset '-8'"),
        ({"offset": "x"}, "offset 'x'"),
    ],
)
def test_external_data_is_checked(tmp_path, entries, message):
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (folder, tmp_path):
        (place / "w.bin").write_bytes(WEIGHT.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    (folder / "m.onnx").write_bytes(external(**entries).SerializeToString())
    one_line(folder / "m.onnx", message, "tensor 'w'")


def test_a_model_that_is_a_link_finds_its_data_where_it_really_lies(tmp_path):
    store, view = tmp_path / "blobs", tmp_path / "snapshot"
    for folder in (store, view):
        folder.mkdir()
    (store / "1").write_bytes(external().SerializeToString())
    (store / "2").write_bytes(WEIGHT.tobytes())
    os.symlink(store / "1", view / "m.onnx")
    os.symlink(store / "2", view / "w.bin")
    assert len(load(view / "m.onnx").constants) == 1


def test_external_data_without_a_folder():
    one_line(external(), "kept in another file", "folder=")


def test_empty_external_file(tmp_path):
    (tmp_path / "w.bin").write_bytes(b"")
    one_line(external(), "too short: 0 bytes", folder=Path(tmp_path))
