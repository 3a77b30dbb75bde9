"""The cheapest assignment, against trying all of them."""

import itertools
import math

import pytest

from graphopt.passes.quantize.placement import Placement, _units
from graphopt.passes.quantize.profit import border_cost, nanoseconds, terms_of
from graphopt.passes.quantize.regions import cheapest
from graphopt.targets import load_target
from tests.passes.quantize.models import Maker

TARGET = load_target("ort-cpu")


def price(units, integer):
    """What an assignment costs, straight from the definition; infinite where it is not allowed."""
    total = 0.0
    producers = {value: unit for unit in units for value in unit.results}
    for unit in units:
        cost = unit.rule.cost_of(unit.node)
        total += nanoseconds(cost.integers if unit in integer else cost.floats, terms_of(unit.node))
    values = dict.fromkeys(v for u in units for v in (*u.results, *u.activations()) if not v.is_constant)
    for value in values:
        producer = producers.get(value)
        readers = [unit for unit in units if value in unit.activations()]
        others = any(use.user not in [unit.node for unit in readers] for use in value.uses)
        if producer in integer:
            if not producer.writes_floats and (others or any(unit not in integer for unit in readers)):
                total += border_cost(TARGET.dequantize, value)
        elif any(unit in integer for unit in readers):
            total += border_cost(TARGET.quantize, value)
            if producer is not None and producer.rule.role == "passthrough" and not others:
                return math.inf
            for unit in readers:
                if unit in integer:
                    total += nanoseconds(unit.rule.cost_of(unit.node).entering, terms_of(unit.node))
    return total


def residual(m, x, channels):
    a = m.op("Relu", m.conv(x, channels, channels, 1))
    return m.op("Add", f"{m.conv(a, channels, channels, 1)} {x}")


def networks():
    m = Maker((1, 16, 16, 16))
    yield "residual", m.graph(residual(m, m.conv("x", 16, 16), 16))
    m = Maker((1, 32, 8, 8))
    a = m.conv("x", 32, 32, group=32)
    b = m.op("Sigmoid", a)
    yield "gate", m.graph(m.conv(m.op("Mul", f"{a} {b}"), 32, 64, 1))
    m = Maker((1, 3, 32, 32))
    a = m.op("MaxPool", m.op("Relu", m.conv("x", 3, 16)), kernel_shape=[2, 2], strides=[2, 2])
    yield "stem", m.graph(m.conv(m.conv(a, 16, 32), 32, 32), m.op("Tanh", a))
    m = Maker((4, 64))
    a = m.op("Relu", m.gemm("x", 64, 128))
    yield "gemm", m.graph(m.gemm(m.op("Tanh", m.gemm(a, 128, 128)), 128, 10))
    m = Maker((1, 16, 8, 8))
    a = m.op("Concat", f"{m.conv('x', 16, 16)} {m.conv('x', 16, 16, 1)}", axis=1)
    yield "concat", m.graph(m.conv(m.op("AveragePool", a, kernel_shape=[2, 2]), 32, 8))


@pytest.mark.parametrize(("name", "graph"), list(networks()), ids=lambda v: v if isinstance(v, str) else "")
def test_nothing_is_cheaper(name, graph):
    units = list(_units(graph, TARGET, (), frozenset(), Placement()))
    found = cheapest(graph, units, TARGET)
    prices = {
        frozenset(chosen): price(units, set(chosen))
        for size in range(len(units) + 1)
        for chosen in itertools.combinations(units, size)
    }
    assert prices[frozenset(found.integer)] == pytest.approx(min(prices.values()), rel=1e-6)
    assert found.chosen_ns == pytest.approx(min(prices.values()), rel=1e-4)
    assert found.float_ns == pytest.approx(prices[frozenset()], rel=1e-6)
