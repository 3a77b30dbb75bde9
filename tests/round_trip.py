"""Round trips: torch -> graph -> ONNX -> graph -> torch, and the text form, with every stage held to the numbers.

Stages must agree to 1e-4 of the largest magnitude; where float rounding alone carries results further than that, to
what rounding does (see `tests.rounding`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import onnx
import torch
from torch.utils import _pytree as pytree

import graphopt as go
from graphopt.errors import CaptureError, UnsupportedOperatorError
from graphopt.frontends.capture import ASSUMES
from graphopt.frontends.guards import holds
from graphopt.ir import Graph, difference
from graphopt.ir.text import print_graph
from graphopt.runtime import run
from graphopt.runtime.compare import difference as distance
from graphopt.runtime.ort import OrtSession
from tests.random_torch import RandomModule
from tests.rounding import is_near, spreads


@dataclass(frozen=True)
class Wanted:
    """What every stage has to compute.

    Attributes:
        inputs: arguments.
        result: of the module in eager mode, or of ONNX Runtime on the original.
        graph: finds how well the result is conditioned, where a stage does not come within 1e-4.
    """

    inputs: Sequence[Any]
    result: Any
    graph: Graph
    _loose: set[int] = field(default_factory=set)

    @cached_property
    def leaves(self) -> list[torch.Tensor]:
        return list(pytree.tree_leaves(self.result))

    @cached_property
    def spread(self) -> list[float]:
        """How far rounding alone carries each tensor of the result."""
        return spreads(self.graph, self.inputs)

    @property
    def is_loose(self) -> bool:
        """Whether some stage came no nearer than rounding lets it."""
        return bool(self._loose)

    def check(self, got: Sequence[Any], where: str) -> None:
        """Asserts that results are as they should be; `where` says whose they are."""
        tensors = [torch.as_tensor(each) for each in got]
        assert len(tensors) == len(self.leaves), f"{where}: {len(tensors)} results, not {len(self.leaves)}"
        for index, (mine, theirs) in enumerate(zip(tensors, self.leaves, strict=True)):
            if is_near(mine, theirs):
                continue
            assert is_near(mine, theirs, self.spread[index]), (
                f"{where}: result {index} is off by {distance(mine, theirs).max_rel:.1e} where rounding alone makes "
                f"{self.spread[index]:.1e}, shapes {list(mine.shape)} and {list(theirs.shape)}"
            )
            self._loose.add(index)


def wanted(module: torch.nn.Module, graph: Graph, args: Sequence[Any]) -> Wanted:
    """What `module` computes; `graph` is its graph."""
    with torch.no_grad():
        return Wanted(args, module(*args), graph)


def check_module(module: RandomModule, seed: int = 0) -> str:
    """Sends a module all the way round; raises AssertionError where something is lost.

    Returns:
        How far it went: ``"round"``; ``"carried"`` when ONNX has no operator for a torch operator in it. With
        ``", ill-conditioned"`` when rounding makes a bound wider than 1e-4.
    """
    rng = random.Random(seed)
    # With a batch of one, squeeze and broadcasting would do otherwise than for all other sizes.
    graph, is_dynamic = _capture(module, rng.random() < 0.3 and module.example[0].shape[0] > 1)
    go.verify(graph)
    same_text(graph)
    want = wanted(module, graph, module.example)
    _call(graph, want, "emitted")
    carried = {node.domain for node in graph.walk()} - {""}
    try:
        model = go.to_onnx(graph)
    except UnsupportedOperatorError:
        assert carried, "ONNX has every operator of the graph, but cannot be written"
        return f"carried{note(want)}"
    assert not carried
    check_graph(model, want)
    if is_dynamic:
        _other_batch(module, graph, model)
    _at_another_opset(graph, model, want, rng.randint(13, 26))
    return f"round{note(want)}"


def note(*wants: Wanted) -> str:
    """What to say of the conditioning."""
    return ", ill-conditioned" if any(want.is_loose for want in wants) else ""


def check_graph(model: onnx.ModelProto, want: Wanted) -> None:
    """ONNX Runtime and the graph read back compute what is wanted; written again it is the same graph."""
    want.check(OrtSession(model).run(list(want.inputs)), "ONNX Runtime")
    again = go.load(model.SerializeToString())
    go.verify(again)
    same_text(again)
    want.check(run(again, want.inputs), "executed")
    _call(again, want, "emitted again")
    third = go.load(go.to_onnx(again))
    told = difference(again, third)
    assert told is None, f"written again: {told}"


def same_text(graph: Graph) -> Graph:
    """The text form reads back to the same graph, to the last bit of the weights; returns that."""
    text = print_graph(graph, weights=True)
    back = go.parse(text)
    told = difference(graph, back, provenance=True)
    assert told is None, f"text form: {told}"
    assert print_graph(back, weights=True) == text, "text form: printed again it is another"
    return back


def _capture(module: RandomModule, dynamic: bool) -> tuple[Graph, bool]:
    if dynamic:
        try:
            shapes = {index: {0: "batch"} for index in range(len(module.example))}
            return go.capture(module, module.example, dynamic=shapes), True
        except CaptureError:
            pass  # its reshapes fix the batch
    return go.capture(module, module.example), False


def _call(graph: Graph, want: Wanted, where: str) -> None:
    with torch.no_grad():
        got = go.to_torch(graph)(*want.inputs)
    assert pytree.tree_structure(got) == pytree.tree_structure(want.result), f"{where}: another structure"
    want.check(pytree.tree_leaves(got), where)


def _other_batch(module: RandomModule, graph: Graph, model: onnx.ModelProto) -> None:
    """The next larger batch that meets what the trace assumes and the graph states."""
    batch = module.example[0].shape[0]
    assumed = graph.metadata.get(ASSUMES, "")
    rows = next((n for n in range(1, 12) if holds(assumed, {"batch": batch + n})), None)
    assert rows is not None, f"hardly any batch meets {assumed}"
    larger = [torch.cat([each, *(each[:1] * 0.7**n for n in range(1, rows + 1))]) for each in module.example]
    assert all(each.shape[0] == batch + rows for each in larger)
    want = wanted(module, graph, larger)
    want.check(OrtSession(model).run(larger), "another batch")


def _at_another_opset(graph: Graph, model: onnx.ModelProto, want: Wanted, opset: int) -> None:
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
    want.check(session.run(list(want.inputs)), f"ONNX Runtime at opset {opset}")
