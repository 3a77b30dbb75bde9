"""insert-qdq: quantize/dequantize pairs where a target wants them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from graphopt.analysis.cost import assumed_sizes
from graphopt.errors import PassError
from graphopt.ir import DType, Graph, Node, Origin, Use, Value
from graphopt.ir.names import unique_names
from graphopt.passes.quantize.calibration import observe
from graphopt.passes.quantize.nothing import why_nothing
from graphopt.passes.quantize.observers import MinMax
from graphopt.passes.quantize.pairs import add_parameters, insert_pair, pairs
from graphopt.passes.quantize.placement import FLOAT, Placement, WeightSite, place
from graphopt.passes.quantize.scales import fixed_parameters, parameters_of_range, weight_parameters
from graphopt.pipeline import Changes, Context, Contract, Pass, register
from graphopt.runtime.samples import example_inputs
from graphopt.targets import Target, load_target


@register("insert-qdq")
@dataclass(frozen=True)
class InsertQDQ(Pass):
    """Insert QuantizeLinear/DequantizeLinear pairs where a deployment target wants them and they save time.

    Weights get their scales from their values, activations from one batch of the data (of random inputs when there is
    none); `calibrate` refines the latter. Weights stay float behind their pairs, so the graph can be fine-tuned
    (quantization-aware training); `pack-weights` stores them as integers.

    Attributes:
        target: name of a target, or the path of a TOML file.
        ignore: patterns of node, module or tensor names that stay float.
        everything: quantize all that the target has integer kernels for, also where they are slower than floats.
        sizes: sizes that named dimensions have in use ({batch:32}), by which time is weighed; by default those of the
            data, and 1 for the leading dimension and where there is no data.
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE

    target: str = "ort-cpu"
    ignore: tuple[str, ...] = ()
    everything: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        load_target(self.target)

    def run(self, graph: Graph, context: Context) -> Changes:
        return self.insert(graph, context)

    def insert(self, graph: Graph, context: Context, floats: Collection[str] = ()) -> Changes:
        """Inserts the pairs; the nodes named in `floats`, and those that the run's passes named before, stay float."""
        target = load_target(self.target)
        if any(True for _ in pairs(graph)):
            raise PassError(
                "the graph is quantized already", where=self.name, hint="start from the float model",
            )  # fmt: skip
        floats = {*floats, *context.options.get(FLOAT, ())}
        sizes = {**context.sizes, **self.sizes}
        placement = place(graph, target, self.ignore, floats=floats, everything=self.everything, sizes=sizes)
        if not placement.integer and not placement.skipped:
            raise PassError(
                f"target '{target.name}' finds nothing to quantize", where=self.name,
                hint=why_nothing(graph, target.operators, bodies=False),
            )  # fmt: skip
        report = _report(graph, placement, target)
        if placement.assignment is not None and (assumed := assumed_sizes(graph.inputs, sizes)):
            note = f"time was weighed at {assumed}: give data of the sizes in use, or sizes={{...}}"
            report = replace(report, notes=(*report.notes, note))
        if not placement.integer:
            return report
        unique_names(graph)
        _insert_activations(graph, placement, target, context)
        _insert_weights(graph, placement.weights, target)
        return report


def _report(graph: Graph, placement: Placement, target: Target) -> Changes:
    kinds = Counter(node.op for node in placement.integer)
    notes = [f"on integers: {_listed(kinds)}" if kinds else "nothing is on integers: floats are as fast everywhere"]
    for reason in dict.fromkeys(placement.skipped.values()):
        notes.append(f"{reason}: {_listed(Counter(n.op for n, why in placement.skipped.items() if why == reason))}")
    rest = Counter(node.op for node in graph.nodes if _is_float(node, placement, target))
    if rest:
        notes.append(f"no integer form: {_listed(rest)}")
    details: dict[str, Any] = {
        "integer": [node.describe() for node in placement.integer],
        "float": {node.describe(): reason for node, reason in placement.skipped.items()},
    }
    if placement.assignment is not None:
        details["modelled_ns"] = {"float": placement.assignment.float_ns, "chosen": placement.assignment.chosen_ns}
    return Changes(bool(kinds), counts=dict(kinds), notes=tuple(notes), details=details)


def _listed(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {op}" for op, count in kinds.most_common())


def _is_float(node: Node, placement: Placement, target: Target) -> bool:
    """True for a node of the rest: neither placed nor skipped nor absorbed, and computing floats from floats."""
    if node in placement.integer or node in placement.skipped or node.op in target.absorb:
        return False
    flowing = any(value is not None and not value.is_constant for value in node.inputs)
    return flowing and node.output.dtype is DType.FLOAT32


def _insert_activations(graph: Graph, placement: Placement, target: Target, context: Context) -> None:
    groups = {members[0]: members for members in placement.groups()}
    inputs = list(context.data.first().inputs) if context.has_data else example_inputs(graph, context.seed)
    observers = observe(graph, groups, [inputs], MinMax)
    order = {node: position for position, node in enumerate(graph.nodes)}
    for root, members in groups.items():
        fixed = fixed_parameters(members, target)
        scale, zero = fixed or parameters_of_range(*observers[root].range(target.activation), target.activation)
        parameters = add_parameters(graph, root.name, scale, zero, target.activation)
        for value in members:
            uses = placement.activations[value]
            before = None if value.producer is not None else _first(uses, order)
            pair = insert_pair(graph, value, *parameters, None, before, _origin(value))
            for use in uses:
                use.user.set_input(use.index, pair.dequantize.output)


def _first(uses: list[Use], order: dict[Node, int]) -> Node | None:
    readers = [use.user for use in uses if isinstance(use.user, Node)]
    return min(readers, key=order.__getitem__, default=None)


def _origin(value: Value) -> Origin:
    base = value.producer.origin if value.producer is not None else Origin()
    return base.touched_by(InsertQDQ.name)


def _insert_weights(graph: Graph, sites: list[WeightSite], target: Target) -> None:
    made: dict[tuple[Value, int | None, int], Value] = {}
    for site in sites:
        reader = site.use.user
        if not isinstance(reader, Node) or site.value.data is None:
            continue
        key = (site.value, site.axis, site.block)
        if key not in made:
            scale, zero = weight_parameters(site.value.data, site.axis, target.weight, site.block)
            parameters = add_parameters(graph, site.value.name, scale, zero, target.weight)
            origin = reader.origin.touched_by(InsertQDQ.name)
            first = _first_reader(site.value)
            pair = insert_pair(graph, site.value, *parameters, site.axis, first, origin, site.block)
            made[key] = pair.dequantize.output
        reader.set_input(site.use.index, made[key])


def _first_reader(value: Value) -> Node:
    first = value.users[0]
    for user in value.users[1:]:
        if user.graph is first.graph and user.is_before(first):
            first = user
    return first
