import pytest
import torch

from graphopt.analysis import propagate
from graphopt.errors import PassError
from graphopt.ir import DType, Graph, Node, Origin, Parameter, TensorType
from graphopt.ops.builder import Builder
from graphopt.pipeline import Context
from graphopt.rewrite import RewritePass, Rule, apply_rules
from graphopt.runtime.executor import run
from tests.rewrite.test_pattern import graph_of


class ReluRelu(Rule):
    """Relu(Relu(x)) is Relu(x)."""

    def pattern(self, op, x):
        return op.Relu(op.Relu(x))

    def rewrite(self, op, m):
        return op.Relu(m["x"])


class NegNeg(Rule):
    """Neg(Neg(x)) is x."""

    def pattern(self, op, x):
        return op.Neg(op.Neg(x))

    def rewrite(self, op, m):
        return m["x"]


def chain(ops, length):
    def draw(b, x):
        for i in range(length):
            x = b(ops[i % len(ops)], x)
        return x

    return graph_of(draw, ("n", 3))


def test_rewrites_until_nothing_matches():
    graph = chain(["Relu"], 9)
    statistics = apply_rules(graph, [ReluRelu()])
    assert statistics.hits == {"relu-relu": 8}
    assert len(graph) == 1
    graph.verify()
    assert apply_rules(graph, [ReluRelu()]).hits.total() == 0


def test_a_rewrite_that_makes_room_for_one_above_it():
    # Neg Abs Relu Relu Abs Neg: nothing matches NegNeg before the middle is gone.
    class AbsAbs(Rule):
        def pattern(self, op, x):
            return op.Abs(op.Abs(x))

        def rewrite(self, op, m):
            return m["x"]

    graph = chain(["Neg", "Abs", "Neg", "Neg", "Abs", "Neg"], 6)
    apply_rules(graph, [AbsAbs(), NegNeg()])
    assert len(graph) == 0
    assert graph.outputs[0] is graph.inputs[0]


def test_a_reader_that_goes_makes_room():
    # Neg is read by a second Neg and by a Relu of a Relu of ... whose other input goes away with the Sub.
    class SubSelf(Rule):
        """x - x reads x no longer."""

        def pattern(self, op, x):
            return op.Sub(x, x)

        def rewrite(self, op, m):
            return op.constant(torch.zeros(2))

    def draw(b, x):
        inner = b.Neg(x)
        return b.Neg(inner), b.Sub(inner, inner)

    graph = graph_of(draw, (2,))
    statistics = apply_rules(graph, [NegNeg(), SubSelf()])
    assert statistics.hits == {"neg-neg": 1, "sub-self": 1}
    assert not statistics.misses, "a miss that was made good is none"


@pytest.mark.parametrize("length", [500, 2000])
def test_linear_in_the_size_of_the_graph(length):
    graph = chain(["Relu", "Relu", "Sigmoid"], length)
    statistics = apply_rules(graph, [ReluRelu(), NegNeg()])
    assert statistics.visits <= 4 * length


@pytest.mark.parametrize("length", [500, 2000])
def test_linear_where_one_value_has_all_the_readers(length):
    graph = graph_of(lambda b, x: [b.Neg(b.Neg(x)) for _ in range(length)], (2,))
    statistics = apply_rules(graph, [NegNeg()])
    assert statistics.hits.total() == length
    assert statistics.visits <= 4 * length


class Pump(Rule):
    """Makes what it matches."""

    recursive = True

    def pattern(self, op, x):
        return op.Sigmoid(x)

    def rewrite(self, op, m):
        return op.Sigmoid(op.Abs(m["x"]))


def test_budget_names_the_rule_that_goes_on_and_on():
    graph = chain(["Sigmoid"], 1)
    with pytest.raises(PassError, match=r"'pump' was applied 111 times .*matches what it makes"):
        apply_rules(graph, [Pump()])


def test_budget_names_rules_that_undo_each_other():
    class ToAbs(Rule):
        def pattern(self, op, x):
            return op.Neg(x)

        def rewrite(self, op, m):
            return op.Abs(m["x"])

    class ToNeg(Rule):
        recursive = True

        def pattern(self, op, x):
            return op.Abs(x)

        def rewrite(self, op, m):
            return op.Neg(m["x"])

    class ToAbsAgain(ToAbs):
        recursive = True

    with pytest.raises(PassError, match="'to-"):
        apply_rules(chain(["Neg"], 1), [ToAbsAgain(), ToNeg()], budget=20)
    # Without opting in, what a rule had a part in making is not its own to match again.
    assert apply_rules(chain(["Neg"], 1), [ToAbs(), ToNeg()]).hits.total() == 2


def test_a_rule_does_not_match_its_own_output():
    class Once(Pump):
        recursive = False

    graph = chain(["Sigmoid"], 3)
    assert apply_rules(graph, [Once()]).hits.total() == 3
    assert len(graph) == 6


def test_bodies_are_rewritten():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2,)))
    bodies = []
    for _ in range(2):
        body = Graph("body")
        b = Builder(body)
        body.add_output(b.Relu(b.Relu(x)))
        bodies.append(body)
    condition = graph.add_input("c", TensorType.make(DType.BOOL, ()))
    out = Builder(graph)("If", condition, then_branch=bodies[0], else_branch=bodies[1])
    graph.add_output(out)
    propagate(graph)
    assert apply_rules(graph, [ReluRelu()]).hits.total() == 2
    graph.verify()
    assert [len(body) for body in bodies] == [1, 1]


def test_names_outputs_and_provenance():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2,)))
    inner = graph.append(Node("Relu", [x], origin=Origin("layer.a", ("n1",), ("before",)), name="first"))
    outer = graph.append(Node("Relu", [inner.output], origin=Origin("layer.b", ("n2",)), name="second"))
    outer.output.name = "features"
    outer.metadata["key"] = "value"
    graph.add_output(outer.output, "scores")
    propagate(graph)
    apply_rules(graph, [ReluRelu()], name="test-pass")
    (node,) = graph.nodes
    assert graph.output_names == ["scores"]
    assert node.output.name == "features"
    assert node.name == "second"
    assert node.metadata == {"key": "value"}
    assert node.origin == Origin("layer", ("n1", "n2"), ("before", "test-pass"))


@pytest.mark.parametrize("length", [2, 3])
def test_a_node_made_from_many_names_at_most_32_of_them(length):
    graph = chain(["Relu"], length)
    for number, node in enumerate(graph.nodes):
        node.origin = Origin("layer", tuple(f"n{number}.{i}" for i in range(16)), ("before",))
    apply_rules(graph, [ReluRelu()], name="test-pass")
    (node,) = graph.nodes
    assert node.origin.sources == tuple(f"n{number}.{i}" for number in range(2) for i in range(16))
    assert node.origin.module == "layer"
    assert node.origin.passes == ("before", "test-pass")


def test_failing_rewrite_leaves_no_trace():
    class Messy(Rule):
        def pattern(self, op, x):
            return op.Relu(x)

        def rewrite(self, op, m):
            op.Add(op.Abs(m["x"]), op.constant(torch.ones(3)))
            return m.fail("changed my mind")

    graph = chain(["Relu"], 2)
    text, version = str(graph), graph.version
    statistics = apply_rules(graph, [Messy()])
    assert str(graph) == text
    assert graph.version == version, "not even for a moment, or the pass would count as one that changed something"
    assert statistics.notes() == ("messy: 2 left alone: changed my mind",)
    assert statistics.details()["rules"]["messy"]["misses"] == {"changed my mind": 2}


def test_another_embedding_is_tried_when_the_rewrite_declines_one():
    class Choosy(Rule):
        def pattern(self, op, x, y):
            return op.Add(op.Relu(x), op.Relu(y))

        def rewrite(self, op, m):
            return m.fail("wrong way round") if m["x"].name == "x0" else op.Relu(op.Add(m["x"], m["y"]))

    graph = graph_of(lambda b, x, y: b.Add(b.Relu(x), b.Relu(y)), (2,), (2,))
    statistics = apply_rules(graph, [Choosy()])
    assert statistics.hits.total() == 1
    assert not statistics.misses


def test_output_that_is_not_replaced_must_not_be_read():
    class First(Rule):
        def pattern(self, op, x):
            return op.MaxPool(x)

        def rewrite(self, op, m):
            return op.Relu(op.Slice(m["x"], [0, 0], [2, 2], [2, 3]))

    def draw(b, x):
        return b.MaxPool(x, kernel_shape=[2, 2], strides=[2, 2], outputs=2)

    graph = graph_of(draw, (1, 1, 4, 4))
    assert "another output of MaxPool" in next(iter(apply_rules(graph, [First()]).misses["first"]))
    graph.set_outputs(graph.outputs[:1], ["y0"])
    assert apply_rules(graph, [First()]).hits.total() == 1


def test_result_of_another_type_is_an_error():
    class Wrong(Rule):
        def pattern(self, op, x):
            return op.Relu(x)

        def rewrite(self, op, m):
            return op.Unsqueeze(m["x"], [0])

    with pytest.raises(PassError, match=r"float32\[n, 3\] was to be replaced by float32\[1, n, 3\]"):
        apply_rules(chain(["Relu"], 1), [Wrong()])


def test_result_that_is_no_value_is_an_error():
    class Nothing(Rule):
        def pattern(self, op, x):
            return op.Relu(x)

        def rewrite(self, op, m):
            return None

    with pytest.raises(PassError, match="rule 'nothing' returned NoneType"):
        apply_rules(chain(["Relu"], 1), [Nothing()])


class Drop(RewritePass):
    """Drops a multiplication."""

    class MulDrop(Rule):
        def pattern(self, op, x, w):
            return op.Mul(x, op.constant(w))

        def rewrite(self, op, m):
            return op.Relu(m["x"])

    rules = (MulDrop,)


class DropAll(Drop):
    """Drops the parameters, too."""

    drops_parameters = True


def _with_parameters():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2,)))
    weight = graph.add_constant(torch.ones(2), parameter=Parameter("bn.weight"))
    graph.add_constant(torch.tensor(0), parameter=Parameter("bn.num_batches_tracked", buffer=True))
    graph.add_constant(torch.tensor(0), parameter=Parameter("other.num_batches_tracked", buffer=True))
    graph.add_constant(torch.ones(1), parameter=Parameter("bn.unused"))
    graph.add_output(graph.add("Mul", x, weight))
    return graph


def test_state_dict_stays_complete_unless_a_pass_folds_parameters():
    graph = _with_parameters()
    changes = Drop().run(graph, Context(graph))
    assert changes.modified
    assert changes.counts == {"mul-drop": 1}
    assert len(graph.parameters) == 4
    graph = _with_parameters()
    DropAll().run(graph, Context(graph))
    names = [value.parameter.name for value in graph.parameters]
    assert names == ["other.num_batches_tracked", "bn.unused"], "buffers go with the last parameter of their module"


def test_pass_looks_for_the_operators_of_its_rules():
    assert Drop.looks_for == {"Mul"}
    assert not Drop().applies_to(chain(["Relu"], 1))
    assert Drop().applies_to(_with_parameters())


def test_rewriting_inside_a_transaction_can_be_undone():
    graph = chain(["Relu", "Neg", "Neg"], 12)
    text = str(graph)
    with graph.transaction() as journal:
        apply_rules(graph, [ReluRelu(), NegNeg()])
        assert str(graph) != text
        journal.rollback()
    assert str(graph) == text
    graph.verify()
    run(graph, [torch.randn(2, 3)])
