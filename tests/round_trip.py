"""Round trips: torch -> graph -> ONNX -> graph -> torch, and the text form, with every stage held to the numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch.utils import _pytree as pytree

import graphopt as go
from graphopt.errors import CaptureError, UnsupportedOperatorError
from graphopt.ir import Graph, difference
from graphopt.ir.text import print_graph
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from graphopt.runtime.ort import OrtSession
from tests.generators import RandomModule

TOLERANCE = 1e-4


def check_module(module: RandomModule, seed: int = 0) -> str:
    """Sends a module all the way round; raises AssertionError where something is lost.

    Returns:
        How far it went: ``"round"``, or ``"carried"`` when ONNX has no operator for a torch operator in it.
    """
    rng = random.Random(seed)
    args = module.example
    with torch.no_grad():
        want = module(*args)
    # With a batch of one, squeeze and broadcasting would do otherwise than for all other sizes.
    graph, is_dynamic = _capture(module, rng.random() < 0.3 and args[0].shape[0] > 1)
    go.verify(graph)
    same_text(graph)
    _call(graph, args, want, "emitted")
    carried = {node.domain for node in graph.walk()} - {""}
    try:
        model = go.to_onnx(graph)
    except UnsupportedOperatorError:
        assert carried, "ONNX has every operator of the graph, but cannot be written"
        return "carried"
    assert not carried
    check_graph(graph, model, args, want)
    if is_dynamic:
        _other_batch(module, model)
    _at_another_opset(graph, model, args, want, rng.randint(13, 26))
    return "round"


def check_graph(graph: Graph, model: onnx.ModelProto, args: Sequence[Any], want: Any) -> None:
    """ONNX Runtime and the graph read back compute what is wanted; written again it is the same graph."""
    leaves = _tensors(want)
    near(OrtSession(model).run(list(args)), leaves, "ONNX Runtime")
    again = go.load(model.SerializeToString())
    go.verify(again)
    same_text(again)
    near(run(again, args), leaves, "executed")
    _call(again, args, want, "emitted again")
    third = go.load(go.to_onnx(again))
    told = difference(again, third)
    assert told is None, f"written again: {told}"


def same_text(graph: Graph) -> None:
    """The text form reads back to the same graph, to the last bit of the weights."""
    text = print_graph(graph, weights=True)
    back = go.parse(text)
    told = difference(graph, back, provenance=True)
    assert told is None, f"text form: {told}"
    assert print_graph(back, weights=True) == text, "text form: printed again it is another"


def near(got: Sequence[Any], want: Sequence[torch.Tensor], where: str) -> None:
    """Asserts that results agree to 1e-4 of the largest magnitude."""
    tensors = [torch.as_tensor(each) for each in got]
    found = compare(tensors, want)
    assert found.within(TOLERANCE), f"{where}: off by {found.max_rel:.1e}, shapes {[list(t.shape) for t in tensors]}"


def _capture(module: RandomModule, dynamic: bool) -> tuple[Graph, bool]:
    if dynamic:
        try:
            shapes = {index: {0: "batch"} for index in range(len(module.example))}
            return go.capture(module, module.example, dynamic=shapes), True
        except CaptureError:
            pass  # its reshapes fix the batch
    return go.capture(module, module.example), False


def _call(graph: Graph, args: Sequence[Any], want: Any, where: str) -> None:
    with torch.no_grad():
        got = go.to_torch(graph)(*args)
    assert pytree.tree_structure(got) == pytree.tree_structure(want), f"{where}: another structure"
    near(_tensors(got), _tensors(want), where)


def _tensors(result: Any) -> list[torch.Tensor]:
    return list(pytree.tree_leaves(result))


def _other_batch(module: RandomModule, model: onnx.ModelProto) -> None:
    batch = module.example[0].shape[0] + 1
    larger = [torch.cat([each, each[:1] * 0.7]) for each in module.example]
    assert all(each.shape[0] == batch for each in larger)
    with torch.no_grad():
        want = module(*larger)
    near(OrtSession(model).run(larger), _tensors(want), "another batch")


def _at_another_opset(graph: Graph, model: onnx.ModelProto, args: Sequence[Any], want: Any, opset: int) -> None:
    """Asks for some opset; what cannot be expressed there says so."""
    try:
        other = go.to_onnx(graph, opset)
    except UnsupportedOperatorError as error:
        if f"opset {opset} cannot express the graph" not in str(error):
            raise
        return
    if opset > model.opset_import[0].version:
        return  # ONNX Runtime lacks kernels for some pairs of operator and newer opset
    # Its fusion of layer normalisations takes an integer that is cast before them for their input.
    session = OrtSession(other, optimize=False)
    near(session.run(list(args)), _tensors(want), f"ONNX Runtime at opset {opset}")
