"""The opsets that can express a graph, found by asking ONNX's schemas."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import onnx
import onnx.defs
import torch

from graphopt.backends.onnx_forms import DOWNGRADES, OPS_WITH_VALUES, Form, form_at
from graphopt.errors import OptionError, UnsupportedOperatorError
from graphopt.ir import DType, Graph, MapType, Node, OptionalType, SequenceType, TensorType, Value, ValueType

#: The lowest opset that can be asked for, and the lowest that is chosen unasked.
OLDEST, DEFAULT = 13, 18
NEWEST = onnx.defs.onnx_opset_version()

_ALL = (1 << NEWEST + 1) - (1 << OLDEST)
_NAMES = {DType.FLOAT32: "float", DType.FLOAT64: "double"}
_Option = onnx.defs.OpSchema.FormalParameterOption


@dataclass(frozen=True)
class OpVersion:
    """One version of an operator, as its schema says.

    Attributes:
        since, until: the opsets that it holds for, the last excluded.
        attributes: kind of ``AttributeProto`` by name.
        defaults: of the attributes that have one.
        inputs, outputs: allowed types by position; the last one repeats when variadic.
        counts: least and most inputs, least and most outputs.
        optional: outputs that may be left out.
    """

    since: int
    until: int
    attributes: Mapping[str, int]
    defaults: Mapping[str, Any]
    inputs: Sequence[frozenset[str]]
    outputs: Sequence[frozenset[str]]
    counts: tuple[int, int, int, int]
    optional: Sequence[bool]

    def allows(self, position: int, kind: str | None, inputs: bool) -> bool:
        """Whether a type may stand at a position. An unknown type may."""
        types = self.inputs if inputs else self.outputs
        return kind is None or not types or kind in types[min(position, len(types) - 1)]


@cache
def versions_of(op: str, domain: str = "") -> tuple[OpVersion, ...]:
    """The versions of an operator from `OLDEST` on, oldest first; none when ONNX does not have it."""
    found: list[OpVersion] = []
    until = NEWEST + 1 if not domain else 1 << 30
    while until > (OLDEST if not domain else 1):
        try:
            schema = onnx.defs.get_schema(op, max_inclusive_version=until - 1, domain=domain)
        except onnx.defs.SchemaError:
            break
        if schema.deprecated:
            break
        found.append(_version(schema, until))
        until = schema.since_version
    return tuple(reversed(found))


def _version(schema: onnx.defs.OpSchema, until: int) -> OpVersion:
    defaults = {}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name:
            value = onnx.helper.get_attribute_value(attribute.default_value)
            defaults[name] = value.decode() if isinstance(value, bytes) else value
    return OpVersion(
        since=schema.since_version,
        until=until,
        attributes={name: _kind(attribute.type) for name, attribute in schema.attributes.items()},
        defaults=defaults,
        inputs=[frozenset(p.types) for p in schema.inputs],
        outputs=[frozenset(p.types) for p in schema.outputs],
        counts=(schema.min_input, schema.max_input, schema.min_output, schema.max_output),
        optional=[p.option == _Option.Optional for p in schema.outputs],
    )


def _kind(kind: Any) -> int:
    return int(kind.value)  # its stub forgets that it is an enum


def version_at(op: str, domain: str, opset: int) -> OpVersion | None:
    """The version of an operator that holds at `opset`."""
    return next((v for v in reversed(versions_of(op, domain)) if v.since <= opset), None)


@lru_cache(maxsize=4096)
def type_name(kind: ValueType) -> str | None:
    """The name that schemas have for a type; ``None`` when the element type is unknown."""
    match kind:
        case TensorType(dtype=DType.UNDEFINED):
            return None
        case TensorType():
            return f"{'sparse_' if kind.sparse else ''}tensor({_NAMES.get(kind.dtype, str(kind.dtype))})"
        case MapType():
            inner = type_name(kind.element)
            return inner and f"map({kind.key},{inner})"
        case SequenceType():
            inner = type_name(kind.element)
            return inner and f"seq({inner})"
        case OptionalType():
            inner = type_name(kind.element)
            return inner and f"optional({inner})"


# -- which opsets express a node

_cache: dict[Any, int] = {}


@cache
def _late(op: str) -> frozenset[str]:
    """Attributes that only some versions of an operator have."""
    every = [frozenset(v.attributes) for v in versions_of(op)]
    return frozenset().union(*every) - (frozenset.intersection(*every) if len(every) > 1 else frozenset().union(*every))


def expressible(node: Node) -> int:
    """The opsets that can express a standard operator, as a bit set: bit v stands for opset v."""
    op = node.op
    if op in DOWNGRADES or op in OPS_WITH_VALUES:
        return _expressible(node)
    late = _late(op)
    key = (
        op,
        tuple([None if v is None else v.type for v in node.inputs]),
        tuple([v.type for v in node.outputs if v.uses or v.name]),
        tuple([(n, _is_default(op, n, node.attributes[n])) if n in late else n for n in node.attributes]),
    )
    mask = _cache.get(key)
    if mask is None:
        if len(_cache) > 1 << 16:
            _cache.clear()
        mask = _cache[key] = _expressible(node)
    return mask


def _expressible(node: Node) -> int:
    mask = 0
    for version in versions_of(node.op):
        low = max(version.since, OLDEST)
        # A form may change inside the range of a schema (mode names), so each side is asked for.
        edge = DOWNGRADES.get(node.op, (low,))[0]
        for start, stop in ((low, min(edge, version.until)), (max(edge, low), version.until)):
            if start < stop:
                form = form_at(node, start)
                if form is not None and _fits(node, form, version):
                    mask |= (1 << stop) - (1 << start)
    return mask


def _fits(node: Node, form: Form, version: OpVersion) -> bool:
    inputs = trimmed(form.inputs)
    outputs = written_outputs(node, version)
    least_in, most_in, least_out, most_out = version.counts
    if not (least_in <= len(inputs) <= most_in and least_out <= len(outputs) <= most_out):
        return False
    for name, value in form.attributes.items():
        if name not in version.attributes and value is not None and not _is_default(node.op, name, value):
            return False
    for index, each in enumerate(inputs):
        if isinstance(each, Value) and not version.allows(index, type_name(each.type), True):
            return False
    return all(
        v is None or version.allows(i, type_name(v.type), False) for i, v in enumerate(outputs)
    )  # fmt: skip


def _is_default(op: str, name: str, value: Any) -> bool:
    """Whether leaving an attribute out means the same, so that opsets without it can do so."""
    default = next((v.defaults[name] for v in reversed(versions_of(op)) if name in v.defaults), None)
    if isinstance(default, list):
        return list(value) == default
    return default is not None and bool(value == default)


def trimmed(inputs: Sequence[Value | torch.Tensor | None]) -> Sequence[Value | torch.Tensor | None]:
    """Inputs without those left out at the end."""
    count = len(inputs)
    while count and inputs[count - 1] is None:
        count -= 1
    return inputs[:count]


def written_outputs(node: Node, version: OpVersion | None) -> list[Value | None]:
    """The outputs to write: ``None`` where one is left out, those at the end dropped where the schema allows."""
    if version is None:
        return [v if v.name or v.uses else None for v in node.outputs]
    if node.op == "BatchNormalization" and node.attributes.get("training_mode", 0):
        # Its schema calls them optional, its type rule wants all three.
        return [*node.outputs, *(Value() for _ in range(3 - len(node.outputs)))]
    optional = version.optional
    outputs: list[Value | None] = [
        None if not v.uses and i < len(optional) and optional[i] else v for i, v in enumerate(node.outputs)
    ]
    while len(outputs) > max(version.counts[2], 1) and outputs[-1] is None:
        outputs.pop()
    return outputs


# -- which opsets express a graph


def possible_opsets(graph: Graph, asked: int | None) -> list[int]:
    """The opsets to write a graph at as it is, best first: the one asked for, or those that can express it.

    Without one asked for, these are the opsets from `DEFAULT` on, lowest first, then older ones.

    Raises:
        OptionError: the opset asked for does not exist, or is older than `OLDEST`.
        UnsupportedOperatorError: ONNX does not have an operator, or not at the opset asked for; names all such.
    """
    check_opset(asked)
    functions = [onnx.FunctionProto.FromString(raw) for raw in graph.model.functions]
    local = {(f.domain, f.name) for f in functions}
    nodes = [node for node in graph.walk() if (node.domain, node.op) not in local]
    _check_known(nodes)
    standard = [node for node in nodes if not node.domain]
    together = _ALL
    for node in standard:
        together &= expressible(node)
    for function in functions:
        together &= _compatible(function)
    if asked is not None and together >> asked & 1:
        return [asked]
    if asked is not None or not together:
        raise _inexpressible(standard, together, asked)
    # Functions were written for the opset of their file: staying there changes least.
    lowest = min(DEFAULT, max(graph.model.opset, OLDEST)) if functions else DEFAULT
    possible = [v for v in range(OLDEST, NEWEST + 1) if together >> v & 1]
    return [v for v in possible if v >= lowest] + [v for v in reversed(possible) if v < lowest]


def check_opset(asked: int | None) -> None:
    """Raises OptionError for an opset that cannot be written, whatever the graph."""
    if asked is not None and not (isinstance(asked, int) and OLDEST <= asked <= NEWEST):
        raise OptionError(f"opset {asked} cannot be written", hint=f"ask for one from {OLDEST} to {NEWEST}")


def _check_known(nodes: Iterable[Node]) -> None:
    missing: dict[str, Node] = {}
    for node in nodes:
        if node.domain == "aten" or (not node.domain and not versions_of(node.op)):
            missing.setdefault(f"{node.domain}::{node.op}" if node.domain else node.op, node)
    if missing:
        raise UnsupportedOperatorError(
            f"ONNX has no operator for {', '.join(sorted(missing))}",
            where=", ".join(node.describe() for node in list(missing.values())[:3]),
            hint="keep the model in torch (to_torch), or replace what uses these operators",
        )


def _inexpressible(nodes: Collection[Node], together: int, asked: int | None) -> UnsupportedOperatorError:
    if asked is None:
        culprits = [node for node in nodes if not expressible(node)] or list(nodes)
        what = "no opset can express the graph as it is"
        hint = "the element types or attributes of these nodes are in no version of their operators"
    else:
        culprits = [node for node in nodes if not expressible(node) >> asked & 1]
        what = f"opset {asked} cannot express the graph"
        works = [v for v in range(OLDEST, NEWEST + 1) if together >> v & 1]
        later = [v for v in works if v > asked] or works
        hint = f"the lowest opset that can is {later[0]}" if later else "no opset can"
    if not culprits:
        return UnsupportedOperatorError(
            what, where="a local function", hint=f"{hint}; or load with inline=True, which replaces local functions"
        )
    named = ", ".join(node.describe() for node in culprits[:5])
    more = f" and {len(culprits) - 5} more" if len(culprits) > 5 else ""
    return UnsupportedOperatorError(what, where=named + more, hint=hint)


def _compatible(function: onnx.FunctionProto) -> int:
    """The opsets at which the operators in a local function mean what they meant in its file, as a bit set."""
    own = next((each.version for each in function.opset_import if each.domain in ("", "ai.onnx")), 0)
    if not own:
        return _ALL
    mask = _ALL
    for op in _standard_ops(function.node):
        version = version_at(op, "", own)
        mask &= 0 if version is None else (1 << version.until) - (1 << max(version.since, OLDEST))
    return mask


def _standard_ops(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    found = set()
    for node in nodes:
        if node.domain in ("", "ai.onnx"):
            found.add(node.op_type)
        for attribute in node.attribute:
            for body in [*attribute.graphs, attribute.g] if attribute.HasField("g") else attribute.graphs:
                found |= _standard_ops(body.node)
    return found
