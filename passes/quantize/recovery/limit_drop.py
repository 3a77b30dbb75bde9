"""limit-drop: the layers that cost most accuracy left float, until the rest is within a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, ClassVar

import torch

from graphopt.errors import OptionError
from graphopt.ir import Graph, Node
from graphopt.passes.quantize.insert import InsertQDQ
from graphopt.passes.quantize.pairs import activation_pairs, pairs, strip
from graphopt.passes.quantize.profit import InUse, nanoseconds
from graphopt.passes.quantize.recovery.effects import noise_alone, output_noise, quantized_nodes
from graphopt.pipeline import Changes, Context, Contract, Pass, register
from graphopt.runtime.measure import accuracy
from graphopt.targets import Target, load_target

#: This many of the layers that went back to float go into the notes.
_SHOWN = 5


@register("limit-drop")
@dataclass(frozen=True)
class LimitDrop(Pass):
    """Leave as few layers float as it takes for quantization to stay within a budget of accuracy.

    The budget is in the units of the run's measure: of ``evaluate`` when the run was given one, else of the
    accuracy on labelled data (0.01 is one point), else it is the noise of the outputs as a part of their power
    (0.01 is 20 dB). Layers go back to float in the order of the noise that each makes alone; how many must is found
    by bisection, the target placing the rest anew each time. Where the target knows costs, the order of noise per
    nanosecond that integers save is tried as well, and the result whose modelled time is less is taken. When no
    quantization at all stays within, the graph is left float and the report has the best attempt. Runs between
    `calibrate` and `pack-weights`; give it the options of `insert-qdq`.

    Attributes:
        max_drop: the budget; 0 sets no limit.
        batches: batches to read at most for weighing layers; measures read all the data.
        target: name of a target, or the path of a TOML file.
        ignore: patterns of node, module or tensor names that stay float.
        everything: quantize also what the target has slower on integers.
        sizes: sizes that named dimensions have in use.
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE
    looks_for: ClassVar[frozenset[str]] = frozenset({"QuantizeLinear"})

    max_drop: float = 0.0
    batches: int = 2
    target: str = "ort-cpu"
    ignore: tuple[str, ...] = ()
    everything: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < float("inf"):
            raise OptionError(f"max-drop is {self.max_drop:g}", where="limit-drop{max-drop}", hint="give 0 or more")
        if self.batches < 1:
            raise OptionError(f"batches is {self.batches}", where="limit-drop{batches}", hint="give 1 or more")

    def run(self, graph: Graph, context: Context) -> Changes:
        if self.max_drop == 0:
            return Changes(False)
        measure = measure_of(context)
        best = measure(_stripped(graph))
        first = best - measure(graph)
        if first <= self.max_drop:
            note = f"{measure.what} drops by {first:.4g}, within {self.max_drop:g}; all stays as placed"
            return Changes(False, notes=(note,), details={"drop": first})
        _name_nodes(graph)
        samples = [batch.inputs for batch in islice(context.data, self.batches)]
        noise = noise_alone(graph, samples, context.progress)
        plain, scales = _stripped(graph), _scales(graph)
        searches = [
            _Search(self, context, plain, scales, order, {0: first}, lambda twin: best - measure(twin))
            for order in self._orders(graph, noise, context)
        ]
        found = [(search.fewest(), search) for search in searches]
        fewest, search = min(found, key=lambda each: each[1].modelled_ns.get(each[0], float("inf")))
        strip(graph)
        if fewest < len(search.names):
            self._quantize(graph, context, search.names[:fewest], scales)
        return self._report(search, fewest, measure.what)

    def _orders(self, graph: Graph, noise: Mapping[Node, float], context: Context) -> Iterator[dict[str, float]]:
        """Names of the nodes in the orders in which they may go back to float, each with its time in float."""
        target, sizes = load_target(self.target), {**context.sizes, **self.sizes}
        shaped = InUse(graph, sizes)
        times = {node: _times(node, target, shaped) for node in noise}
        by_noise = sorted(noise, key=lambda node: -noise[node])
        yield {node.name: times[node][0] for node in by_noise}
        if target.costed and not self.everything:
            by_worth = sorted(by_noise, key=lambda node: -noise[node] / max(times[node][0] - times[node][1], 1.0))
            yield {node.name: times[node][0] for node in by_worth}

    def _quantize(
        self, graph: Graph, context: Context, names: list[str], scales: Mapping[str, tuple[Any, Any]]
    ) -> float:
        """Places pairs as the target wants them, without the named nodes, and gives them the scales known already.

        Returns:
            The modelled time, in nanoseconds, of the others that can be on integers; 0 where time had no say.
        """
        placed = InsertQDQ(self.target, self.ignore, self.everything, self.sizes).insert(graph, context, names)
        for pair in activation_pairs(graph):
            if pair.source.name in scales:
                pair.scale.data, pair.zero_point.data = scales[pair.source.name]
        return float(placed.details.get("modelled_ns", {}).get("chosen", 0.0))

    def _report(self, search: _Search, count: int, what: str) -> Changes:
        tried = {number: drop for number, drop in search.drops.items() if number < len(search.names)}
        best = min(tried, key=tried.__getitem__)
        details: dict[str, Any] = {
            "float": search.names[:count],
            "drop": search.drops.get(count, 0.0),
            "best_attempt": {"float": search.names[:best], "drop": tried[best]},
        }
        if count == len(search.names):
            note = (
                f"WARNING: no quantization keeps the drop of {what} within {self.max_drop:g}; the graph is left float "
                f"(the best attempt had {best} layers float and dropped by {tried[best]:.4g})"
            )
            return Changes(True, counts={"left float": count}, notes=(note,), details=details)
        shown = ", ".join(search.names[: min(count, _SHOWN)]) + (", ..." if count > _SHOWN else "")
        note = f"{count} of {len(search.names)} layers left float ({shown}): {what} drops by {details['drop']:.4g} "
        note += f"instead of {search.drops[0]:.4g}"
        return Changes(True, counts={"left float": count}, notes=(note,), details=details)


@dataclass
class _Search:
    """Bisection over how many of the most harmful layers stay float.

    Attributes:
        limit: the pass.
        context: of the run.
        plain: the graph without pairs.
        scales: scales and zero points by the name of what they quantize.
        float_ns: names of nodes, the first to go back to float first, with their modelled times in float.
        drops: what was measured, by the number of layers left float.
        drop: measures a graph.
        modelled_ns: modelled times of the graphs that were within the limit, by the number of layers left float.
    """

    limit: LimitDrop
    context: Context
    plain: Graph
    scales: Mapping[str, tuple[Any, Any]]
    float_ns: Mapping[str, float]
    drops: dict[int, float]
    drop: Callable[[Graph], float]
    modelled_ns: dict[int, float] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return list(self.float_ns)

    def fewest(self) -> int:
        """The fewest that keep the drop within the limit; all of them when nothing else does."""
        low, high = 0, len(self.names)  # low is too few; high is enough
        float_from = high
        while high - low > 1:
            middle = (low + high) // 2
            twin = self.plain.clone()
            modelled = self.limit._quantize(twin, self.context, self.names[:middle], self.scales)
            if not any(True for _ in pairs(twin)):  # what is left does not pay, or cannot be alone
                high = float_from = middle
                continue
            self.drops[middle] = self.drop(twin)
            if self.drops[middle] > self.limit.max_drop:
                low = middle
            else:
                high, self.modelled_ns[middle] = middle, modelled + sum(islice(self.float_ns.values(), middle))
        return len(self.names) if high == float_from else high


def _times(node: Node, target: Target, shaped: InUse) -> tuple[float, float]:
    """Modelled nanoseconds of a node in float and on integers, by itself."""
    rule = target.rule(node)
    if rule is None:
        return 0.0, 0.0
    cost, terms = rule.cost_of(node), shaped.terms(node)
    return nanoseconds(cost.floats, terms), nanoseconds(cost.integers, terms)


def _name_nodes(graph: Graph) -> None:
    """Names the quantized nodes that have no name, so that they can be spoken of."""
    taken = {node.name for node in graph.nodes}
    for node in quantized_nodes(graph):
        if not node.name:
            node.name = next(name for name in _candidates(node) if name not in taken)
            taken.add(node.name)


def _candidates(node: Node) -> Iterator[str]:
    base = f"{node.op}_{node.outputs[0].name}"
    yield base
    yield from (f"{base}_{number}" for number in count(1))


def _scales(graph: Graph) -> dict[str, tuple[torch.Tensor | None, torch.Tensor | None]]:
    return {pair.source.name: (pair.scale.data, pair.zero_point.data) for pair in activation_pairs(graph)}


def _stripped(graph: Graph) -> Graph:
    twin = graph.clone()
    strip(twin)
    return twin


@dataclass(frozen=True)
class Measure:
    """How good a graph is, higher being better, and what that is called."""

    what: str
    of: Callable[[Graph], float]

    def __call__(self, graph: Graph) -> float:
        return self.of(graph)


def measure_of(context: Context) -> Measure:
    """The run's measure: its ``evaluate``, else accuracy on labels, else minus the outputs' noise over their power.

    Raises:
        DataError: the run has neither a measure nor data.
    """
    if context.evaluate is not None:
        evaluate = context.evaluate
        return Measure("the measure", lambda graph: float(evaluate(graph)))
    if all(batch.labels is not None and not batch.labels.is_floating_point() for batch in context.data):
        return Measure("accuracy", lambda graph: accuracy(graph, _labelled(context)))
    return Measure("output noise", lambda graph: -output_noise(graph, (batch.inputs for batch in context.data)))


def _labelled(context: Context) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
    return ((batch.inputs, batch.labels) for batch in context.data if batch.labels is not None)
