import json
import random
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import LoadError, SaveError
from graphopt.frontends import capture
from graphopt.ir import Graph, parse, print_graph, read_text, write_text
from tests.ir.graphs import random_graph


def document(statements: str, inputs: str = "%x") -> str:
    return f'graphopt 1\ngraph "main" ({inputs}) {{\n{statements}\n}}\n'


@pytest.mark.parametrize(
    ("text", "what", "line", "column"),
    [
        ("", "expected 'graphopt', found the end of the text", 1, 1),
        ("graphopt 2", "version 2 of the text form is not known", 1, 10),
        ("graphopt 1\n\ngraph main", "expected a string, found 'main'", 3, 7),
        ('graphopt 1\ngraph "a\n', "unexpected character", 2, 7),
        ('graphopt 1\ngraph "\\q" () {', "malformed string", 2, 8),
        ('graphopt 1 graph "g" { return }', "expected the inputs in parentheses", 1, 22),
        ('graphopt 1 graph "g" model {strange = 1} () { return }', "malformed model", 1, 28),
        ('graphopt 1 graph "g" signature {in_tree = "x"} () { return }', "malformed signature", 1, 32),
        ('graphopt 1 graph "g" meta {"a": 1} () { return }', "metadata are strings", 1, 27),
        (document("return %x } more"), "expected the end of the text, found 'more'", 3, 13),
        (document("return %x", "%x, %x"), "%x is defined twice", 2, 19),
        (document("%x = A()\nreturn %x"), "%x is defined twice", 3, 1),
        (document("%y = A(%xx)\nreturn %y"), "%xx is not defined before this: did you mean '%x'", 3, 8),
        (document("%y = A(%y)\nreturn %y"), "%y is not defined before this", 3, 8),
        (document("return %zzz"), "%zzz is not defined before this", 3, 8),
        (document("%y A()"), "expected '=', found 'A'", 3, 4),
        (document("A(%x)"), "expected a statement such as", 3, 1),
        (document("%y = (%x)"), "expected an operator", 3, 6),
        (document("%y = A(%x %x)"), "expected ','", 3, 11),
        (document("%y = A(7)"), "expected a value such as %x, found '7'", 3, 8),
        (document("%y = A() {a = 1, a = 2}"), "'a' is given twice", 3, 18),
        (document("%y = A() {a = ?}"), "unexpected character '\\?'", 3, 15),
        (document("%y = A() {a = )}"), "expected a value, found '\\)'", 3, 15),
        (document("%y = A() {a = word}"), "expected a value, found 'word'", 3, 15),
        (document("%y = A() {a = dtype.float99}"), "'float99' is no element type", 3, 15),
        (document('%y = A() {a = bytes"?"}'), "malformed base64", 3, 20),
        (document(f"%y = A() {{a = {'9' * 5000}}}"), "is no number that can be read", 3, 15),
        (document("%y = A() {a = sparse {b = 1}}"), "malformed sparse tensor", 3, 22),
        (document('%y = A() {a = typed int4 dense<["a"]: string[1]>}'), "expected a tensor of numbers", 3, 26),
        (document("%y = A() from 3"), "expected a list of strings", 3, 15),
        (document("%y: float99[1] = A()"), "'float99' is no element type", 3, 5),
        (document("%y: tuple(float32[1]) = A()"), "'tuple' is no type", 3, 5),
        (document("%y: 3 = A()"), "expected a type such as", 3, 5),
        (document("%y = dense<[1]>"), "needs a type with known element type and sizes", 3, 6),
        (document("%y: int8[n] = dense<[1]>"), "needs a type with known", 3, 15),
        (document("%y: int8[2] = dense<[1]>"), r"elements of shape \(1,\) have a type of shape \(2,\)", 3, 15),
        (document("%y: int8[2, 2] = dense<[[1, 2], [3]]>"), "rows of different lengths", 3, 24),
        (document("%y: int8[1] = dense<[200]>"), "200 does not fit into torch.int8", 3, 15),
        (document("%y: int8[1] = dense<[1.5]>"), "malformed tensor", 3, 15),
        (document("%y: int8[1] = dense<[true]>"), "elements of an integer type are numbers", 3, 15),
        (document("%y: bool[1] = dense<[1]>"), "elements of type bool are true and false", 3, 15),
        (document("%y: float16[1] = dense<[0x12345]>"), "more than 16 bits", 3, 18),
        (document("%y: float32[1] = dense<[(1, 2)]>"), "elements of a floating-point type", 3, 18),
        (document("%y: complex64[1] = dense<[1]>"), "pairs", 3, 20),
        (document("%y: string[1] = dense<[1]>"), "strings or bytes", 3, 17),
        (document("%y: string[1] = dense<meta>"), "strings are always part of the text", 3, 17),
        (document("%y: int8[1] = dense<[none]>"), "expected an element", 3, 22),
        (document(f"%y: int8[{9 ** 20}] = dense<meta>"), "malformed tensor", 3, 34),
    ],
)  # fmt: skip
def test_errors_say_where(text, what, line, column):
    with pytest.raises(LoadError, match=what) as caught:
        parse(text)
    assert caught.value.where == f"line {line}, column {column}"


@pytest.mark.parametrize(
    ("weights", "what"),
    [
        ({}, "there are no weights called 'w'"),
        ({"w": torch.zeros(3)}, r"the weights 'w' are torch.float32 of shape \(3,\), not float32\[20\]"),
        ({"w": torch.zeros(20, dtype=torch.int32)}, "torch.int32"),
        ({"w": torch.zeros(7, dtype=torch.uint8)}, "torch.uint8"),
    ],
)
def test_weights_that_do_not_fit(weights, what):
    text = document('%w: float32[20] = dense<"w">\nreturn %w')
    with pytest.raises(LoadError, match=what):
        parse(text, weights)


def test_nesting_without_end():
    with pytest.raises(LoadError, match="nested too deeply"):
        parse(document(f"%y = A() {{a = {'[' * 100_000}"))


@settings(max_examples=200)
@given(st.integers(0, 1 << 32))
def test_damaged_text_is_an_error_of_ours(seed):
    """Whatever is cut out or put in, there is a LoadError or a graph, never another exception."""
    rng = random.Random(seed)
    text = print_graph(random_graph(rng), weights=True)
    start = rng.randrange(len(text))
    junk = rng.choice(("", "[", "}", '"', "%", "9" * 20, "dense<", "\x00", "graph", " "))
    damaged = text[:start] + junk + text[start + rng.randrange(6) :]
    error = None
    try:
        parse(damaged)
    except LoadError as caught:
        error = caught
    assert error is None or re.search(r"line \d+, column \d+", error.where or "")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(LoadError, match="No such file"):
        read_text(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(LoadError, match="cannot read the text form"):
        read_text(tmp_path / "binary")
    (tmp_path / "bad").write_text("graphopt 1\nx")
    with pytest.raises(LoadError) as caught:
        read_text(tmp_path / "bad")
    assert caught.value.where == f"{tmp_path / 'bad'}, line 2, column 1"
    graph = Graph()
    graph.add_constant(torch.zeros(20), "w")
    write_text(graph, tmp_path / "g")
    (tmp_path / "g.safetensors").write_bytes(b"junk")
    with pytest.raises(LoadError, match="cannot read the text form"):
        read_text(tmp_path / "g")
    (tmp_path / "g.safetensors").unlink()
    assert next(iter(read_text(tmp_path / "g").constants)).data.is_meta


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(SaveError, match="cannot write"):
        write_text(Graph(), tmp_path / "no such folder" / "g")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SaveError, match="cannot write"):
        write_text(Graph(), tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_nothing_is_evaluated(tmp_path):
    marker = tmp_path / "marker"
    call = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    graph = parse(document(f"%y: float32[{call.replace(']', '')}] = A() {{a = {json.dumps(call)}}}\nreturn %y"))
    assert len(graph.outputs[0].shape or ()) == 1
    assert not marker.exists()


def test_a_tree_of_a_kind_that_torch_does_not_know():
    graph = capture(torch.nn.ReLU(), (torch.ones(2),))
    with pytest.raises(LoadError, match=r"malformed signature: .*builtins\.tu=le"):
        parse(str(graph).replace("builtins.tuple", "builtins.tu=le", 1))
