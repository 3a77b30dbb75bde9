"""The proof of rules: small graphs that a rule must rewrite, and near misses that it must leave alone.

Every case is executed before and after, in torch and in ONNX Runtime, and what a rule never may change is checked.
`tests/passes/test_rule_cases.py` fails when a registered rule has no match or no near miss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from graphopt.analysis import propagate, propagate_all
from graphopt.backends.onnx_model import to_onnx
from graphopt.ir import DType, Graph, Parameter, TensorType, Value
from graphopt.ops.builder import Builder
from graphopt.rewrite import Rule, apply_rules
from graphopt.runtime.compare import Difference, compare
from graphopt.runtime.executor import run
from graphopt.runtime.ort import OrtSession
from graphopt.runtime.samples import example_inputs


class Draft(Builder):
    """A graph in the making: `d.input(...)`, `d.weight(...)`, operators, `d.output(...)`."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(Graph())
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed + 1)

    def size(self, usual: int) -> int:
        """An extent: the usual one, or with a seed any from there to twice as much."""
        return usual if not self.seed else usual + int(torch.randint(0, usual + 1, (), generator=self.generator))

    def input(self, *shape: Any, dtype: DType = DType.FLOAT32, default: torch.Tensor | None = None) -> Value:
        return self.graph.add_input(f"x{len(self.graph.inputs)}", TensorType.make(dtype, shape), default=default)

    def weight(self, *shape: int, name: str = "", positive: bool = False, dtype: torch.dtype = torch.float32) -> Value:
        """A random constant; with a `name`, a parameter of a module."""
        data = torch.randn(shape, generator=self.generator).to(dtype)
        data = data.abs() + 0.5 if positive else data
        return self.constant(data, parameter=Parameter(name) if name else None)

    def full(self, number: float, *shape: int, dtype: torch.dtype = torch.float32) -> Value:
        return self.constant(torch.full(shape, number, dtype=dtype))

    def bn(self, x: Value, channels: int, name: str = "", **attributes: Any) -> Value:
        names = [f"{name}.{leaf}" if name else "" for leaf in ("weight", "bias", "running_mean", "running_var")]
        vectors = [self.weight(channels, name=n, positive=i in (0, 3)) for i, n in enumerate(names)]
        for value in vectors[2:]:
            if value.parameter is not None:
                value.parameter = Parameter(value.parameter.name, buffer=True)
        return self.BatchNormalization(x, *vectors, **attributes)

    def output(self, *values: Value) -> None:
        for value in values:
            self.graph.add_output(value, f"y{len(self.graph.outputs)}")


@dataclass(frozen=True)
class Case:
    """A graph for a rule, and how often the rule must apply to it."""

    name: str
    rule: Callable[[], Rule]
    draw: Callable[[Draft], Any]
    hits: int
    kind: type[Rule]
    ort: bool
    reason: str
    without: tuple[DType, ...] = ()
    bound: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind.name}:{self.name}"


class Cases(list[Case]):
    """Decorators that fill the table."""

    def match(
        self, rule: type[Rule], hits: int = 1, *, make: Callable[[], Rule] | None = None, ort: bool = True,
        without: tuple[DType, ...] = (), bound: float = 0.0,
    ):  # fmt: skip
        """`draw` makes a graph that the rule rewrites `hits` times.

        `without` are types that the operators lack. An approximate rule may be off by `bound`, and must be off.
        """

        def add(draw: Callable[[Draft], Any]) -> Callable[[Draft], Any]:
            self.append(Case(draw.__name__, make or rule, draw, hits, rule, ort, "", without, bound))
            return draw

        return add

    def miss(self, *rules: type[Rule], reason: str = "", make: Callable[[], Rule] | None = None):
        """`draw` makes a graph that looks alike but must stay as it is; `reason` is part of what the rule says."""

        def add(draw: Callable[[Draft], Any]) -> Callable[[Draft], Any]:
            for rule in rules:
                self.append(Case(draw.__name__, make or rule, draw, 0, rule, False, reason))
            return draw

        return add


def drawn(case: Case, seed: int = 0) -> Graph:
    """The graph of a case; another one for every seed."""
    draft = Draft(seed)
    outputs = case.draw(draft)
    if outputs is not None:
        draft.output(*(outputs if isinstance(outputs, (tuple, list)) else [outputs]))
    return draft.graph


def check_instance(case: Case, seed: int) -> None:
    """Applies the rule to one random instance of its pattern and compares what both sides compute.

    Extents, constants, the batch and the inputs come from the seed. Floats are doubles in every other instance, where
    nothing but a wrong rule makes a difference, and float16 or bfloat16 in a few.
    """
    graph = drawn(case, seed)
    kind = next(kind for kind in _KINDS[seed % len(_KINDS) :] if kind not in case.without)
    if kind is not DType.FLOAT32 and not in_precision(graph, kind):
        kind = DType.FLOAT32
    propagate(graph)
    before = graph.clone()
    statistics = apply_rules(graph, [case.rule()], keep=lambda value: False)
    assert statistics.hits.total() == case.hits, (statistics.details(), str(graph))
    graph.verify()
    inputs = example_inputs(before, seed, {"n": 1 + seed % 5, "m": 1 + seed % 3})
    found = compare(run(graph, inputs), run(before, inputs))
    assert _agrees(case, found, _BOUNDS[kind]), (kind, found, str(graph))


def _agrees(case: Case, found: Difference, bound: float) -> bool:
    if not case.bound:
        return found.within(bound)
    return found.shapes_equal and 0 < found.max_abs <= case.bound + bound


# Each is followed by one that every rule takes.
_KINDS = (
    DType.FLOAT16, DType.FLOAT64, DType.FLOAT32, DType.FLOAT64, DType.FLOAT32,
    DType.BFLOAT16, DType.FLOAT64, DType.FLOAT32, DType.FLOAT64, DType.FLOAT32,
)  # fmt: skip
_BOUNDS = {DType.FLOAT64: 1e-7, DType.FLOAT32: 5e-6, DType.FLOAT16: 1e-2, DType.BFLOAT16: 8e-2}


def in_precision(graph: Graph, kind: DType, casts: bool = False) -> bool:
    """Turns float32 into another type; False when there is none, or are casts that are not to be turned, too."""
    for node in graph.walk():
        if node.op in ("QuantizeLinear", "DequantizeLinear") or (node.op == "Cast" and not casts):
            return False
        if node.op == "Cast" and node.attributes["to"] == DType.FLOAT32:
            node.attributes["to"] = int(kind)
    values = [v for v in [*graph.inputs, *graph.constants] if v.dtype is DType.FLOAT32]
    for value in values:
        value.type = TensorType(kind, value.shape)
        value.data = None if value.data is None else value.data.to(kind.torch)
    propagate_all(graph)
    return bool(values)


def check(case: Case) -> None:
    """Applies the rule and checks everything that a rule promises."""
    graph = drawn(case)
    for number, node in enumerate(graph.nodes):
        node.name = f"{node.op}_{number}"
    propagate(graph)
    graph.verify()
    before, text = graph.clone(), str(graph)
    statistics = apply_rules(graph, [case.rule()], name="proof", keep=lambda value: False)
    graph.verify()
    assert statistics.hits.total() == case.hits, (statistics.details(), str(graph))
    if not case.hits:
        assert str(graph) == text, "a rule that does not apply leaves no trace"
        reasons = [reason for counts in statistics.misses.values() for reason in counts]
        assert case.reason in "; ".join(reasons), reasons
        return
    assert str(graph) != text
    assert graph.output_names == before.output_names
    _check_types(graph, before)
    _check_numbers(case, graph, before)
    if case.ort:
        _check_in_ort(graph, before, case.bound)
    made = [node for node in graph.walk() if "proof" in node.origin.passes]
    assert all(node.origin.passes == ("proof",) for node in made)
    propagate(graph)
    again = apply_rules(graph, [case.rule()], keep=lambda value: False)
    assert not again.hits, "a rule leaves nothing for a second run"


def _check_types(graph: Graph, before: Graph) -> None:
    propagate(graph)
    for new, old in zip(graph.outputs, before.outputs, strict=True):
        assert new.type == _refined(old.type, new.type)


def _refined(old: Any, new: Any) -> Any:
    """The old type, with what only the new one knows (nothing is known of the elements of a sequence)."""
    if old.shape is None:
        return TensorType(old.dtype, new.shape)
    return TensorType(old.dtype, tuple(n if o is None else o for o, n in zip(old.shape, new.shape, strict=True)))


def _check_numbers(case: Case, graph: Graph, before: Graph) -> None:
    for seed in range(3):
        inputs = example_inputs(before, seed, {"n": 3})
        found = compare(run(graph, inputs), run(before, inputs))
        assert _agrees(case, found, 2e-6), (found, str(graph))


def _check_in_ort(graph: Graph, before: Graph, bound: float) -> None:
    inputs = example_inputs(before, 7, {"n": 3})
    sessions = [OrtSession(to_onnx(each), optimize=False) for each in (before, graph)]
    want, got = ([np.asarray(y) for y in session.run(_named(before, inputs))] for session in sessions)
    for mine, theirs in zip(got, want, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5 + bound)


def _named(graph: Graph, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {value.name: tensor for value, tensor in zip(graph.inputs, inputs, strict=True) if value.uses}
