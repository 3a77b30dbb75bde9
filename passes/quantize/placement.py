"""Placement: which values a target wants quantized. The target decides; nothing here knows an operator by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from networkx.utils import UnionFind

from graphopt.analysis.cost import UNIT
from graphopt.errors import OptionError
from graphopt.ir import DType, Graph, Node, Use, Value
from graphopt.passes.quantize.regions import Assignment, Unit, cheapest
from graphopt.targets import OperatorRule, Target, constant_source

_AMONG_FLOATS = "among floats, and saves nothing by itself"


#: Option of a run: names of the nodes that passes before made to be computed in float.
FLOAT = "float_nodes"


@dataclass(frozen=True)
class WeightSite:
    """A weight, how its scales run along it, and where it is read.

    Attributes:
        value: the constant.
        axis: the dimension that has a scale per index, or per block; ``None`` for one scale.
        use: where it is read.
        block: elements of `axis` that share a scale; 0 where there are no blocks.
    """

    value: Value
    axis: int | None
    use: Use
    block: int = 0

    def parameter_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the scales of a weight of `shape`: a scalar, a vector, or, in blocks, of the weight's rank."""
        if self.axis is None:
            return ()
        if not self.block:
            return (shape[self.axis],)
        return (*shape[: self.axis], -(-shape[self.axis] // self.block), *shape[self.axis + 1 :])


@dataclass
class Placement:
    """The decision for a graph.

    Attributes:
        activations: values to quantize, each with the uses that are to read it quantized.
        scales: values that share a scale are united.
        weights: weights to quantize.
        integer: units that will run on integers, by their node.
        skipped: nodes that the target could run on integers and that stay float, with the reason.
        fused: values that stay float between the kernel that makes them and a join that is computed in it.
        assignment: the assignment by cost, when there was a choice.
    """

    activations: dict[Value, list[Use]] = field(default_factory=dict)
    scales: UnionFind[Value] = field(default_factory=UnionFind)
    weights: list[WeightSite] = field(default_factory=list)
    integer: dict[Node, Unit] = field(default_factory=dict)
    skipped: dict[Node, str] = field(default_factory=dict)
    fused: set[Value] = field(default_factory=set)
    assignment: Assignment | None = None

    def groups(self) -> list[list[Value]]:
        """The activations, by shared scale, in topological order of their first members."""
        groups: dict[Value, list[Value]] = {}
        for value in self.activations:
            groups.setdefault(self.scales[value], []).append(value)
        return list(groups.values())


def place(
    graph: Graph,
    target: Target,
    ignore: Sequence[str] = (),
    *,
    floats: Collection[str] = (),
    everything: bool = False,
    sizes: Mapping[str, int] = UNIT,
) -> Placement:
    """Decides what is quantized.

    Args:
        graph: the graph, its shapes known.
        target: the target.
        ignore: patterns of names of nodes, modules or tensors that stay float.
        floats: names of nodes that stay float, if they are there.
        everything: quantize all that the target can, instead of what saves time by the target's costs. A target
            that knows no costs does so anyway.
        sizes: sizes that named dimensions have in use; 1 by default.

    Raises:
        OptionError: a pattern matches nothing.
    """
    placement = Placement()
    everything = everything or not target.costed
    _check_patterns(graph, ignore)
    units = list(_units(graph, target, ignore, floats, placement))
    chosen = _connected(units) if everything else units
    if not everything and units:
        placement.assignment = cheapest(graph, units, target, sizes)
        chosen = placement.assignment.integer
    placement.integer = {unit.node: unit for unit in chosen}
    for unit in units:
        if unit.node not in placement.integer:
            placement.skipped[unit.node] = _AMONG_FLOATS if everything else "would not be faster on integers"
    placement.fused = {value for unit in chosen if (value := _fused_input(unit, placement)) is not None}
    for unit in chosen:
        _place(unit, target, placement)
    return placement


def _check_patterns(graph: Graph, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        if not any(is_named(node, pattern) for node in graph.nodes):
            raise OptionError(
                f"pattern '{pattern}' matches no node, module or tensor", where="ignore",
                hint="'graphopt inspect' lists the names; * stands for any characters",
            )  # fmt: skip


def is_named(node: Node, pattern: str) -> bool:
    """True when a pattern of an ignore list matches the node's name, its module's or those of its tensors."""
    names = [node.name, node.origin.module, *(v.name for v in node.outputs), *(v.name for v in node.inputs if v)]
    return any(fnmatch.fnmatchcase(name, pattern) for name in names if name)


def _units(
    graph: Graph, target: Target, ignore: Sequence[str], floats: Collection[str], placement: Placement
) -> Iterator[Unit]:
    for node in graph.nodes:
        rule = target.rule(node)
        if rule is None or rule.role == "stored" or not _can(node, rule):
            continue
        narrow = _too_narrow(node, rule)
        if node.name in floats or any(is_named(node, pattern) for pattern in ignore):
            placement.skipped[node] = "on the ignore list"
        elif narrow:
            placement.skipped[node] = narrow
        elif rule.role == "passthrough":
            yield Unit(node, rule, tuple(value for value in node.outputs if value.uses))
        else:
            yield Unit(node, rule, (_after_absorbed(node.output, target.absorbed_by(rule)),), rule.writes_floats(node))


def _can(node: Node, rule: OperatorRule) -> bool:
    """True when the node computes on floats, of which some are not constant, with constant weights."""
    flowing = False
    for index, value in enumerate(node.inputs):
        if value is None or (role := rule.input_role(index, value)) in ("float", "bias"):
            continue
        if value.dtype is not DType.FLOAT32 or _is_quantized(value):
            return False
        if role == "weight":
            if constant_source(value) is None:
                return False
        else:
            flowing |= not value.is_constant
    return flowing


def _is_quantized(value: Value) -> bool:
    return value.producer is not None and value.producer.op == "DequantizeLinear"


def _too_narrow(node: Node, rule: OperatorRule) -> str:
    """Why the node's weight has too few channels for the target's kernel; empty when it has enough."""
    if not rule.min_inputs and not rule.min_outputs:
        return ""
    weight = next((v for i, v in enumerate(node.inputs) if v is not None and rule.input_role(i, v) == "weight"), None)
    if weight is None or weight.shape is None:
        return ""
    axis = rule.weight_axis(node, len(weight.shape))
    inputs = weight.shape[rule.reduced_axis(axis)]
    for size, least, what in ((inputs, rule.min_inputs, "input"), (weight.shape[axis], rule.min_outputs, "output")):
        if isinstance(size, int) and size < least:
            return f"fewer than {least} {what} channels"
    return ""


def _after_absorbed(value: Value, absorbed: frozenset[str]) -> Value:
    while len(value.uses) == 1 and not value.is_output:
        user = value.users[0]
        if user.op not in absorbed or user.domain or user.input(0) is not value:
            break
        value = user.output
    return value


def _connected(units: Sequence[Unit]) -> list[Unit]:
    """The compute units, and all others whose inputs come quantized from them."""
    chosen: set[Unit] = {unit for unit in units if unit.rule.role == "compute"}
    quantized = {value for unit in chosen for value in (*unit.results, *unit.activations())}
    size = -1
    while size != len(chosen):
        size = len(chosen)
        for unit in units:
            if unit not in chosen and all(v.is_constant or v in quantized for v in unit.activations()):
                chosen.add(unit)
                quantized.update(unit.results)
    return [unit for unit in units if unit in chosen]


def _place(unit: Unit, target: Target, placement: Placement) -> None:
    for index, value in enumerate(unit.node.inputs):
        if value is None or value in placement.fused:
            continue
        role = unit.rule.input_role(index, value)
        if role == "activation":
            uses = placement.activations.setdefault(value, [])
            if Use(unit.node, index) not in uses:  # there already when an integer kernel makes the value
                uses.append(Use(unit.node, index))
        elif role == "weight" and (source := constant_source(value)) is not None:
            placement.weights.append(_weight_site(unit, index, value, source, target))
    for value in unit.results:
        read = [use for use in value.uses if _reads_integers(use, placement)]
        if unit.writes_floats and not read:
            continue
        placement.activations[value] = read if unit.writes_floats else list(value.uses)
    sharing = "always" if unit.rule.role == "passthrough" else unit.rule.share_scale
    if sharing == "always" or (sharing == "alike" and _alike(unit, target, placement)):
        results = [value for value in unit.results if value in placement.activations]
        placement.scales.union(*unit.activations(), *results)


def _fused_input(unit: Unit, placement: Placement) -> Value | None:
    """The input that stays float because the kernel that makes it computes the unit on its way out.

    Of several such inputs it is the last to be computed: the others are there by then.
    """
    if not unit.rule.residual:
        return None
    last: Node | None = None
    for value in unit.activations():
        node = value.producer
        maker = placement.integer.get(node) if node is not None else None
        if node is None or maker is None or maker.rule.role != "compute" or not maker.rule.float_output:
            continue
        if len(value.uses) == 1 and (last is None or last.is_before(node)):
            last = node
    return None if last is None else last.output


def _alike(unit: Unit, target: Target, placement: Placement) -> bool:
    """True when all that the unit reads comes from the same kind of absorbed operator, or none of it from any."""
    sources = [_moved_from(value, placement) for value in unit.activations()]
    return len({_absorbed_by(value, target) for value in sources}) == 1 and not any(v.is_constant for v in sources)


def _moved_from(value: Value, placement: Placement) -> Value:
    """Where the numbers of `value` were computed: before passthroughs, and before joins of alike values."""
    while value.producer is not None and (maker := placement.integer.get(value.producer)) is not None:
        if maker.rule.role != "passthrough" and maker.rule.share_scale == "no":
            break
        value = maker.node.operand(0)
    return value


def _absorbed_by(value: Value, target: Target) -> tuple[str, tuple[float, ...]] | None:
    """The absorbed operator that makes `value`, with its bounds."""
    node = value.producer
    if node is None or node.op not in target.absorb:
        return None
    bounds = [v.data for v in node.inputs[1:] if v is not None and v.data is not None]
    return node.op, tuple(float(bound) for bound in bounds)


def _reads_integers(use: Use, placement: Placement) -> bool:
    unit = placement.integer.get(use.user) if isinstance(use.user, Node) else None
    if unit is None or not isinstance(use.user, Node) or use.user.operand(use.index) in placement.fused:
        return False
    return unit.rule.input_role(use.index, use.user.operand(use.index)) == "activation"


def _weight_site(unit: Unit, index: int, value: Value, source: tuple[Value, list[Node]], target: Target) -> WeightSite:
    constant, chain = source
    rank, block = value.rank or 1, target.weight.block
    axis = unit.rule.weight_axis(unit.node, rank) if rank > 1 and (block or target.per_channel(unit.rule)) else None
    if axis is not None and block:
        axis = unit.rule.reduced_axis(axis) % rank
    for transpose in reversed(chain):  # the axis as the constant has it
        if axis is not None:
            permutation = transpose.attributes.get("perm") or tuple(reversed(range(rank)))
            axis = permutation[axis]
    use = Use(chain[0], 0) if chain else Use(unit.node, index)
    return WeightSite(constant, axis, use, block if axis is not None else 0)
