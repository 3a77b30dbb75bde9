"""Every model of the zoo, captured and as torch.onnx.export writes it, through `simplify,fuse`."""

import io

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from graphopt.backends.onnx_model import to_onnx
from graphopt.frontends.load import load
from graphopt.models import ZOO, build
from graphopt.pipeline import Context, run_pipeline
from graphopt.pipeline.instruments import Equivalence, Verify
from graphopt.runtime.ort import OrtSession
from tests.zoo import captured

LAYERS = ("Conv", "ConvTranspose")


def unfused(graph):
    """BatchNormalizations behind a convolution that nothing else reads."""
    return [
        node
        for node in graph.walk()
        if node.op == "BatchNormalization"
        and (before := node.operand(0).producer) is not None
        and before.op in LAYERS
        and len(before.output.uses) == 1
    ]


@pytest.mark.parametrize("name", ZOO)
def test_captured(name):
    _, args = build(name)
    graph = captured(name)
    size = len(list(graph.walk()))
    inputs = pytree.tree_leaves(args)
    run_pipeline(graph, "simplify,fuse", Context(graph), [Verify(), Equivalence(1e-5, inputs)])
    assert not unfused(graph)
    assert len(list(graph.walk())) <= size
    again = run_pipeline(graph, "simplify,fuse", Context(graph), [Verify()])
    assert not again.modified


@pytest.mark.parametrize("name", ZOO)
def test_exported(name):
    module, args = build(name)
    file = io.BytesIO()
    torch.onnx.export(module, args, file, dynamo=False, do_constant_folding=False)
    graph = load(file.getvalue())
    size = len(list(graph.walk()))
    report = run_pipeline(graph, "simplify,fuse", Context(graph), [Verify()])
    assert report.modified or name in ("lenet", "squeezenet")
    assert not unfused(graph)
    assert len(list(graph.walk())) <= size
    inputs = pytree.tree_leaves(args)
    want = OrtSession(file.getvalue(), optimize=False).run(inputs)
    got = OrtSession(to_onnx(graph), optimize=False).run(inputs)
    for mine, theirs in zip(got, want, strict=True):
        assert np.abs(mine - theirs).max() <= 1e-4 * np.abs(theirs).max()
