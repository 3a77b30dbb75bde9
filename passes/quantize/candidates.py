"""The range of each activation that costs its readers least, among those that the methods of calibration suggest."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from graphopt.ir import Graph, Node, Value
from graphopt.ops import execute
from graphopt.passes.quantize.calibration import without_pairs
from graphopt.passes.quantize.divergence import Entropy
from graphopt.passes.quantize.observers import Histogram, MeanSquareError, Percentile, Range
from graphopt.passes.quantize.pairs import Pair
from graphopt.passes.quantize.scales import parameters_of_range
from graphopt.runtime import run
from graphopt.runtime.executor import bind_inputs
from graphopt.targets import Scheme

#: The first candidate stays unless another's error is less than this part of its own: what is closer, part of the data
#: does not tell apart.
_CLEARLY = 0.95

#: Scale and zero point.
Parameters = tuple[torch.Tensor, torch.Tensor]


class Candidates(Histogram):
    """One histogram from which every method takes the range that it would find by itself.

    Args:
        percent: part of the values that the percentile keeps, out of 100.
    """

    def __init__(self, percent: float) -> None:
        super().__init__(bins=4096)  # what the finest of them has
        self.percent = percent

    def ranges(self, scheme: Scheme) -> dict[str, Range]:
        """The range of each method, by its name; the first is to be taken where they cost about the same."""
        readings: dict[str, Histogram] = {
            "mse": MeanSquareError(),
            "entropy": Entropy(),
            "percentile": Percentile(self.percent),
            "minmax": Histogram(),
        }
        for reading in readings.values():
            reading.share(self)
        return {name: reading.range(scheme) for name, reading in readings.items()}

    def parameters(self, scheme: Scheme) -> dict[str, Parameters]:
        """Scale and zero point of each method; of methods that come to the same, the first only."""
        found: dict[str, Parameters] = {}
        for name, (low, high) in self.ranges(scheme).items():
            scale, zero = parameters_of_range(low, high, scheme)
            if not any(torch.equal(scale, s) and torch.equal(zero, z) for s, z in found.values()):
                found[name] = scale, zero
        return found


@dataclass
class _Losses:
    """Squared errors of what one reader computes, by candidate, and the squares of what it should."""

    signal: float = 0.0
    noise: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def of(self, name: str) -> float:
        """The error of a candidate as a part of the signal."""
        ratio = self.noise[name] / max(self.signal, torch.finfo(torch.float64).tiny)
        return math.inf if math.isnan(ratio) else ratio


class Trial:
    """Runs a graph in float and, beside, each reader of a quantized tensor on that tensor rounded by each candidate.

    Tensors that share a scale are rounded together where one node reads several of them. What no node of the outermost
    graph reads is compared itself. Memory does not grow with the number of samples.

    Args:
        graph: the graph with its pairs.
        groups: the pairs that share a scale, by that scale.
        candidates: scales and zero points to try, by the scale that they are for.
    """

    def __init__(
        self, graph: Graph, groups: Mapping[Value, Sequence[Pair]], candidates: Mapping[Value, Mapping[str, Parameters]]
    ) -> None:
        self.pairs = {scale: members[0] for scale, members in groups.items()}
        self.candidates = candidates
        self.twin, same = without_pairs(graph)
        self.readers: dict[Node, dict[Value, list[int]]] = {}
        self.unread: dict[Value, list[Value]] = {}
        self.losses: dict[Value, dict[Node | Value, _Losses]] = {scale: defaultdict(_Losses) for scale in groups}
        for scale, members in groups.items():
            for pair in members:
                self._add(scale, pair, same)

    def _add(self, scale: Value, pair: Pair, same: Mapping[Value, Value]) -> None:
        restoring = [user for user in pair.quantize.output.users if user.op == "DequantizeLinear"]
        for use in (use for node in restoring for use in node.output.uses):
            user = use.user if isinstance(use.user, Node) and use.user.outputs else None
            twin = same[user.outputs[0]].producer if user is not None and user.outputs[0] in same else None
            if twin is not None and twin.graph is self.twin and not twin.bodies:
                self.readers.setdefault(twin, {}).setdefault(scale, []).append(use.index)
            elif scale not in self.unread.setdefault(same[pair.source], []):
                self.unread[same[pair.source]].append(scale)

    def see(self, inputs: Sequence[torch.Tensor]) -> None:
        """Adds the errors on a sample."""
        waiting: dict[Node, Sequence[Any]] = {}

        def before(node: Node, arguments: Sequence[Any]) -> None:
            if node in self.readers:
                waiting[node] = arguments

        def after(node: Node, results: tuple[Any, ...]) -> tuple[Any, ...]:
            if node in waiting:
                self._try(node, waiting.pop(node), results)
            for value, result in zip(node.outputs, results, strict=False):
                self._compare(value, result)
            return results

        for value, tensor in bind_inputs(self.twin, inputs).items():
            self._compare(value, tensor)
        run(self.twin, inputs, hook=after, instead=before)

    def _try(self, node: Node, arguments: Sequence[Any], wanted: tuple[Any, ...]) -> None:
        for scale, indices in self.readers[node].items():
            losses = self.losses[scale][node]
            losses.signal += _power(wanted)
            for name in self.candidates[scale]:
                changed = list(arguments)
                for index in indices:
                    changed[index] = self._rounded(scale, name, arguments[index])
                losses.noise[name] += _power(execute(node, changed), wanted)

    def _compare(self, value: Value, tensor: torch.Tensor) -> None:
        for scale in self.unread.get(value, ()):
            losses = self.losses[scale][value]
            losses.signal += _power((tensor,))
            for name in self.candidates[scale]:
                losses.noise[name] += _power((self._rounded(scale, name, tensor),), (tensor,))

    def _rounded(self, scale: Value, name: str, tensor: torch.Tensor) -> torch.Tensor:
        pair, parameters = self.pairs[scale], self.candidates[scale][name]
        stored = execute(pair.quantize, [tensor, *parameters])[0]
        result: torch.Tensor = execute(pair.dequantize, [stored, *parameters])[0]
        return result

    def errors(self, scale: Value) -> dict[str, float]:
        """The error of each candidate: the sum over the readers of its part of what they compute."""
        losses = self.losses[scale].values()
        return {name: sum(each.of(name) for each in losses) for name in self.candidates[scale]}

    def best(self, scale: Value) -> str:
        """The candidate with the least error, or the first where that is not clearly worse."""
        errors = self.errors(scale)
        first, least = next(iter(errors)), min(errors, key=errors.__getitem__)
        return least if errors[least] < _CLEARLY * errors[first] else first


def best_parameters(
    graph: Graph,
    groups: Mapping[Value, Sequence[Pair]],
    observers: Mapping[Value, Candidates],
    samples: Iterable[Sequence[torch.Tensor]],
    scheme: Scheme,
) -> tuple[dict[Value, Parameters], Counter[str]]:
    """Scales and zero points with the least error where the quantized tensors are read, weights being float.

    Args:
        graph: the graph with its pairs.
        groups: the pairs that share a scale, by that scale.
        observers: what was counted of each group.
        samples: inputs of the graph to compare on.
        scheme: of the activations.

    Returns:
        What each scale is to be, and how often each method won against others.
    """
    found = {scale: observers[scale].parameters(scheme) for scale in groups}
    open_ = {scale: each for scale, each in found.items() if len(each) > 1}
    chosen = {scale: next(iter(each.values())) for scale, each in found.items()}
    if not open_:
        return chosen, Counter()
    trial = Trial(graph, {scale: groups[scale] for scale in open_}, open_)
    for inputs in samples:
        trial.see(inputs)
    winners = {scale: trial.best(scale) for scale in open_}
    chosen.update({scale: open_[scale][name] for scale, name in winners.items()})
    return chosen, Counter(winners.values())


def _power(tensors: Sequence[Any], without: Sequence[Any] | None = None) -> float:
    """The sum of squares of float tensors, or of what they differ by from others; infinite where that is not finite."""
    total = 0.0
    for number, tensor in enumerate(tensors):
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            continue
        rest = tensor if without is None else tensor - without[number]
        total += float(rest.float().square().sum(dtype=torch.float64))
    return total if math.isfinite(total) else math.inf
