"""insert-qdq: quantize/dequantize pairs where a target wants them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import torch

from graphopt.errors import PassError
from graphopt.ir import DType, Graph, Node, Origin, Value
from graphopt.ir.names import unique_names
from graphopt.passes.quantize.calibration import observe
from graphopt.passes.quantize.observers import MinMax
from graphopt.passes.quantize.pairs import add_parameters, insert_pair
from graphopt.passes.quantize.placement import Placement, WeightSite, place
from graphopt.passes.quantize.scales import parameters_of_range, weight_parameters
from graphopt.pipeline import Changes, Context, Contract, Pass, register
from graphopt.runtime.samples import example_inputs
from graphopt.targets import Target, load_target


@register("insert-qdq")
@dataclass(frozen=True)
class InsertQDQ(Pass):
    """Insert QuantizeLinear/DequantizeLinear pairs where a deployment target wants them.

    Weights get their scales from their values, activations from one batch of the data (of random inputs when there is
    none); `calibrate` refines the latter. Weights stay float behind their pairs, so the graph can be fine-tuned
    (quantization-aware training); `pack-weights` stores them as integers.

    Attributes:
        target: name of a target, or the path of a TOML file.
        ignore: patterns of node, module or tensor names that stay float.
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE

    target: str = "ort-cpu"
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        load_target(self.target)

    def run(self, graph: Graph, context: Context) -> Changes:
        unique_names(graph)
        target = load_target(self.target)
        placement = place(graph, target, self.ignore)
        if not placement.nodes:
            raise PassError(
                f"target '{target.name}' finds nothing to quantize", where=self.name,
                hint=f"it quantizes float32 {', '.join(sorted(target.operators))}; is the model quantized already?",
            )  # fmt: skip
        _insert_activations(graph, placement, target, context)
        _insert_weights(graph, placement.weights, target)
        kinds = Counter(node.op for node in placement.nodes)
        notes = [f"on integers: {', '.join(f'{count} {op}' for op, count in kinds.most_common())}"]
        floats = Counter(node.op for node in graph.nodes if node not in placement.nodes and _costs(node))
        if floats:
            notes.append(f"left float: {', '.join(f'{count} {op}' for op, count in floats.most_common())}")
        return Changes(True, counts=dict(kinds), notes=tuple(notes))


def _costs(node: Node) -> bool:
    quantizers = ("QuantizeLinear", "DequantizeLinear")
    return node.op not in quantizers and node.output.dtype is DType.FLOAT32 and not _of_constants(node)


def _of_constants(node: Node) -> bool:
    return all(value is None or value.is_constant for value in node.inputs)


def _insert_activations(graph: Graph, placement: Placement, target: Target, context: Context) -> None:
    groups: dict[Value, list[Value]] = {}
    for value in placement.activations:
        groups.setdefault(placement.scale_of(value), []).append(value)
    inputs = list(context.data.first().inputs) if context.has_data else example_inputs(graph, context.seed)
    observers = observe(graph, groups, [inputs], MinMax)
    order = {node: position for position, node in enumerate(graph.nodes)}
    for root, members in groups.items():
        low, high = observers[root].range()
        scale, zero = parameters_of_range(torch.tensor(low), torch.tensor(high), target.activation)
        parameters = add_parameters(graph, root.name, scale, zero, target.activation)
        for value in members:
            readers = list(value.uses)
            first = min(
                (use.user for use in readers if isinstance(use.user, Node)), key=order.__getitem__, default=None
            )
            before = first if value.is_constant else None
            origin = _origin(value)
            pair = insert_pair(graph, value, *parameters, None, before, origin)
            for use in readers:
                use.user.set_input(use.index, pair.dequantize.output)


def _origin(value: Value) -> Origin:
    base = value.producer.origin if value.producer is not None else Origin()
    return base.touched_by(InsertQDQ.name)


def _insert_weights(graph: Graph, sites: list[WeightSite], target: Target) -> None:
    made: dict[tuple[Value, int | None], Value] = {}
    for site in sites:
        reader = site.use.user
        if not isinstance(reader, Node) or site.value.data is None:
            continue
        key = (site.value, site.axis)
        if key not in made:
            scale, zero = weight_parameters(site.value.data, site.axis, target.weight)
            parameters = add_parameters(graph, site.value.name, scale, zero, target.weight)
            origin = reader.origin.touched_by(InsertQDQ.name)
            pair = insert_pair(graph, site.value, *parameters, site.axis, _first_reader(site.value), origin)
            made[key] = pair.dequantize.output
        reader.set_input(site.use.index, made[key])


def _first_reader(value: Value) -> Node:
    first = value.users[0]
    for user in value.users[1:]:
        if user.graph is first.graph and user.is_before(first):
            first = user
    return first
