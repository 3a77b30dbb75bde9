"""Nothing is lost on the way through: ONNX's own node tests and the zoo's exports, in and out again."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from graphopt.backends.onnx_model import to_onnx
from graphopt.frontends.load import load
from graphopt.ir import DType, Graph, TensorType
from graphopt.models import ZOO
from tests.onnx_cases import cases
from tests.onnx_same import assert_close, assert_same, run

# They differ from run to run, whoever runs them.
RANDOM = ("bernoulli", "random", "training_dropout", "dropout_random")


def numbers(given):
    """Inputs and outputs of ONNX's tests as ONNX Runtime takes and gives them."""
    match given:
        case onnx.SequenceProto():
            return numpy_helper.to_list(given)
        case onnx.OptionalProto():
            return numpy_helper.to_optional(given)
        case onnx.TensorProto():
            return numpy_helper.to_array(given)
    return given


def case_of(test):
    """A test's model, with the inputs and expected outputs of its first data set."""
    inputs, outputs = test.data[0]
    return test.model, [numbers(each) for each in inputs], [numbers(each) for each in outputs]


@pytest.mark.parametrize(
    ("kind", "accepted"), [("node", 1500), ("simple", 15), ("pytorch-converted", 55), ("pytorch-operator", 20)]
)
def test_what_onnx_runtime_runs_it_runs_afterwards(kind, accepted):
    """What ONNX Runtime takes gives the same after load and to_onnx, and is the same graph when loaded again."""
    failures, same = [], 0
    for test in cases(kind).values():
        model, inputs, _ = case_of(test)
        try:
            graph = load(model)
            written = to_onnx(graph)
            assert_same(graph, load(written))
        except Exception as error:  # whatever it is, it is listed
            failures.append(f"{test.name}: {error!r}"[:300])
            continue
        try:
            want = run(model, *inputs)
        except Exception:  # ONNX Runtime lacks a kernel
            continue
        try:
            got = run(written, *inputs)
            if not any(word in test.name for word in RANDOM):
                assert_close(want, got)
            same += 1
        except Exception as error:
            failures.append(f"{test.name}: {error!r}"[:300])
    assert not failures, f"{len(failures)} of {len(cases(kind))}: " + "\n".join(failures[:20])
    assert same >= accepted


def test_models_of_opset_6_that_onnx_runtime_no_longer_runs():
    """After the conversion it runs them, and the results are those that came with the files."""
    converted = 0
    for test in [*cases("pytorch-converted").values(), *cases("pytorch-operator").values()]:
        model, inputs, outputs = case_of(test)
        got = run(to_onnx(load(model)), *inputs)
        for mine, theirs in zip(got, outputs, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)
        converted += model.opset_import[0].version < 7
    assert converted >= 100


@pytest.mark.parametrize("name", ["lenet", "mobilenet_v3", "shufflenet_v2", "swin", "bert", "lstm_tagger"])
def test_exports_of_the_zoo(name, tmp_path):
    module, args = ZOO[name]()
    path = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, args, str(path), dynamo=False, opset_version=14, dynamic_axes=None)
    graph = load(path)
    written = to_onnx(graph)
    onnx.checker.check_model(written, full_check=True)
    assert_same(graph, load(written))
    feeds = [each.numpy() for each in torch.utils._pytree.tree_leaves(args)]
    assert_close(run(str(path), *feeds), run(written, *feeds))


def test_an_export_by_dynamo_keeps_its_metadata(tmp_path):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = torch.nn.Linear(4, 3)

        def forward(self, x):
            return torch.nn.functional.gelu(self.dense(x)).mean(1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dims = ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(Net().eval(), (torch.ones(2, 4),), dynamo=True, dynamic_shapes=dims, verbose=False)
    model = program.model_proto
    graph = load(model)
    written = to_onnx(graph)
    assert_same(graph, load(written))
    assert graph.inputs[0].type == TensorType.make(DType.FLOAT32, ("batch", 4))
    assert any(node.metadata for node in graph)
    weights = {t.name for t in model.graph.initializer}
    assert list(written.graph.value_info) == [v for v in model.graph.value_info if v.name not in weights]
    x = torch.randn(5, 4).numpy()
    assert_close(run(model, x), run(written, x))


# -- names at the border


def two_layers():
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FLOAT32, (3,)))
    return graph, x, graph.add("Relu", x)


def outputs_of(graph):
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    assert_same(graph, load(model))
    x = np.float32([-1, 0, 2])
    return [o.name for o in model.graph.output], run(model, x), model


def test_one_value_under_two_names():
    graph, _, y = two_layers()
    graph.set_outputs([y, y], ["a", "b"])
    names, results, model = outputs_of(graph)
    assert names == ["a", "b"]
    assert [r.tolist() for r in results] == [[0, 0, 2]] * 2
    assert [n.op_type for n in model.graph.node] == ["Relu", "Identity"]


def test_an_input_and_a_constant_as_outputs():
    graph, x, _ = two_layers()
    small = graph.add_constant(torch.ones(2), "small")
    large = graph.add_constant(torch.ones(1000), "large")
    graph.set_outputs([x, small, large, x], ["y", "one", "many", "x"])
    names, results, _ = outputs_of(graph)
    assert names == ["y", "one", "many", "x"]
    assert [r.shape for r in results] == [(3,), (2,), (1000,), (3,)]


def test_labels_that_clash_with_the_names_that_callers_know():
    graph, x, y = two_layers()
    y.name = "out"  # the output's name
    z = graph.add("Neg", y)
    z.name = "x"  # the input's name
    w = graph.add("Exp", z)
    w.name = "x"
    graph.set_outputs([graph.add("Add", w, x)], ["out"])
    names, _, model = outputs_of(graph)
    assert names == ["out"]
    assert model.graph.input[0].name == "x"


def test_nodes_of_one_name_get_different_ones():
    graph, _, y = two_layers()
    for _ in range(3):
        y = graph.append(_named("Neg", y, "twin")).output
    graph.set_outputs([y], ["y"])
    model = to_onnx(graph)
    assert [n.name for n in model.graph.node] == ["", "twin", "twin_0", "twin_1"]
    run(model, np.float32([1, 2, 3]))


def _named(op, value, name):
    from graphopt.ir import Node

    return Node(op, [value], name=name)


def test_names_that_cannot_be_kept():
    from graphopt.errors import SaveError

    graph, _, y = two_layers()
    graph.set_outputs([y], ["x"])
    with pytest.raises(SaveError, match="output 'x' has the name of an input"):
        to_onnx(graph)
    graph.set_outputs([y, y], ["y", "y"])
    with pytest.raises(SaveError, match="two outputs are called 'y'"):
        to_onnx(graph)
    graph.set_outputs([y], ["y"])
    graph.add_input("x", TensorType(DType.FLOAT32, (3,)))
    with pytest.raises(SaveError, match="two inputs are called 'x'"):
        to_onnx(graph)


def test_outputs_that_nothing_reads_and_inputs_left_out_at_the_end():
    from graphopt.ir import Node

    graph, x, _ = two_layers()
    image = graph.add("Reshape", x, graph.add_constant(torch.tensor([1, 1, 3])))
    pool = graph.append(Node("MaxPool", [image], {"kernel_shape": (2,)}, 2))
    pool.outputs[1].name = "indices"
    clip = graph.append(Node("Clip", [pool.output, None, None]))
    graph.set_outputs([clip.output], ["y"])
    model = to_onnx(graph)
    written = {n.op_type: n for n in model.graph.node}
    assert len(written["MaxPool"].output) == 1
    assert len(written["Clip"].input) == 1
    assert len(pool.outputs) == 2  # the graph itself is not changed
