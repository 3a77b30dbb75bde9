"""Large files: weights stay where they are until somebody looks at them, and nothing copies them."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import graphopt as go
from graphopt.errors import LoadError
from graphopt.frontends import onnx_embedded
from graphopt.ir import difference
from graphopt.ops import wire
from tests.bench.large_model import CHILD, STEPS, make
from tests.onnx_models import branch, info, model, node

MEGABYTES = 60
#: What torch takes for itself when its kernels first run, and pages around those of a mapped file that are looked at.
WORKSPACE = 40


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    for name, external in (("external", True), ("single", False)):
        (folder / name).mkdir()
        make(folder / name / "model.onnx", MEGABYTES / 1000, external, width=1024)
    return folder


def peaks(step, source, out):
    """Peak and remaining anonymous memory of a process that does a step, in megabytes beyond its start."""
    command = [sys.executable, "-c", CHILD.format(step=STEPS[step]), str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = eval(done.stdout.splitlines()[-1])  # what CHILD printed
    return found["peak"] / 1e6, found["anonymous"] / 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory(files, tmp_path):
    source = files / "external" / "model.onnx"
    peak, _ = peaks("load", source, tmp_path / "out.onnx")
    assert peak < 0.1 * MEGABYTES, "loading touches no weights"
    peak, _ = peaks("load, simplify (checked), save", source, tmp_path / "out.onnx")
    assert peak < 1.2 * MEGABYTES + WORKSPACE, "simplifying, checking and saving copy none"
    peak, _ = peaks("load, save", files / "single" / "model.onnx", tmp_path / "out.onnx")
    assert peak < 1.2 * MEGABYTES + WORKSPACE, "weights inside a file are held once"


def test_all_ways_give_the_same_graph(files, monkeypatch):
    external, single = (go.load(files / name / "model.onnx") for name in ("external", "single"))
    assert difference(external, single) is None
    data = (files / "single" / "model.onnx").read_bytes()
    assert difference(go.load(data), single) is None
    monkeypatch.setattr(onnx_embedded, "MAPPED", 1 << 20)
    assert difference(go.load(files / "single" / "model.onnx"), single) is None


def test_overwriting_a_file_in_place_leaves_the_graph_alone(files, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes((files / "single" / "model.onnx").read_bytes())
    graph = go.load(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert difference(graph, go.load(files / "single" / "model.onnx")) is None


# -- taking a small model apart as if it were large


def odd_model():
    """Weights in all the places and forms that a file can have them."""
    rng = np.random.default_rng(0)
    big = rng.standard_normal((40, 40)).astype(np.float32)
    typed = TensorProto(name="typed", dims=[40, 40], data_type=TensorProto.FLOAT, float_data=big.reshape(-1))
    flags = numpy_helper.from_array(rng.integers(0, 2, (80, 80)).astype(bool), "flags")
    half = numpy_helper.from_array(big.astype(np.float16).repeat(2, axis=1), "half")
    small = numpy_helper.from_array(np.arange(3, dtype=np.int64), "small")
    raw = numpy_helper.from_array(big, "raw")
    raw.doc_string = "of the weight"
    raw.metadata_props.add(key="k", value="v")
    inner = branch("t", "Add", "x raw")
    inner.initializer.append(numpy_helper.from_array(big, "inner"))
    inner.node.append(node("Mul", "t inner", "t2"))
    del inner.output[:]
    inner.output.append(info("t2"))
    nodes = [
        node("If", "c", "y", then_branch=inner, else_branch=branch("e", "Sub", "x typed")),
        helper.make_node("Constant", [], ["held"], value=numpy_helper.from_array(big, "")),
        node("Add", "y held", "z"),
        node("Identity", "flags", "f"),
        node("Identity", "half", "h"),
        node("Identity", "small", "s"),
    ]
    outputs = [info("z", [40, 40]), info("f", None, TensorProto.BOOL), info("h", None, TensorProto.FLOAT16)]
    inputs = [info("x", [40, 40]), info("c", [], TensorProto.BOOL)]
    made = model(nodes, inputs, [*outputs, info("s", None, TensorProto.INT64)], [typed, raw, flags, half, small])
    made.metadata_props.add(key="a", value="b" * 5000)
    return made


@pytest.fixture(params=["file", "mapped file", "bytes"])
def read(request, monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules["graphopt.frontends.load"], "TAKEN_APART", 0)
    monkeypatch.setattr(onnx_embedded, "MAPPED", 0 if request.param == "mapped file" else 1 << 30)

    def read(data):
        if request.param == "bytes":
            return go.load(data)
        (tmp_path / "model.onnx").write_bytes(data)
        return go.load(tmp_path / "model.onnx")

    return read


def test_taken_apart_it_is_the_same(read, monkeypatch):
    proto = odd_model()
    graph = read(proto.SerializeToString())
    assert difference(graph, go.load(proto), provenance=True) is None
    weight = next(v for v in graph.constants if v.name == "raw")
    assert (weight.doc, dict(weight.metadata)) == ("of the weight", {"k": "v"})
    assert "external_data" not in str(go.to_onnx(graph))


def test_large_weights_are_left_behind():
    data = odd_model().SerializeToString()
    short = onnx.ModelProto.FromString(wire.without_weights(memoryview(data)))
    left = {t.name for t in short.graph.initializer if t.data_location == TensorProto.EXTERNAL}
    assert left == {"raw", "flags", "half"}
    assert short.graph.node == odd_model().graph.node


def test_weights_of_the_wrong_size(read):
    proto = odd_model()
    next(t for t in proto.graph.initializer if t.name == "raw").dims[0] = 41
    with pytest.raises(LoadError, match=r"tensor 'raw' has 6400 bytes of data, float32\[41, 40\] takes 6560"):
        read(proto.SerializeToString())


def test_malformed_files(read):
    data = odd_model().SerializeToString()
    for cut in range(1, len(data), 997):
        with pytest.raises(LoadError, match=r"cut off|not an ONNX model"):
            read(data[:cut])
    with pytest.raises(LoadError, match="not an ONNX model"):
        read(b"\xff" * 100)
    future = odd_model()
    future.opset_import[0].version = 99
    with pytest.raises(LoadError, match="the model is of opset 99"):
        read(future.SerializeToString())


def test_weights_elsewhere_that_nobody_can_read(read):
    proto = odd_model()
    raw = next(t for t in proto.graph.initializer if t.name == "raw")
    raw.ClearField("raw_data")
    raw.data_location = TensorProto.EXTERNAL
    raw.external_data.add(key="location", value="missing.bin")
    with pytest.raises(LoadError, match=r"kept in another file|cannot be read"):
        read(proto.SerializeToString())


def test_an_old_model_is_converted_whole(read):
    weight = np.random.default_rng(0).standard_normal((40, 40)).astype(np.float32)
    proto = model(
        [node("MatMul", "x w", "y")],
        [info("x", [1, 40]), info("w", [40, 40])],
        [info("y", [1, 40])],
        [numpy_helper.from_array(weight, "w")],
        opset=6,
        ir_version=3,
    )
    graph = read(proto.SerializeToString())
    (constant,) = graph.constants
    assert torch.equal(constant.data, torch.from_numpy(weight))


# -- the wire format


def test_numbers_on_the_wire():
    for number in (0, 1, 127, 128, 300, 1 << 35):
        encoded = wire.write_varint(number)
        assert wire.read_varint(b"\1" + encoded, 1) == (number, 1 + len(encoded))
    for broken in (b"", b"\x80", b"\xff" * 11):
        with pytest.raises(ValueError, match="no number"):
            wire.read_varint(broken, 0)


def test_fields_that_are_no_fields():
    with pytest.raises(ValueError, match="wire type 3"):
        list(wire.fields(b"\x0b", 0, 1))
    with pytest.raises(ValueError, match="cut off"):
        list(wire.fields(b"\x0a\x05ab", 0, 4))
    assert [f.number for f in wire.fields(b"\x08\x01\x11" + b"\0" * 8 + b"\x1d" + b"\0" * 4, 0, 16)] == [1, 2, 3]
