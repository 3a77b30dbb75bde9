"""Module forms of recurrent networks: a stack of ONNX's LSTM, GRU or RNN nodes as one module of torch.

ONNX packs the directions and gates of a layer into one tensor, torch keeps a tensor per direction. Where the packing is
part of the graph (Split, Concat, Unsqueeze of the module's parameters), it is recognised by running it on indices: it
does not matter how it is written. Where it has been folded into a constant, the module's tensors are cut out of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from graphopt.backends.torch_form import Form, Weight, is_weight, plain, short
from graphopt.ir import Node, Value
from graphopt.ops import attribute, execute
from graphopt.ops.infer import static_integers

#: Torch's gates in the order in which ONNX has them.
_ORDER: Mapping[str, tuple[int, ...]] = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
_MODULES: Mapping[str, type[nn.RNNBase]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
_MOVES = frozenset(
    {"Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
_FILLS = _MOVES | {"Cast", "Expand", "Tile"}


@dataclass
class _Layer:
    """One node of a stack, and the nodes around it that torch's module does by itself."""

    node: Node
    beside: Value | None = None  # the outputs with the directions side by side, [T, B, dirs * H]
    around: list[Node] = field(default_factory=list)


def recurrent(node: Node) -> Iterator[Form]:
    """Matcher for LSTM, GRU and RNN; `node` is the last layer."""
    if not _is_standard(node):
        return
    layers, ratio = _stack(node)
    form = _form(layers, ratio)
    if form is not None:
        yield form
    if len(layers) > 1:
        alone = _form(layers[-1:], 0.0)
        if alone is not None:
            yield alone


def _is_standard(node: Node) -> bool:
    """True when torch has the cell: default activations, no clipping, peepholes, lengths or batch-first layout."""
    if attribute(node, "clip") or attribute(node, "layout") or node.input(4) is not None or node.input(7) is not None:
        return False
    if attribute(node, "direction") not in ("forward", "bidirectional"):
        return False
    names = [name.lower() for name in attribute(node, "activations") or ()]
    if node.op == "RNN":
        return not names or (len(set(names)) == 1 and names[0] in ("tanh", "relu"))
    default = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}[node.op]
    if names and names != default * (len(names) // len(default)):
        return False
    return bool(attribute(node, "linear_before_reset")) if node.op == "GRU" else not attribute(node, "input_forget")


# -- finding the stack


def _directions(node: Node) -> int:
    return 2 if attribute(node, "direction") == "bidirectional" else 1


def _hidden(node: Node) -> int | None:
    shape = node.operand(2).shape
    return None if shape is None or not isinstance(shape[-1], int) else shape[-1]


def _stack(last: Node) -> tuple[list[_Layer], float]:
    """The layers that end in `last`, and the dropout between them."""
    layers = [_with_outputs(last)]
    ratios: set[float] = set()
    while True:
        x, between = layers[0].node.operand(0), []
        if x.producer is not None and x.producer.op == "Dropout" and not x.producer.domain:
            between = [x.producer]
            x = x.producer.operand(0)
        below = _layer_below(x, layers[0].node)
        ratio = _ratio(between)
        if below is None or ratio is None or len({*ratios, ratio}) > 1:
            return layers, next(iter(ratios), 0.0)
        ratios.add(ratio)
        below.around += between
        layers.insert(0, below)


def _ratio(between: Sequence[Node]) -> float | None:
    if not between:
        return 0.0
    ratio, mode = between[0].input(1), between[0].input(2)
    if mode is not None or len(between[0].output.uses) != 1:
        return None
    if ratio is None:
        return 0.5
    return float(ratio.data) if ratio.is_constant and ratio.data is not None else None


def _with_outputs(node: Node) -> _Layer:
    """A layer with what puts its directions side by side, when that is all that reads its outputs."""
    layer, uses = _Layer(node), list(node.output.uses)
    if len(uses) != 1 or not isinstance(uses[0].user, Node):
        return layer
    user = uses[0].user
    if _directions(node) == 1 and user.op == "Squeeze" and static_integers(user.input(1)) == [1]:
        layer.beside, layer.around = user.output, [user]
    moved = user.op == "Transpose" and tuple(attribute(user, "perm")) == (0, 2, 1, 3)
    if moved and len(user.output.uses) == 1:
        reshape = user.output.users[0] if user.output.users else None
        shape = reshape.output.shape if reshape is not None and reshape.op == "Reshape" else None
        if shape is not None and len(shape) == 3 and shape[2] == _directions(node) * (_hidden(node) or 0):
            assert reshape is not None
            layer.beside, layer.around = reshape.output, [user, reshape]
    return layer


def _layer_below(x: Value, above: Node) -> _Layer | None:
    node = x.producer
    while node is not None and node.op in ("Squeeze", "Reshape", "Transpose") and not node.domain:
        node = node.operand(0).producer
    if node is None or node.op != above.op or node.domain or node.graph is not above.graph or not _is_standard(node):
        return None
    alike = attribute(node, "direction") == attribute(above, "direction") and _hidden(node) == _hidden(above)
    layer = _with_outputs(node)
    return layer if alike and layer.beside is x and len(x.uses) == 1 else None


# -- weights


def _suffixes(layer: int, directions: int) -> list[str]:
    return [f"l{layer}", f"l{layer}_reverse"][:directions]


def _leaves(layer: int, directions: int) -> tuple[tuple[str, ...], ...]:
    """Names of torch's tensors in ONNX's W, R and B, in order."""
    suffixes = _suffixes(layer, directions)
    return (
        tuple(f"weight_ih_{s}" for s in suffixes),
        tuple(f"weight_hh_{s}" for s in suffixes),
        tuple(f"bias_{kind}_{s}" for s in suffixes for kind in ("ih", "hh")),
    )


def _reorder(tensor: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    gates = tensor.chunk(len(order), 0)
    return torch.cat([gates[i] for i in order])


def _pack(tensors: Sequence[torch.Tensor], order: Sequence[int], directions: int) -> torch.Tensor:
    rows = [_reorder(tensor, order) for tensor in tensors]
    each = len(rows) // directions
    return torch.stack([torch.cat(rows[d * each : (d + 1) * each]) for d in range(directions)])


def _unpack(packed: torch.Tensor, order: Sequence[int], count: int) -> list[torch.Tensor]:
    inverse = [order.index(i) for i in range(len(order))]
    each = count // packed.shape[0]
    return [_reorder(part, inverse) for row in packed for part in row.chunk(each)]


def _weights(value: Value, node: Node, leaves: Sequence[str]) -> list[Weight] | None:
    """The module's tensors in one of W, R and B."""
    order, directions = _ORDER[node.op], _directions(node)
    if is_weight(value, node):
        if len(leaves) == 1 and len(order) == 1 and value.parameter is not None:
            return None
        return [
            Weight(
                value, tuple(leaves), layout="gates",
                unpack=lambda packed: _unpack(packed, order, len(leaves)),
                pack=lambda tensors: _pack(tensors, order, directions),
            )
        ]  # fmt: skip
    sources = _sources(value)
    if sources is None:
        return None
    named: dict[str, Value] = {}
    for source in sources:
        parameter = source.parameter
        names = () if parameter is None else (parameter.name, *parameter.aliases)
        for leaf in leaves:
            if any(name.rpartition(".")[2] == leaf for name in names):
                named[leaf] = source
    if set(named) != set(leaves) or len(set(named.values())) != len(sources):
        return None
    tags = _tags(sources)
    same = torch.equal(_run(value, tags), _pack([tags[named[leaf]] for leaf in leaves], order, directions))
    return [plain(leaf, named[leaf]) for leaf in leaves] if same else None


def _sources(value: Value) -> list[Value] | None:
    """The float constants that `value` is put together from; ``None`` when it is more than moving elements."""
    found: dict[Value, None] = {}
    stack = [value]
    while stack:
        each = stack.pop()
        if each.is_constant:
            if each.dtype.is_float:
                found[each] = None
            elif each.data is None:
                return None
            continue
        node = each.producer
        if node is None or node.domain or node.op not in _MOVES:
            return None
        stack += [v for v in node.inputs if v is not None]
    return list(found)


def _tags(sources: Sequence[Value]) -> dict[Value, torch.Tensor]:
    """A tensor of distinct numbers for each constant."""
    tags, start = {}, 0
    for source in sources:
        assert source.data is not None
        count = source.data.numel()
        tags[source] = torch.arange(start, start + count).reshape(source.data.shape)
        start += count
    return tags


def _run(value: Value, env: dict[Value, torch.Tensor]) -> torch.Tensor:
    if value in env:
        return env[value]
    if value.data is not None:
        return value.data
    node = value.producer
    assert node is not None
    results = execute(node, [None if v is None else _run(v, env) for v in node.inputs])
    env.update(zip(node.outputs, results, strict=False))
    return env[value]


# -- states and results


def _is_zeros(value: Value | None) -> bool:
    """True when every element is known to be zero."""
    while value is not None:
        if value.is_constant:
            return value.data is not None and not bool(value.data.any())
        node = value.producer
        if node is None or node.domain:
            return False
        if node.op == "ConstantOfShape":
            fill = attribute(node, "value")
            return fill is None or not bool(fill.any())
        if node.op not in _FILLS:
            return False
        value = node.operand(0)
    return True


def _states(layers: Sequence[_Layer], index: int) -> tuple[Value | None] | None:
    """The initial state of the whole stack: a value, or ``None`` inside for zeros; ``None`` when it is neither."""
    each = [layer.node.input(index) for layer in layers]
    if all(_is_zeros(state) for state in each):
        return (None,)
    if len(each) == 1:
        return (each[0],)
    split = each[0].producer if each[0] is not None else None
    if split is None or split.op != "Split" or list(split.outputs) != each or attribute(split, "axis") != 0:
        return None
    return (split.operand(0),)


def _pick_outputs(directions: int, hidden: int) -> Any:
    """From [T, B, dirs * H] to ONNX's [T, dirs, B, H]."""

    def pick(emitter: Any, result: Any) -> Any:
        y = emitter.item(result, 0)
        if directions == 1:
            return emitter.method("unsqueeze", y, 1)
        return emitter.method("transpose", emitter.method("unflatten", y, 2, (directions, hidden)), 1, 2)

    return pick


def _pick_state(which: int | None) -> Any:
    """The final states of the stack: the only one, or entry `which` of the pair."""

    def pick(emitter: Any, result: Any) -> Any:
        states = emitter.item(result, 1)
        return states if which is None else emitter.item(states, which)

    return pick


def _pick_layer(which: int | None, layer: int, directions: int) -> Any:
    whole = _pick_state(which)

    def pick(emitter: Any, result: Any) -> Any:
        return emitter.method("narrow", whole(emitter, result), 0, layer * directions, directions)

    return pick


def _results(layers: Sequence[_Layer], hidden: int) -> tuple[tuple[tuple[Value, Any], ...], list[Node]]:
    last, directions = layers[-1], _directions(layers[-1].node)
    found: list[tuple[Value, Any]] = [(last.node.output, _pick_outputs(directions, hidden))]
    absorbed: list[Node] = []
    if last.beside is not None:
        found = [(last.beside, lambda emitter, result: emitter.item(result, 0))]
    for index in range(1, len(last.node.outputs)):
        which = index - 1 if last.node.op == "LSTM" else None
        each = [layer.node.outputs[index] if index < len(layer.node.outputs) else None for layer in layers]
        joined = _joined([value for value in each if value is not None])
        if len(layers) == 1 or joined is not None:
            found.append((last.node.outputs[index] if joined is None else joined.output, _pick_state(which)))
            absorbed += [] if joined is None else [joined]
            continue
        for layer, value in enumerate(each):
            if value is not None and value.uses:
                found.append((value, _pick_layer(which, layer, directions)))
    return tuple(found), absorbed


def _joined(values: Sequence[Value]) -> Node | None:
    """The Concat that is all that reads `values`."""
    users = values[0].users if len(values) > 1 else []
    if len(users) != 1 or users[0].op != "Concat" or users[0].domain or attribute(users[0], "axis") != 0:
        return None
    alone = all(len(value.uses) == 1 for value in values)
    return users[0] if alone and list(users[0].inputs) == list(values) else None


def _form(layers: Sequence[_Layer], ratio: float) -> Form | None:
    last = layers[-1].node
    hidden, width = _hidden(last), layers[0].node.operand(1).shape
    biased = last.input(3) is not None
    if hidden is None or width is None or not isinstance(width[-1], int):
        return None
    weights: list[Weight] = []
    for index, layer in enumerate(layers):
        if (layer.node.input(3) is not None) is not biased:
            return None
        for slot, leaves in enumerate(_leaves(index, _directions(last))[: 3 if biased else 2]):
            found = _weights(layer.node.operand(slot + 1), layer.node, leaves)
            if found is None:
                return None
            weights += found
    states = [_states(layers, index) for index in ((5, 6) if last.op == "LSTM" else (5,))]
    if any(state is None for state in states):
        return None
    given = [state[0] for state in states if state is not None]
    if any(state is None for state in given) and any(state is not None for state in given):
        return None
    results, joins = _results(layers, hidden)
    around = [node for layer in layers for node in (*layer.around, *([] if layer.node is last else [layer.node]))]
    inputs: tuple[Any, ...] = (layers[0].node.operand(0),)
    if given[0] is not None:
        inputs = (*inputs, tuple(given) if last.op == "LSTM" else given[0])
    return Form(
        _MODULES[last.op], _options(layers, width[-1], hidden, biased, ratio), tuple(weights), inputs,
        absorbed=(*around, *joins), results=results,
    )  # fmt: skip


def _options(layers: Sequence[_Layer], width: int, hidden: int, biased: bool, ratio: float) -> dict[str, Any]:
    last = layers[-1].node
    options: dict[str, Any] = {"input_size": width, "hidden_size": hidden}
    if len(layers) > 1:
        options["num_layers"] = len(layers)
    if not biased:
        options["bias"] = False
    if ratio:
        options["dropout"] = short(ratio)
    if _directions(last) == 2:
        options["bidirectional"] = True
    if last.op == "RNN" and attribute(last, "activations"):
        options["nonlinearity"] = attribute(last, "activations")[0].lower()
    return options


__all__ = ["recurrent"]
