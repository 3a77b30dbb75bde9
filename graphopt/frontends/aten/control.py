"""Higher-order operators: branches, loops, and regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from graphopt.errors import CaptureError
from graphopt.frontends.aten.builder import INT_MAX, shape_of
from graphopt.frontends.aten.registry import converts
from graphopt.ir import DType, Graph, TensorType, Value


@converts("higher_order.wrap_with_set_grad_enabled")
def with_grad(c: Any, enabled: bool, body: fx.GraphModule, *operands: Any) -> Any:
    return c.inline(body, operands)


@converts("higher_order.wrap_with_autocast")
def with_autocast(
    c: Any, device: str, dtype: Any, enabled: bool, cached: bool | None, body: fx.GraphModule, *operands: Any
) -> Any:
    if enabled:
        raise CaptureError(
            "forward turns autocast on, which chooses element types while it runs",
            where=c.where(),
            hint="convert the module and its example with .half() or .bfloat16(), or leave autocast to the runtime",
        )
    return c.inline(body, operands)


@converts("higher_order.cond")
def cond(c: Any, pred: Value, true_fn: fx.GraphModule, false_fn: fx.GraphModule, operands: Sequence[Any]) -> Any:
    """If; the branches read the operands from outside."""
    branches = {"then_branch": _branch(c, true_fn, operands), "else_branch": _branch(c, false_fn, operands)}
    condition = c.emit("Reshape", pred, c.ints([])) if pred.rank else pred
    return tuple(c.emit_many("If", [condition], len(branches["then_branch"].outputs), **branches))


def _branch(c: Any, module: fx.GraphModule, operands: Sequence[Any]) -> Graph:
    inner, module = c.body(module, str(c.node.name))
    results = inner.inline(module, operands)
    _return(inner, results)
    body: Graph = inner.graph
    return body


def _return(inner: Any, results: Any) -> None:
    items = results if isinstance(results, list | tuple) else [results]
    for index, item in enumerate(items):
        value = _value(inner, item)
        if value.producer is None or value.graph is not inner.graph or value.is_output:
            # ONNX wants a body's results to be made inside it.
            passed = inner.emit("Identity", value)
            passed.type = value.type
            value = passed
        inner.graph.add_output(value, f"result_{index}")


@converts("higher_order.while_loop")
def while_loop(
    c: Any,
    cond_fn: fx.GraphModule,
    body_fn: fx.GraphModule,
    carried: Sequence[Any],
    additional: Sequence[Any] = (),
) -> Any:
    """Loop; the condition is computed once before it and at the end of every round."""
    first = c.operand(_one(c.inline(cond_fn, [*carried, *additional])), DType.BOOL)
    start = [_value(c, item) for item in carried]
    inner, _ = c.body(body_fn, str(c.node.name))
    inner.graph.add_input("iteration", TensorType(DType.INT64, ()))
    inner.graph.add_input("condition", TensorType(DType.BOOL, ()))
    state = [inner.graph.add_input(f"state_{i}", value.type) for i, value in enumerate(start)]
    results = list(inner.inline(body_fn, [*state, *additional]))
    again = inner.operand(_one(inner.inline(cond_fn, [*results, *additional])), DType.BOOL)
    _return(inner, [again, *results])
    trips = c.scalar(INT_MAX, DType.INT64)
    return tuple(c.emit_many("Loop", [trips, first, *start], len(start), body=inner.graph))


@converts("higher_order.scan")
def scan(
    c: Any, combine_fn: fx.GraphModule, init: Sequence[Any], xs: Sequence[Value], additional: Sequence[Any] = ()
) -> Any:
    """Scan over the first dimension; what the step reads besides, its body reads from outside."""
    start = [_value(c, item) for item in init]
    inner, _ = c.body(combine_fn, str(c.node.name))
    state = [inner.graph.add_input(f"state_{i}", value.type) for i, value in enumerate(start)]
    slices = [inner.graph.add_input(f"slice_{i}", x.tensor_type.with_shape(shape_of(x)[1:])) for i, x in enumerate(xs)]
    results = list(inner.inline(combine_fn, [*state, *slices, *additional]))
    _return(inner, results)
    return tuple(c.emit_many("Scan", [*start, *xs], len(results), body=inner.graph, num_scan_inputs=len(xs)))


@converts("higher_order.map_impl")
def map_(c: Any, body: fx.GraphModule, xs: Sequence[Value], additional: Sequence[Any] = ()) -> Any:
    """A Scan that carries nothing."""
    return scan(c, body, (), xs, additional)


def _value(c: Any, item: Any) -> Value:
    return item if isinstance(item, Value) else c.scalar(item, DType.of(torch.tensor(item).dtype))


def _one(result: Any) -> Any:
    return result[0] if isinstance(result, list | tuple) else result
