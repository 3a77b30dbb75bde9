"""Module forms of recurrent networks: a stack of ONNX's LSTM, GRU or RNN nodes as one module of torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from graphopt.backends.torch_form import Form, Weight, short
from graphopt.backends.torch_gates import MOVES, leaves_of, weights_of
from graphopt.ir import Dim, Node, Value
from graphopt.ir import dims as D
from graphopt.ops import attribute
from graphopt.ops.infer import static_integers

_MODULES: Mapping[str, type[nn.RNNBase]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
_FILLS = MOVES | {"Cast", "Expand", "Tile"}


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
    layer = _Layer(node)
    user = _reader(node.output)
    if user is None:
        return layer
    if _directions(node) == 1 and user.op == "Squeeze" and static_integers(user.input(1)) == [1]:
        layer.beside, layer.around = user.output, [user]
    moved = user.op == "Transpose" and tuple(attribute(user, "perm")) == (0, 2, 1, 3)
    if moved:
        reshape = _reader(user.output)
        shape = reshape.output.shape if reshape is not None and reshape.op == "Reshape" else None
        if shape is not None and len(shape) == 3 and shape[2] == _directions(node) * (_hidden(node) or 0):
            assert reshape is not None
            layer.beside, layer.around = reshape.output, [user, reshape]
    return layer


def _reader(value: Value) -> Node | None:
    """The one node that reads `value`, leaving out those that only ask for sizes that the graph's inputs tell."""
    readers = [use.user for use in value.uses if not (isinstance(use.user, Node) and use.user.op == "Shape")]
    if len(readers) != 1 or not isinstance(readers[0], Node):
        return None
    if len(value.uses) > 1 and not _told_by_inputs(value):
        return None
    return readers[0]


def _told_by_inputs(value: Value) -> bool:
    graph = value.graph
    if graph is None or value.shape is None or any(size is None for size in value.shape):
        return False
    told = {name for v in graph.inputs for size in v.shape or () if _is_name(size) for name in D.free_names(size)}
    return all(D.free_names(size) <= told for size in value.shape)


def _is_name(size: Dim) -> bool:
    return size is not None and not isinstance(size, int) and bool(size.is_Symbol)


def _layer_below(x: Value, above: Node) -> _Layer | None:
    node = x.producer
    while node is not None and node.op in ("Squeeze", "Reshape", "Transpose") and not node.domain:
        node = node.operand(0).producer
    if node is None or node.op != above.op or node.domain or node.graph is not above.graph or not _is_standard(node):
        return None
    alike = attribute(node, "direction") == attribute(above, "direction") and _hidden(node) == _hidden(above)
    layer = _with_outputs(node)
    return layer if alike and layer.beside is x and _reader(x) is not None else None


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
        for slot, leaves in enumerate(leaves_of(index, _directions(last))[: 3 if biased else 2]):
            found = weights_of(layer.node.operand(slot + 1), layer.node, leaves, _directions(last))
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
