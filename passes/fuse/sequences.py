"""Steps of one recurrent network after the other, unrolled or in the body of a Scan or Loop: one operator for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ir import Graph, Node, Origin, Value
from graphopt.ir import dims as D
from graphopt.ops import attribute
from graphopt.ops.builder import Builder
from graphopt.ops.infer import integers, static_integers
from graphopt.passes.fuse.cells import is_step
from graphopt.rewrite import replace

# -- unrolled


def merge_steps(graph: Graph, name: str) -> int:
    """Makes one LSTM or GRU of every chain of steps; returns how many steps went."""
    merged = 0
    for scope in list(graph.graphs()):
        steps = [node for node in scope if is_step(node) and not node.outputs[0].uses]
        following = {first: node for node in steps if (first := _previous(node)) is not None}
        followers = set(following.values())
        for first in steps:
            if first in followers:
                continue
            chain = [first]
            while chain[-1] in following:
                chain.append(following[chain[-1]])
            merged += _merge(chain, name)
    return merged


def _previous(node: Node) -> Node | None:
    """The step whose states a step goes on with; ``None`` where it is not the same layer, or others read its cell."""
    previous = node.operand(5).producer
    if previous is None or not is_step(previous) or previous.op != node.op or previous.graph is not node.graph:
        return None
    if node.inputs[1:4] != previous.inputs[1:4] or node.attributes != previous.attributes or node.operand(5).index != 1:
        return None
    hidden = previous.outputs[1]
    if any(user is not node and is_step(user) and user.input(5) is hidden for user in hidden.users):
        return None
    if node.op == "LSTM":
        cell = node.input(6)
        if cell is not previous.outputs[2] or len(cell.uses) != 1:
            return None
    return previous


def _merge(chain: Sequence[Node], name: str) -> int:
    first, last = chain[0], chain[-1]
    graph = first.graph
    if len(chain) < 2 or graph is None:
        return 0
    op = Builder(graph, first, Origin.merge(first.origin, last.origin).touched_by(name))
    x = _sequence(op, first, [step.operand(0) for step in chain])
    if x is None:
        op.discard()
        return 0
    made = op(first.op, x, *first.inputs[1:], outputs=len(first.outputs), **first.attributes)
    stack = _stack([step.outputs[1] for step in chain])
    if stack is not None:
        rows = op.Squeeze(made[0], [1])
        whole = op.Transpose(rows, perm=[1, 0, 2]) if attribute(stack, "axis") % 3 == 1 else rows
        replace([stack.output], [whole], fresh=op.nodes)
    old, new = list(last.outputs[1:]), made[1:]
    for place, step in enumerate(chain[:-1]):
        if any(user is not chain[place + 1] for user in step.outputs[1].users) or step.outputs[1].is_output:
            old.append(step.outputs[1])
            new.append(op.Gather(made[0], place, axis=0))
    replace(old, new, fresh=op.nodes)
    for step in reversed(chain):
        if step.graph is not None:
            step.graph.erase(step)
    return len(chain) - 1


def _sequence(op: Builder, first: Node, steps: Sequence[Value]) -> Value | None:
    """The inputs [1, B, I] of all steps as [T, B, I]; ``None`` when some are not there yet where the first step is."""
    views = [value.producer for value in steps]
    if any(view is None or view.op != "Unsqueeze" for view in views):
        return None
    inputs = [view.operand(0) for view in views if view is not None]
    found = [_element(value) for value in inputs]
    picked = [each for each in found if each is not None]
    source, axis = (picked[0][0], picked[0][1]) if picked else (None, 0)
    if source is not None and len(picked) == len(found) and _is_there(source, first) and source.rank == 3:
        places = [place for value, along, place in picked if value is source and along == axis]
        if axis < 2 and places == list(range(places[0], places[0] + len(steps))) and places[0] >= 0:
            extent = source.shape[axis] if source.shape else None
            if extent != len(steps):
                source = op.Slice(source, [places[0]], [places[-1] + 1], [axis])
            return op.Transpose(source, perm=[1, 0, 2]) if axis == 1 else source
    if not all(_is_there(value, first) for value in inputs):
        return None
    return op.Concat(*(op.Unsqueeze(value, [0]) for value in inputs), axis=0)


def _is_there(value: Value, node: Node) -> bool:
    producer = value.producer
    return producer is None or producer.graph is not node.graph or producer.is_before(node)


def _element(value: Value) -> tuple[Value, int, int] | None:
    """Of a Gather of one element: from what, along which dimension, and which."""
    node = value.producer
    if node is None or node.op != "Gather" or node.domain or node.operand(1).rank != 0:
        return None
    index, rank = static_integers(node.input(1)), node.operand(0).rank
    return None if index is None or rank is None else (node.operand(0), attribute(node, "axis") % rank, index[0])


def _stack(states: Sequence[Value]) -> Node | None:
    """The Concat that puts the states of all steps, in order, along a new first or second dimension; else ``None``."""
    parts, found = list[Value](), None
    for state in states:
        squeezed = [user.output for user in state.users if user.op == "Squeeze"]
        views = [u.output for value in squeezed for u in value.users if u.op == "Unsqueeze"]
        joins = [(view, u) for view in views for u in view.users if u.op == "Concat"]
        if len(joins) != 1 or (found is not None and joins[0][1] is not found):
            return None
        found = joins[0][1]
        parts.append(joins[0][0])
    if found is None or list(found.inputs) != parts or found.output.rank != 3:
        return None
    axis = attribute(found, "axis") % 3
    axes = [static_integers(part.producer.input(1)) for part in parts if part.producer is not None]
    return found if axis < 2 and all(each == [axis] for each in axes) else None


# -- in bodies


@dataclass(frozen=True)
class _Site:
    """A Scan or Loop, seen alike.

    Attributes:
        x: the sequence, outside.
        axis: along which it is taken apart.
        step: what a round gets of it, inside.
        states: positions of the states among the inputs of the body.
        results: outputs of the body: states, then what is collected.
        collected: along which dimension each is collected.
        backwards: the rounds go from the last element to the first.
    """

    x: Value
    axis: int
    step: Value
    states: Sequence[int]
    results: Sequence[Value]
    collected: Sequence[int]
    backwards: bool = False


def loops_to_layers(graph: Graph, name: str) -> int:
    """Makes one LSTM or GRU of every Scan or Loop whose body is a step; returns how many there were."""
    made = 0
    for node in [node for node in graph.walk() if not node.domain and node.op in ("Scan", "Loop")]:
        site = _scan(node) if node.op == "Scan" else _loop(node)
        if site is not None and node.graph is not None:
            made += _lift(node, site, name)
    return made


def _lift(node: Node, site: _Site, name: str) -> int:
    body: Graph = attribute(node, "body")
    cells = [each for each in body if is_step(each)]
    if len(cells) != 1 or node.graph is None or site.axis > 1 or site.x.rank != 3:
        return 0
    cell = cells[0]
    inner = [cell.operand(5), *([cell.operand(6)] if cell.op == "LSTM" else [])]
    states = [body.inputs[place] for place in site.states]
    order = [states.index(v) if (v := _viewed(each)) in states else -1 for each in inner]
    weights = [cell.operand(place) for place in (1, 2, 3)]
    if sorted(order) != list(range(len(states))) or _viewed(cell.operand(0)) is not site.step:
        return 0
    if any(value.data is None or not value.is_constant for value in weights):
        return 0
    after = [_unwrapped(value) for value in site.results]
    wanted = [cell.outputs[1 + order.index(place)] for place in range(len(states))]
    if after[: len(states)] != wanted or any(value is not cell.outputs[1] for value in after[len(states) :]):
        return 0
    op = Builder(node.graph, node, node.origin.touched_by(name))
    x = op.Transpose(site.x, perm=[1, 0, 2]) if site.axis == 1 else site.x
    stored = [op.constant(value.data, dtype=value.dtype) for value in weights if value.data is not None]
    first = 0 if node.op == "Scan" else 2
    initial = [op.Unsqueeze(node.operand(first + place), [0]) for place in order]
    direction = "reverse" if site.backwards else None
    made = op(
        cell.op, x, *stored, None, *initial, outputs=len(cell.outputs), **{**cell.attributes, "direction": direction}
    )
    new: list[Value] = [op.Squeeze(made[1 + order.index(place)], [0]) for place in range(len(states))]
    for axis in site.collected:
        rows = op.Squeeze(made[0], [1])
        new.append(op.Transpose(rows, perm=[1, 0, 2]) if axis == 1 else rows)
    replace(node.outputs, new, fresh=op.nodes)
    if node.graph is not None:  # nothing read it
        node.graph.erase(node)
    return 1


def _viewed(value: Value) -> Value | None:
    """What is given one more dimension in front."""
    node = value.producer
    if node is None or node.op != "Unsqueeze" or static_integers(node.input(1)) != [0]:
        return None
    return node.operand(0)


def _unwrapped(value: Value) -> Value:
    """What an output of a body is, apart from Identity and from the dimension in front of states."""
    node = value.producer
    while node is not None and not node.domain and node.op in ("Identity", "Squeeze"):
        value = node.operand(0)
        node = value.producer
    return value


def _scan(node: Node) -> _Site | None:
    body: Graph = attribute(node, "body")
    count = len(node.inputs) - attribute(node, "num_scan_inputs")
    if attribute(node, "num_scan_inputs") != 1:
        return None
    outputs = len(node.outputs) - count
    axes = list(node.attributes.get("scan_output_axes") or [0] * outputs)
    turned = [*(node.attributes.get("scan_input_directions") or [0])]
    back = list(node.attributes.get("scan_output_directions") or [0] * outputs)
    if any(each != turned[0] for each in back) or any(axis not in (0, 1) for axis in axes):
        return None
    axis = (node.attributes.get("scan_input_axes") or [0])[0]
    return _Site(node.operand(count), axis, body.inputs[count], range(count), list(body.outputs), axes, bool(turned[0]))


def _loop(node: Node) -> _Site | None:
    body: Graph = attribute(node, "body")
    last = body.outputs[0]
    while last.producer is not None and last.producer.op == "Identity":
        last = last.producer.operand(0)
    start, goes_on = node.input(1), last is body.inputs[1] or static_integers(last) == [1]
    if not goes_on or not (start is None or static_integers(start) == [1]):
        return None
    rounds = integers(node.input(0))
    gathers = [each for each in body if each.op == "Gather" and _unwrapped(each.operand(1)) is body.inputs[0]]
    if len(gathers) != 1 or not rounds or gathers[0].operand(0).graph is body or gathers[0].operand(1).rank != 0:
        return None
    x, axis = gathers[0].operand(0), attribute(gathers[0], "axis")
    if x.shape is None or not D.same(x.shape[axis], rounds[0]):
        return None
    states = range(2, len(body.inputs))
    collected = [0] * (len(body.outputs) - 1 - len(states))
    return _Site(x, axis, gathers[0].output, states, list(body.outputs[1:]), collected)
