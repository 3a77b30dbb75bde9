"""Round trips that begin with an ONNX file: ONNX Runtime on the original is what every stage has to agree with.

For two sizes of the open dimensions: ``to_onnx(load(file))`` in ONNX Runtime, at its own and at another opset; the
executor; ``to_torch``; the graph read back from its text. The graph after save and load is the graph, with all names,
doc strings and metadata. Some are captured again as the torch modules that they became.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch

import graphopt as go
from graphopt.analysis import propagate_all
from graphopt.errors import CaptureError, UnsupportedOperatorError
from graphopt.ir import DType, Graph, Node, difference
from graphopt.runtime import run
from graphopt.runtime.ort import OrtSession
from tests.random_onnx.case import RandomModel
from tests.random_onnx.grower import BINDINGS, check_type
from tests.round_trip import Wanted, note, same_text

#: How many models are captured again, which takes longer than all the rest.
AGAIN = 0.05


def check_model(case: RandomModel, rng: random.Random) -> str:
    """Sends a model all the way round; raises AssertionError where something is lost.

    Returns:
        ``"round"``; ``"refused"`` when ONNX Runtime does not execute the original, ``"not finite"`` when it gives NaN
        (a variance below zero, say); with ``", ill-conditioned"`` when
        some stage came no nearer than rounding lets it.
    """
    source = case.model.SerializeToString()
    try:
        originals = [_execute(case.model, inputs) for inputs in case.inputs]
    except (go.GraphoptError, RuntimeError):
        return "refused"
    if not all(each.double().isfinite().all() for results in originals for each in results):
        return "not finite"
    onnx.checker.check_model(case.model, full_check=True)
    graph = go.load(source)
    go.verify(graph)
    from_text = same_text(graph)
    written = go.to_onnx(graph)
    onnx.checker.check_model(written, full_check=True)
    told = difference(_as_read(go.load(source)), _as_read(go.load(written)), provenance=True)
    assert told is None, f"after save and load: {told}"
    wants = [Wanted(inputs, original, graph) for inputs, original in zip(case.inputs, originals, strict=True)]
    propagate_all(graph)
    _check_types(graph, case)
    _check_stages(graph, from_text, written, wants)
    _at_another_opset(graph, written, wants, rng.choice([13, 15, 17, 18, 20, 21, 22, 23]))
    if rng.random() < AGAIN and not any(v.dtype is DType.STRING for node in graph.walk() for v in node.outputs):
        _captured_again(graph, wants[0])
    return f"round{note(*wants)}"


def _execute(model: onnx.ModelProto, inputs: Sequence[torch.Tensor], optimize: bool = False) -> list[torch.Tensor]:
    return [torch.as_tensor(each) for each in OrtSession(model, optimize=optimize).run(list(inputs))]


def _as_read(graph: Graph) -> Graph:
    """Takes away what writing may change: the versions, and the names of outputs that nothing reads.

    These are not written, lest a runtime compute them.
    """
    graph.model.opset = graph.model.ir_version = 0
    if set(graph.inputs) & set(graph.outputs):
        graph.model.declared = {}  # the file may give one value two types
    for node in graph.walk():
        for value in node.outputs:
            if not value.uses:
                value.name = ""
    return graph


def _check_stages(graph: Graph, from_text: Graph, written: onnx.ModelProto, wants: Sequence[Wanted]) -> None:
    module = go.to_torch(graph)

    def call(*inputs: Any) -> list[Any]:
        with torch.no_grad():
            result = module(*inputs)
        return list(result) if len(graph.outputs) > 1 else [result]

    stages: dict[str, Callable[..., Any]] = {
        "executed": lambda *inputs: run(graph, inputs),
        "written": lambda *inputs: _execute(written, inputs),
        "emitted": call,
        "executed from text": lambda *inputs: run(from_text, inputs),
    }
    for name, stage in stages.items():
        for want, binding in zip(wants, BINDINGS, strict=True):
            want.check(stage(*want.inputs), f"{name} at {binding}")


def _check_types(graph: Graph, case: RandomModel) -> None:
    """What load infers holds at both sizes, for every value of the outermost graph."""
    for inputs, binding in zip(case.inputs, BINDINGS, strict=True):

        def check(node: Node, results: tuple[Any, ...], binding: dict[str, int] = binding) -> tuple[Any, ...]:
            for value, result in zip(node.outputs, results, strict=False):
                check_type(value, result, binding)
            return results

        run(graph, inputs, hook=check)


def _captured_again(graph: Graph, want: Wanted) -> None:
    """The module that a graph became can be captured, and is written as a file that computes the same."""
    module = go.to_torch(graph)
    try:
        again = go.capture(module, tuple(want.inputs))
    except CaptureError as error:
        if "data-dependent" in str(error):
            return  # sizes or branches that depend on the contents of a tensor
        raise
    want.check(run(again, want.inputs), "captured again")
    try:
        written = go.to_onnx(again)
    except UnsupportedOperatorError:
        assert {node.domain for node in again.walk()} - {""}, "ONNX has every operator of the graph"
        return
    want.check(_execute(written, want.inputs), "captured again and written")


def _at_another_opset(graph: Graph, written: onnx.ModelProto, wants: Sequence[Wanted], opset: int) -> None:
    try:
        other = go.to_onnx(graph, opset)
    except UnsupportedOperatorError as error:
        if f"opset {opset} cannot express the graph" not in str(error):
            raise
        return
    try:
        got = [_execute(other, want.inputs) for want in wants]
    except (go.GraphoptError, RuntimeError):
        if opset > written.opset_import[0].version:
            return  # ONNX Runtime lacks kernels for some pairs of operator and newer opset
        raise
    for want, results in zip(wants, got, strict=True):
        want.check(results, f"written at opset {opset}")
