"""Placement on graphs small enough to say where the pairs belong."""

import time
from collections import Counter

import numpy as np
import pytest
import torch

import graphopt as go
from graphopt.errors import OptionError
from graphopt.frontends import load
from graphopt.ir import Node
from graphopt.passes.quantize import InsertQDQ
from graphopt.passes.quantize.placement import place
from graphopt.pipeline import Context
from graphopt.targets import load_target
from tests.passes.quantize.models import Maker, quantize, quantized

TARGET = load_target("ort-cpu")


def integer(graph, **options):
    return sorted(node.op for node in place(graph, TARGET, **options).integer)


def activations(graph, **options):
    return {value.name for value in place(graph, TARGET, **options).activations}


def groups(graph, **options):
    return {frozenset(v.name for v in group) for group in place(graph, TARGET, **options).groups()}


@pytest.mark.parametrize("op", ["Relu", "Clip"])
def test_the_quantizer_comes_after_what_the_kernel_absorbs(op):
    m = Maker()
    c = m.conv("x")
    bounds = "" if op == "Relu" else f" {m.constant(np.float32(0))} {m.constant(np.float32(6))}"
    r = m.op(op, c + bounds)
    assert activations(m.graph(m.conv(r)), everything=True) == {"x", r, "conv2"}


def test_an_activation_that_others_see_unactivated_is_not_absorbed():
    m = Maker()
    c = m.conv("x")
    graph = m.graph(m.op("Relu", c), m.op("Neg", c))
    assert c in activations(graph, everything=True)


def test_residual_add_has_all_inputs_quantized():
    m = Maker()
    a = m.conv("x")
    s = m.op("Add", f"{m.conv(a)} {a}")
    graph = m.graph(s)
    assert integer(graph, everything=True) == ["Add", "Conv", "Conv"]
    names = quantized(quantize(graph))
    assert {v.name for v in next(n for n in graph.nodes if n.op == "Add").inputs} == {
        f"{n}_dequantized" for n in (a, "conv1")
    }
    assert {a, "conv1", s, "x"} <= names


def test_join_of_a_float_stays_float():
    m = Maker()
    s = m.op("Add", f"{m.conv('x')} {m.op('Tanh', 'x')}")
    assert integer(m.graph(s), everything=True) == ["Conv"]


@pytest.mark.parametrize("op", ["MaxPool", "Transpose", "Reshape", "Slice", "Split", "Resize", "Flatten"])
def test_passthrough_has_the_same_scale_on_both_sides(op):
    m = Maker()
    a = m.conv("x")
    views = {
        "MaxPool": lambda: m.op("MaxPool", a, kernel_shape=[2, 2]),
        "Transpose": lambda: m.op("Transpose", a, perm=[0, 1, 3, 2]),
        "Reshape": lambda: m.op("Reshape", f"{a} {m.constant([1, 8, 24, 6])}"),
        "Slice": lambda: m.op("Slice", f"{a} {m.constant([0])} {m.constant([6])} {m.constant([2])}"),
        "Split": lambda: m.op("Split", a, "s1 s2", axis=1, num_outputs=2).split()[0],
        "Resize": lambda: m.op("Resize", f"{a} _ {m.constant([1.0, 1, 2, 2])}", mode="nearest"),
        "Flatten": lambda: m.op("Flatten", a),
    }
    v = views[op]()
    out = [v] if op == "Flatten" else [m.conv(v, 4 if op == "Split" else 8)]
    graph = m.graph(*out)
    assert any({a, v} <= group for group in groups(graph, everything=True))
    quantize(graph)
    by_source = {n.operand(0).name: n.operand(1) for n in graph.nodes if n.op == "QuantizeLinear"}
    assert by_source[a] is by_source[v]


def test_concat_shares_a_scale_unless_that_would_keep_a_relu_out_of_its_kernel():
    for first, second, shared in [
        ("", "", True),
        ("Relu", "Relu", True),
        ("Relu", "", False),
        ("Clip 0 6", "Relu", False),
        ("Clip 0 6", "Clip 0 6", True),
        ("Clip 0 6", "Clip 0 1", False),
    ]:
        m = Maker()
        parts = []
        for text in (first, second):
            op, *bounds = text.split() or [""]
            inputs = " ".join([m.conv("x"), *(m.constant(np.float32(bound)) for bound in bounds)])
            parts.append(m.op(op, inputs) if op else inputs)
        c = m.op("Concat", " ".join(parts), axis=1)
        assert any({*parts, c} <= group for group in groups(m.graph(m.conv(c, 16)), everything=True)) is shared


def test_conv_transpose_stays_float():
    m = Maker()
    up = m.op("ConvTranspose", f"{m.conv('x')} {m.random(8, 8, 2, 2)}")
    graph = m.graph(up)
    assert integer(graph, everything=True) == ["Conv"]
    node = next(n for n in quantize(graph).nodes if n.op == "ConvTranspose")
    assert node.operand(1).is_constant


def test_products_of_two_activations_stay_float():
    m = Maker((2, 4, 8, 8))
    s = m.op("MatMul", "x x")
    graph = m.graph(m.op("MatMul", f"{s} {m.random(8, 8)}"))
    assert integer(graph, everything=True) == ["MatMul"]
    assert activations(graph, everything=True) == {s}


def test_products_leave_their_output_float_for_floats():
    m = Maker((2, 32, 256))
    t = m.op("Tanh", m.op("MatMul", f"x {m.random(256, 256)}", "p"))
    graph = m.graph(m.op("MatMul", f"{t} {m.random(256, 8)}"))
    assert "p" not in activations(graph)
    assert "x" in activations(graph)


def test_a_float_reader_beside_an_integer_one_reads_floats():
    m = Maker()
    t = m.op("Tanh", "x")
    graph = m.graph(m.conv(t), m.op("Exp", t))
    quantize(graph)
    assert next(n for n in graph.nodes if n.op == "Exp").operand(0).name == t


def test_an_island_that_does_not_pay_stays_float():
    m = Maker((1, 2, 4, 4))
    t = m.op("Tanh", m.conv(m.op("Tanh", "x"), 2, 2, 1))
    graph = m.graph(t)
    assert integer(graph) == []
    assert integer(graph, everything=True) == ["Conv"]


def test_a_region_that_pays_is_quantized_and_slow_kernels_at_its_border_are_not():
    m = Maker((1, 64, 32, 32))
    a = m.conv(m.conv("x", 64, 64), 64, 64)
    grouped = m.conv(m.op("Tanh", a), 64, 64, group=16)
    placement = place(m.graph(grouped), TARGET)
    assert [node.operand(0).name for node in placement.integer] == ["x", "conv0"]
    assert set(placement.skipped.values()) == {"would not be faster on integers"}
    assert placement.assignment.chosen_ns < placement.assignment.float_ns


def test_ignored_nodes_stay_float():
    m = Maker()
    a = m.conv("x")
    graph = m.graph(m.conv(a))
    placement = place(graph, TARGET, ["n_conv1"], everything=True)
    assert [node.output.name for node in placement.integer] == [a]
    assert list(placement.skipped.values()) == ["on the ignore list"]
    with pytest.raises(OptionError, match=r"pattern 'cnov\*' matches no node"):
        place(graph, TARGET, ["cnov*"])


@pytest.mark.parametrize(("field", "floats"), [("min_inputs", ["x", "conv1"]), ("min_outputs", ["conv0"])])
def test_kernels_with_too_few_channels_stay_float(tmp_path, field, floats):
    path = tmp_path / "mine.toml"
    path.write_text(f'extends = "generic"\nname = "mine"\n[operators.Conv]\n{field} = 5\n')
    m = Maker((1, 3, 8, 8))
    graph = m.graph(m.conv(m.conv(m.conv("x", 3, 8), 8, 4), 4, 8))
    placement = place(graph, load_target(str(path)))
    assert [node.operand(0).name for node in placement.skipped] == floats
    assert set(placement.skipped.values()) == {f"fewer than 5 {field[4:-1]} channels"}


def test_a_target_without_costs_quantizes_what_it_can():
    m = Maker((1, 2, 4, 4))
    graph = m.graph(m.op("Tanh", m.conv("x", 2, 2, 1)))
    assert [node.op for node in place(graph, load_target("generic")).integer] == ["Conv"]


def test_a_shared_weight_is_quantized_once():
    m = Maker()
    w = m.random(8, 8, 1, 1)
    y = m.op("Conv", f"{m.op('Conv', f'x {w}')} {w}")
    graph = quantize(m.graph(y), pack=False)
    assert sum(n.op == "QuantizeLinear" and n.operand(0).name == w for n in graph.nodes) == 1


def chain(length):
    m = Maker()
    v = m.conv("x")
    for _ in range(length):
        v = m.op("Add", f"{m.op('Relu', m.conv(v, kernel=1, bias=False))} {v}")
    return m.graph(v)


def test_placement_is_linear_in_the_size_of_the_graph():
    def seconds(graph):
        started = time.process_time()
        place(graph, TARGET)
        place(graph, TARGET, everything=True)
        return time.process_time() - started

    small, large = chain(100), chain(800)
    seconds(small)
    assert min(seconds(large) for _ in range(3)) < 8 * 2.5 * max(min(seconds(small) for _ in range(3)), 2e-3)


def test_nothing_but_readers_of_the_graph_is_touched():
    m = Maker()
    graph = m.graph(m.conv(m.op("Tanh", "x")))
    quantize(graph)
    assert [n.op for n in graph.nodes if isinstance(n, Node)].count("Tanh") == 1
    assert list(graph.output_names) == ["conv1"]


def test_time_is_weighed_at_the_sizes_of_the_data():
    """A detector's images are of any height and width; at 1x1 nothing would be faster on integers."""
    m = Maker((1, 3, "height", "width"))
    graph = m.graph(m.conv(m.conv(m.op("Relu", m.conv("x", 3, 32)), 32, 32), 32, 32))
    data = [torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))]
    unweighed, given = graph.clone(), graph.clone()
    assert InsertQDQ().run(unweighed, Context(unweighed)).notes[-1].startswith("time was weighed at height=1, width=1")
    assert not any("weighed" in note for note in InsertQDQ().run(graph, Context(graph, data)).notes)
    InsertQDQ(sizes={"height": 1, "width": 1}).run(given, Context(given, data))
    kinds = [Counter(node.op for node in each.nodes)["QuantizeLinear"] for each in (unweighed, graph, given)]
    assert kinds == [0, kinds[1], 0]
    assert kinds[1] >= 4  # two weights at least, and what they are multiplied with


def test_sizes_that_no_expression_tells_are_weighed_all_the_same():
    """A pyramid: twice half of a height is the height, or one less."""
    m = Maker((1, 32, "height", "width"))
    half = m.op("Relu", m.conv("x", 32, 32, strides=[2, 2]))
    scales = m.constant(np.float32([1, 1, 2, 2]))
    up = m.op("Resize", f"{half} _ {scales}".replace("_", m.constant(np.zeros(0, np.float32))), mode="nearest")
    last = m.conv(m.op("Relu", m.conv(m.op("Add", f"x {up}"), 32, 32)), 32, 32)
    graph = m.graph(last)
    assert graph.outputs[0].shape[2:] != graph.inputs[0].shape[2:]  # not told
    data = [torch.rand(1, 32, 64, 64, generator=torch.Generator().manual_seed(0))]
    fixed = load(m.model(last))
    go.optimize(fixed, "fix-shapes{shapes={x:1x32x64x64}}")
    found = []
    for each in (graph, fixed):
        InsertQDQ().run(each, Context(each, data))
        found.append(Counter(node.op for node in each.nodes)["QuantizeLinear"])
    assert found[0] == found[1] > 4


@pytest.mark.parametrize("readers", [1, 2])
def test_what_only_the_float_kernel_computes_on_the_way_out_has_its_price(readers, tmp_path):
    m = Maker((1, 32, 32, 32))
    made = m.conv("x", 32, 32)
    outputs = [m.op("MaxPool", m.op("HardSwish", made), kernel_shape=[2, 2])]
    graph = m.graph(*outputs, *[m.op("Neg", made) for _ in range(readers - 1)])
    chosen = []
    for price in (0, 1000):
        path = tmp_path / f"at{price}.toml"
        table = f"[operators.Conv.float_absorb]\nHardSwish = {{ call = 0, element = {price} }}\n"
        path.write_text(f'extends = "ort-cpu"\nname = "at{price}"\n{table}')
        chosen.append([node.op for node in place(graph, load_target(str(path))).integer])
    # With a second reader it is computed apart anyway.
    assert chosen == [["Conv"], [] if readers == 1 else ["Conv"]]
