"""What replacing values promises: readers, names, labels, types, and what is swept away."""

import pytest
import torch

from graphopt.errors import PassError
from graphopt.ir import DType, Graph, Node, Parameter, TensorType
from graphopt.ops.builder import Builder
from graphopt.rewrite.replace import check_types, drop_orphans, is_kept, module_of, replace, sweep


def drafted(*shape):
    """An empty graph with one float input, and a builder for it."""
    graph = Graph()
    return graph, Builder(graph), graph.add_input("x", TensorType.make(DType.FLOAT32, shape))


def test_readers_and_outputs_move_and_what_nothing_reads_goes():
    graph, op, x = drafted("n", 3)
    new, old = op.Abs(x), op.Mul(op.Neg(x), op.constant(2.0, like=x))
    reader = op.Relu(old)
    graph.add_output(reader, "y")
    graph.add_output(old, "z")
    swept = replace([old], [new])
    graph.verify()
    assert list(reader.producer.inputs) == [new]
    assert graph.outputs == [reader, new]
    assert graph.output_names == ["y", "z"]
    assert [node.op for node in swept.nodes] == ["Mul", "Neg"]
    assert len(swept.constants) == 1
    assert not graph.constants
    assert sorted(node.op for node in graph) == ["Abs", "Relu"]
    assert list(swept.loosened) == [x]


def test_a_value_in_its_own_place_changes_nothing():
    graph, op, x = drafted("n", 3)
    y = op.Relu(x)
    graph.add_output(y, "y")
    version = graph.version
    assert not replace([y], [y]).nodes
    assert graph.version == version


def test_fresh_nodes_take_over_what_people_called_the_old_ones():
    graph, op, x = drafted("n", 3)
    old = op.Neg(x)
    old.name, old.doc, old.producer.name, old.producer.doc = "scores", "of the head", "head/neg", "turned"
    old.producer.metadata["module"] = "head"
    old.producer.metadata["kind"] = "old"
    graph.add_output(old, "y")
    new = op.Abs(x)
    new.producer.metadata["kind"] = "new"
    node = new.producer
    replace([old], [new], fresh=[node])
    assert (new.name, new.doc, node.name, node.doc) == ("scores", "of the head", "head/neg", "turned")
    assert node.metadata == {"module": "head", "kind": "new"}


def test_labels_of_their_own_stay():
    graph, op, x = drafted("n", 3)
    old, new = op.Neg(x), op.Abs(x)
    old.producer.name, old.producer.doc = "old", "old"
    new.name, new.doc, new.producer.name = "mine", "my doc", "own"
    graph.add_output(old, "y")
    replace([old], [new], fresh=[new.producer])
    assert (new.name or "", new.doc, new.producer.name, new.producer.doc) == (old.name or "mine", "my doc", "own", "")


def test_values_that_were_there_before_keep_their_labels():
    graph, op, x = drafted("n", 3)
    old, there = op.Neg(x), op.Abs(x)
    old.name, there.name = "old", "there"
    graph.add_output(old, "y")
    replace([old], [there])
    assert there.name == "there"


def test_values_that_were_there_before_learn_what_only_the_old_type_told():
    graph, op, x = drafted("n", 3)
    there = Node("Unheard", [x], {}, 1, domain="custom")
    graph.append(there)
    old = op.Identity(there.output)
    old.type = TensorType.make(DType.FLOAT32, ("n", 3))
    graph.add_output(old, "y")
    replace([old], [there.output])
    assert there.output.type == TensorType.make(DType.FLOAT32, ("n", 3))
    again = op.Identity(x)
    again.type = TensorType.make(DType.FLOAT32, (2, 3))
    graph.add_output(again, "z")
    replace([again], [x])
    assert x.type == TensorType.make(DType.FLOAT32, ("n", 3)), "what callers give is as it was declared"


def test_a_fresh_value_keeps_what_only_the_old_type_told():
    graph, _, x = drafted("n", 3)
    old, new = (Node("Unheard", [x], {}, 1, domain="custom") for _ in range(2))
    for node in (old, new):
        graph.append(node)
    old.output.type = TensorType.make(DType.FLOAT32, ("n", 3))
    graph.add_output(old.output, "y")
    replace([old.output], [new.output], fresh=[new])
    assert new.output.type == TensorType.make(DType.FLOAT32, ("n", 3))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((DType.FLOAT32, (2, 3)), (DType.FLOAT16, (2, 3))),
        ((DType.FLOAT32, (2, 3)), (DType.FLOAT32, (2, 4))),
        ((DType.FLOAT32, (2, 3)), (DType.FLOAT32, (2, 3, 1))),
        ((DType.FLOAT32, None), (DType.INT64, (2, 3))),
    ],
    ids=str,
)
def test_types_that_contradict_each_other_are_refused(before, after):
    graph, op, x = drafted("n", 3)
    old, new = op.Neg(x), op.Abs(x)
    graph.add_output(old, "y")
    old.type, new.type = (TensorType.make(*each) for each in (before, after))
    with pytest.raises(PassError, match="was to be replaced by"):
        replace([old], [new])
    assert graph.outputs == [old]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((DType.UNDEFINED, (2, 3)), (DType.FLOAT32, (2, 3))),
        ((DType.FLOAT32, (2, 3)), (DType.UNDEFINED, None)),
        ((DType.FLOAT32, ("n", 3)), (DType.FLOAT32, (2, 3))),
        ((DType.FLOAT32, (None, 3)), (DType.FLOAT32, ("m", 3))),
    ],
    ids=str,
)
def test_types_that_know_more_or_less_fit(before, after):
    _, op, x = drafted("n", 3)
    old, new = op.Neg(x), op.Abs(x)
    old.type, new.type = (TensorType.make(*each) for each in (before, after))
    check_types(old, new)


def test_a_sweep_keeps_parameters_inputs_and_what_is_read():
    graph, op, x = drafted("n", 3)
    w = op.constant(torch.ones(3), parameter=Parameter("fc.weight"))
    cache = op.constant(torch.ones(3), parameter=Parameter("fc.cache", buffer=True, persistent=False))
    dead, plain = op.Mul(op.Add(op.Mul(x, w), cache), op.constant(3.0, like=x)), op.constant(4.0, like=x)
    read = op.Neg(x)
    graph.add_output(read, "y")
    swept = sweep([dead, plain, read, x])
    assert [node.op for node in graph] == ["Neg"]
    assert list(graph.constants) == [w]
    assert is_kept(w)
    assert not is_kept(cache)
    assert len(swept.nodes) == 3
    assert len(swept.constants) == 3
    assert set(swept.loosened) == {read, x}
    assert sweep([w], keep=lambda value: False).constants == [w]


def test_a_sweep_keeps_a_node_one_of_whose_outputs_is_read():
    graph, op, x = drafted(2, 3)
    first, second = op.Split(x, [1, 1], axis=0, outputs=2)
    graph.add_output(first, "y")
    assert not sweep([second]).nodes
    graph.verify()


def test_a_sweep_goes_on_with_what_a_body_read():
    graph, op, x = drafted("n", 3)
    outside = op.Neg(x)
    body = Graph()
    body.add_output(Builder(body).Relu(outside), "inner")
    chosen = op.If(op.constant(torch.tensor(True)), then_branch=body, else_branch=body.clone())
    graph.add_output(x, "y")
    assert [node.op for node in sweep([chosen]).nodes] == ["If", "Neg"]
    assert not list(graph)


def test_orphans_are_buffers_of_modules_that_nothing_reads():
    graph, op, x = drafted("n", 3)
    parameters = {
        name: op.constant(torch.ones(3), parameter=Parameter(name, buffer="count" in name))
        for name in ("bn.weight", "bn.count", "used.weight", "used.count", "other.count")
    }
    plain = op.constant(5.0, like=x)
    graph.add_output(op.Mul(x, parameters["used.weight"]), "y")
    assert drop_orphans(graph, []) == 0
    assert drop_orphans(graph, ["bn", "used"]) == 1
    left = {value.parameter.name for value in graph.constants if value.parameter is not None}
    assert left == {"bn.weight", "used.weight", "used.count", "other.count"}
    assert (module_of(parameters["bn.weight"]), module_of(plain)) == ("bn", "")
