"""How far float rounding alone may carry the results of a graph: the bound of a fair comparison.

Monte Carlo arithmetic (Parker, "Monte Carlo arithmetic: exploiting randomness in floating-point arithmetic", 1997): the
graph is executed several times with a random relative error of the size of a rounding error in every element that an
operator computes. How far the results spread is how far two correct runtimes may differ. A single run in double
precision does not tell: where terms cancel, float32 is exact by luck in one runtime and is not in another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from graphopt.ir import Graph, Node, Value
from graphopt.ops import record_of
from graphopt.runtime import run
from graphopt.runtime.compare import difference
from graphopt.runtime.executor import bind_inputs

#: Agreement that is asked of well-conditioned results, relative to the largest magnitude.
TOLERANCE = 1e-4
#: Runtimes approximate sigmoid and tanh to an absolute error of this size, also where these are all but zero.
ABSOLUTE = torch.finfo(torch.float32).eps
#: Runs with random errors.
RUNS = 4
#: An operator sums many rounding errors, and a runtime may compute it in several steps.
FACTOR = 8.0

_ONE_PASS = {
    "BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization",
    "MeanVarianceNormalization",
}  # fmt: skip


def spreads(graph: Graph, inputs: Sequence[Any], seed: int = 0) -> list[float]:
    """The largest absolute distance of each output from itself when every operator rounds at random.

    Elements that are only moved, clipped or counted are left alone: they are exact in every runtime.

    Args:
        graph: executed by graphopt; the bodies of If, Loop and Scan each as one operator.
        inputs: by position.
        seed: of the errors.

    Returns:
        One number per output; 0 for outputs that are not made of floats.
    """
    known = {**bind_inputs(graph, inputs), **{value: value.data for value in graph.constants}}
    exact = run(graph, inputs)
    far = [0.0] * len(exact)
    for turn in range(RUNS):
        rounding = _Rounding(known, seed * RUNS + turn)
        for index, (one, other) in enumerate(zip(run(graph, inputs, hook=rounding), exact, strict=True)):
            if isinstance(other, torch.Tensor) and other.is_floating_point():
                far[index] = max(far[index], difference(one, other).max_abs)
    return far


class _Rounding:
    """A hook of the executor that adds rounding errors to what is new in a node's results."""

    def __init__(self, known: Mapping[Value, Any], seed: int) -> None:
        self.noise = torch.Generator().manual_seed(seed)
        self.tensors = dict(known)
        self.seen = torch.empty(0, dtype=torch.float64)
        self._see(known.values())

    def __call__(self, node: Node, results: tuple[Any, ...]) -> tuple[Any, ...]:
        rounded = tuple(self._rounded(each) for each in results)
        if node.op in _ONE_PASS:
            rounded = (self._in_one_pass(node, rounded[0]), *rounded[1:])
        self._see(rounded)
        self.tensors.update(zip(node.outputs, rounded, strict=False))
        return rounded

    def _rounded(self, result: Any) -> Any:
        if isinstance(result, list):
            return [self._rounded(each) for each in result]
        if not isinstance(result, torch.Tensor) or not result.is_floating_point():
            return result
        wide = result.double()
        is_exact = (wide == wide.round()) | torch.isin(wide.abs(), self.seen)
        error = torch.rand(result.shape, generator=self.noise, dtype=torch.float64) * 2 - 1
        return torch.where(is_exact, wide, wide * (1 + error * torch.finfo(result.dtype).eps)).to(result.dtype)

    def _in_one_pass(self, node: Node, result: torch.Tensor) -> torch.Tensor:
        """The error of a variance that is taken as the mean of squares less the square of the mean, as ONNX Runtime
        takes it: it loses what they have in common."""
        x = self.tensors[node.operand(0)].double()
        record = record_of(node)
        assert record is not None
        assert record.normalises is not None
        groups = node.attributes.get("num_groups")
        grouped = x.reshape(x.shape[0], groups, -1) if groups else x
        axes = [2] if groups else list(record.normalises(node))
        if not axes:
            return result
        var, mean = torch.var_mean(grouped, axes, correction=0, keepdim=True)
        lost = torch.finfo(result.dtype).eps * mean.square() / (var + node.attributes.get("epsilon", 1e-5)) / 2
        lost = lost.expand(grouped.shape).reshape(x.shape)
        sign = 1 if torch.rand((), generator=self.noise) < 0.5 else -1
        return (result * (1 + sign * lost)).to(result.dtype)

    def _see(self, values: Iterable[Any]) -> None:
        found = [v.double().abs().flatten() for v in values if isinstance(v, torch.Tensor) and v.is_floating_point()]
        self.seen = torch.cat([self.seen, *found]).unique()


def is_near(got: torch.Tensor, want: torch.Tensor, spread: float = 0.0) -> bool:
    """Whether a result agrees to `TOLERANCE` of the largest magnitude, to `ABSOLUTE`, or as nearly as rounding lets it.

    Integers and booleans must be equal.
    """
    if not want.is_floating_point():
        return got.dtype == want.dtype and torch.equal(got, want)
    found = difference(got, want)
    return found.within(TOLERANCE) or (found.shapes_equal and found.max_abs <= max(FACTOR * spread, ABSOLUTE))
