import collections
import pathlib
import random
import sys
import tempfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from graphopt.errors import LoadError
from graphopt.ir import (
    DType,
    Graph,
    Leaf,
    Node,
    Parameter,
    Signature,
    TensorType,
    Value,
    difference,
    parse,
    print_graph,
    read_text,
    verify,
    write_text,
)  # fmt: skip
from graphopt.ir.dense import element_texts
from graphopt.ir.printer import Printer
from tests.ir.graphs import random_graph

GRAPHS = st.integers(0, 1 << 32).map(lambda seed: random_graph(random.Random(seed)))
DATA = [d for d in DType if d not in (DType.UNDEFINED, DType.STRING)]


def same(graph: Graph, read: Graph) -> None:
    assert difference(graph, read, provenance=True) is None
    verify(read)
    assert [v.name for v in graph.values()] == [v.name for v in read.values()]  # labels too, though none need match


# -- round trips


@settings(max_examples=200)
@given(GRAPHS)
def test_random_graphs_come_back(graph):
    text = print_graph(graph, weights=True)
    read = parse(text)
    same(graph, read)
    assert print_graph(read, weights=True) == text


@settings(max_examples=50)
@given(GRAPHS)
def test_random_graphs_come_back_with_their_weights(graph):
    printer = Printer()
    text = printer.document(graph)
    same(graph, parse(text, printer.elided))
    without = parse(text)
    assert difference(graph, without, provenance=True) is None  # meta tensors stand for any data
    assert str(parse(text)) == str(without)


@settings(max_examples=30)
@given(GRAPHS)
def test_files(graph):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "g.txt"
        write_text(graph, path)
        same(graph, read_text(path))
        assert {p.name for p in pathlib.Path(folder).iterdir()} <= {"g.txt", "g.txt.safetensors"}


@pytest.mark.parametrize("dtype", DATA, ids=str)
@pytest.mark.parametrize("count", [0, 1, 16, 17, 300])
def test_every_element_type_to_the_bit(dtype, count, tmp_path):
    carrier = dtype.torch
    raw = torch.randint(0, 2 if carrier == torch.bool else 256, (count * carrier.itemsize,), dtype=torch.uint8)
    graph = Graph()
    constant = graph.add_constant(raw.view(carrier), "c", dtype=dtype)
    assert constant.dtype is dtype
    same(graph, parse(print_graph(graph, weights=True)))
    write_text(graph, tmp_path / "g")
    same(graph, read_text(tmp_path / "g"))
    assert (tmp_path / "g.safetensors").exists() is (count > 16)


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (torch.tensor([0.1, 1 / 3, -0.0, 1.0, 1e-5, float("inf"), float("-inf"), float("nan")]),
         ["0.1", "0.33333334", "-0.0", "1.0", "1e-05", "inf", "-inf", "nan"]),
        (torch.tensor([0.1], dtype=torch.float64), ["0.1"]),
        (torch.tensor([0.1, 3.140625], dtype=torch.bfloat16), ["0.1", "3.14"]),
        (torch.tensor([0.1], dtype=torch.float16), ["0.1"]),
        (torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32), ["0x7fc00001"]),
        (torch.tensor([-1], dtype=torch.int32).view(torch.float32), ["0xffffffff"]),
        (torch.tensor([True, False]), ["true", "false"]),
        (torch.tensor([1 + 2j], dtype=torch.complex64), ["(1.0, 2.0)"]),
        (torch.tensor([2**64 - 1], dtype=torch.uint64), ["18446744073709551615"]),
        (np.array(["é\n", b"\xff"], dtype=object), ['"\\u00e9\\n"', 'bytes"/w=="']),
    ],
)  # fmt: skip
def test_elements_are_short_and_exact(data, texts):
    assert element_texts(data) == texts


@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 3), (3, 0), (2, 3), (1, 2, 1, 2)])
def test_shapes(shape):
    graph = Graph()
    graph.add_constant(torch.arange(int(np.prod(shape))).reshape(shape))
    graph.add_constant(np.full(shape, "s", dtype=object))
    same(graph, parse(str(graph)))


@given(st.text())
def test_any_text_is_a_name(name):
    graph = Graph(name)
    x = graph.add_input("x")
    node = graph.append(Node(name or "Op", [x, x], {name: name}, 2, domain=name, overload=name, name=name))
    for value in node.outputs:
        value.name = name
        graph.add_output(value, name or f"out{value.index}")
    if name:
        graph.set_outputs(graph.outputs[:1], [name])
    graph.doc = name
    graph.metadata[name] = name
    graph.inputs[0].type = TensorType.make(DType.FLOAT32, ["a", 2])
    same(graph, parse(str(graph)))


# -- what it looks like


def test_the_form():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, ("batch", 3)))
    w = graph.add_constant(
        torch.zeros(3, 7), parameter=Parameter("fc.weight", ("head.weight",), buffer=True, persistent=False)
    )
    b = graph.add_constant(torch.tensor([0.5]), "b", parameter=Parameter("b", requires_grad=False))
    gemm = graph.append(Node("Gemm", [x, w, None, b], {"transB": 1, "alpha": 1.0}, 2, name="n"))
    gemm.outputs[0].name = "x"
    body = Graph("then")
    body.add_output(body.add("Relu", gemm.output), "r")
    graph.append(Node("If", [gemm.output], {"then_branch": body}, domain="my"))
    graph.add_output(gemm.output, "y")
    assert (
        str(graph)
        == """\
graphopt 1
graph "main" (
    %x: float32[batch, 3]
  ) {
  %fc.weight: float32[3, 7] = dense<"fc.weight"> buffer "fc.weight" aliases ["head.weight"] transient
  %b: float32[1] = dense<[0.5]> parameter "b" frozen
  %x#2, _ = Gemm(%x, %fc.weight, none, %b) {transB = 1, alpha = 1.0} name "n"
  _ = my::If(%x#2) {then_branch = graph "then" () {
    %#1 = Relu(%x#2)
    return %#1 as "r"
  }}
  return %x#2 as "y"
}
"""
    )


def test_what_a_person_writes():
    graph = parse(
        """
        graphopt 1   // the version
        graph "main" (%x : float32 [ n , 2*n+1 ],) { // a trailing comma
          %two: int64[] = dense< 2 >
          %y = Add ( %x, %two, ) { axis = 1, }
          return %y
        }
        """.replace("float32 [", "float32[")
    )
    verify(graph)
    assert str(graph.inputs[0].type) == "float32[n, 2*n + 1]"
    assert list(graph.output_names) == ["y"]


def test_tied_constants_share_a_key_and_a_tensor():
    data = torch.randn(20)
    graph = Graph()
    for _ in range(2):
        graph.add_constant(data, "w")
    graph.add_constant(torch.randn(20), "w")
    printer = Printer()
    text = printer.document(graph)
    assert list(printer.elided) == ["w", "w#2"]
    first, second, third = parse(text, printer.elided).constants
    assert first.data is second.data is data
    assert third.data is not data


def test_tensors_that_share_memory_can_be_written(tmp_path):
    base = torch.randn(40)
    graph = Graph()
    for name, data in (("a", base), ("b", base[:20]), ("c", base[::2]), ("d", torch.nn.Parameter(base))):
        graph.add_constant(data, name)
    write_text(graph, tmp_path / "g")
    same(graph, read_text(tmp_path / "g"))


def test_meta_tensors_stay_meta(tmp_path):
    graph = Graph()
    graph.add_constant(torch.empty(50, device="meta"))
    write_text(graph, tmp_path / "g")
    assert next(iter(read_text(tmp_path / "g").constants)).data.is_meta


# -- the signature


def signature(tree: object, literal: object = None) -> Signature:
    leaves = pytree.tree_leaves(tree)
    return Signature(
        pytree.tree_structure(((tree,), {})), pytree.tree_structure(tree),
        (*(Leaf(i) for i in range(len(leaves))), Leaf(None, literal)), (Leaf(0),), ("x",), training=True,
    )  # fmt: skip


@pytest.mark.parametrize("literal", [None, 3, 0.5, True, "s", (1, "a")])
def test_signatures(literal):
    graph = Graph()
    graph.signature = signature({"a": [1, (2, 3)], "b": 4}, literal)
    read = parse(str(graph))
    assert read.signature == graph.signature


def test_signatures_that_cannot_be_written_are_a_comment():
    graph = Graph()
    graph.signature = signature([1], object())
    assert parse(str(graph)).signature is None
    assert "// a signature that cannot be written: an argument is an object" in str(graph)
    point = collections.namedtuple("point", "x y")
    graph.signature = signature(point(1, 2))
    assert parse(str(graph)).signature is None
    assert "// a signature that cannot be written" in str(graph)


# -- broken graphs are printed all the same


def test_a_broken_graph_can_be_printed():
    graph = Graph()
    x = graph.add_input("x")
    first = graph.append(Node("A", [x], {"bad": object()}))
    second = graph.append(Node("B", [first.output]))
    first.set_input(0, second.output)
    first.set_inputs([second.output, Value(name="nowhere")])
    graph.add_constant(torch.zeros(1)).type = TensorType(DType.STRING, None)
    text = str(graph)
    assert "%nowhere" in text
    with pytest.raises(LoadError, match="is not defined before this"):
        parse(text)


def test_what_cannot_be_written_says_so_when_read():
    graph = Graph()
    graph.append(Node("A", attributes={"bad": object()}))
    with pytest.raises(LoadError, match="cannot be written as text"):
        parse(str(graph))


def test_the_number_of_steps_is_linear():
    """Counted, not timed: twice the graph is twice the function calls, to print and to parse."""

    def calls(size: int) -> list[int]:
        graph = Graph()
        x = graph.add_input("x")
        for _ in range(size):
            x = graph.add("Add", x, x, alpha=1.0)
            x.name = "same"
        graph.add_output(x, "y")
        counts, text = [], str(graph)
        for work in (lambda: str(graph), lambda: parse(text)):
            count = 0

            def profile(frame, event, argument):
                nonlocal count
                count += event in ("call", "c_call")

            sys.setprofile(profile)
            try:
                work()
            finally:
                sys.setprofile(None)
            counts.append(count)
        return counts

    for small, large in zip(calls(500), calls(1000), strict=True):
        assert large < 2.1 * small
