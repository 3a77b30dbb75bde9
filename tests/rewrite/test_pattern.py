import pytest
import torch

from graphopt.analysis import propagate
from graphopt.errors import PassError
from graphopt.ir import DType, Graph, TensorType
from graphopt.ops.builder import Builder
from graphopt.rewrite import Rule, apply_rules


def graph_of(draw, *inputs):
    """A graph drawn by `draw(builder, *inputs)`, over float inputs of the given shapes."""
    graph = Graph()
    values = [graph.add_input(f"x{i}", TensorType.make(DType.FLOAT32, shape)) for i, shape in enumerate(inputs)]
    found = draw(Builder(graph), *values)
    for value in found if isinstance(found, (list, tuple)) else [found]:
        graph.add_output(value, f"y{len(graph.outputs)}")
    propagate(graph)
    return graph


class Seen(Rule):
    """Notes every match, and replaces nothing."""

    def __init__(self, pattern):
        self._pattern = pattern
        self.matches = []
        self.pattern = pattern

    def rewrite(self, op, m):
        self.matches.append(m)
        return m.fail("seen")


def matches(pattern, graph):
    rule = Seen(pattern)
    apply_rules(graph, [rule])
    return rule.matches


def test_optional_variable_binds_none_where_the_input_is_left_out():
    def draw(b, x):
        w = b.constant(torch.ones(4, 4, 1, 1))
        return b.Conv(x, w), b.Conv(x, w, b.constant(torch.ones(4)))

    graph = graph_of(draw, ("n", 4, 5, 5))
    found = matches(lambda op, x, w, b=None: op.Conv(x, w, b), graph)
    assert [m.get("b") is not None for m in found] == [False, True]
    with pytest.raises(KeyError, match="'b'"):
        found[0]["b"]
    assert len(matches(lambda op, x, w: op.Conv(x, w), graph)) == 1
    assert len(matches(lambda op, x, w, b: op.Conv(x, w, b), graph)) == 1
    assert len(matches(lambda op, x, w, b: op.Conv(x, w, op.optional(op.constant(b))), graph)) == 2
    assert len(matches(lambda op, x, w: op.Conv(x, w, None), graph)) == 1
    assert len(matches(lambda op, x, w: op.Conv(x, w, op.anything()), graph)) == 2


def test_the_same_variable_is_the_same_value():
    graph = graph_of(lambda b, x, y: (b.Mul(x, x), b.Mul(x, y)), (2,), (2,))
    (found,) = matches(lambda op, x: op.Mul(x, x), graph)
    assert found["x"] is graph.inputs[0]


def test_variadic_variable_takes_the_rest():
    graph = graph_of(lambda b, x, y: (b.Concat(x, y, x, axis=0), b.Relu(x)), (2,), (2,))
    x, y = graph.inputs
    (found,) = matches(lambda op, first, *rest: op.Concat(first, *rest, axis=0), graph)
    assert found["first"] is x
    assert found.all("rest") == [y, x]
    assert not matches(lambda op, *rest: op.Concat(*rest, axis=1), graph)


def test_commutative_operands_match_in_either_order_and_others_do_not():
    graph = graph_of(lambda b, x, y: (b.Add(b.Relu(x), y), b.Add(y, b.Relu(x)), b.Sub(y, b.Relu(x))), (2,), (2,))
    found = matches(lambda op, x, y: op("Add|Sub", op.Relu(x), y), graph)
    assert len(found) == 2
    assert all(m["y"] is graph.inputs[1] for m in found)


def test_commuted_choice_is_taken_back_when_a_later_part_fails():
    # Add(Relu(x), Relu(y)) - only the second operand reads y, so the first binding has to be undone.
    graph = graph_of(lambda b, x, y: b.Mul(b.Add(b.Relu(x), b.Relu(y)), y), (2,), (2,))
    (found,) = matches(lambda op, a, b: op.Mul(op.Add(op.Relu(b), op.Relu(a)), b), graph)
    assert found["b"] is graph.inputs[1]


def test_alternatives_are_tried_in_order():
    graph = graph_of(lambda b, x: (b.Relu(b.Abs(x)), b.Relu(b.Neg(x)), b.Relu(x)), (2,))
    found = matches(lambda op, x: op.Relu(op.any(op.Abs(x).named("abs"), op.Neg(x).named("neg"))), graph)
    assert [m.has("abs") for m in found] == [True, False]
    assert [m.has("neg") for m in found] == [False, True]
    with pytest.raises(KeyError, match="'abs'"):
        found[1].node("abs")


def test_constants_by_value_and_in_general():
    def draw(b, x):
        two = torch.full((3,), 2.0)
        return [b.Mul(x, b.constant(t)) for t in (two, two + 1e-3, torch.tensor(2.0), torch.zeros(0, 3))]

    graph = graph_of(draw, (1, 3))
    assert len(matches(lambda op, x: op.Mul(x, op.const(2)), graph)) == 2
    assert len(matches(lambda op, x: op.Mul(x, op.const(2, tolerance=0.01)), graph)) == 3
    found = matches(lambda op, x, c: op.Mul(x, op.constant(c)), graph)
    assert len(found) == 4
    assert found[0].data("c").tolist() == [2, 2, 2]
    with pytest.raises(KeyError, match="no constant"):
        found[0].data("x")


def test_overridable_input_is_no_constant():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2,)), default=torch.ones(2))
    graph.add_output(Builder(graph).Mul(graph.add_input("y", x.type), x))
    assert not matches(lambda op, y, c: op.Mul(y, op.constant(c)), graph)


def test_attributes_are_compared_with_defaults_filled_in():
    def draw(b, x):
        w = b.constant(torch.ones(4, 1, 1, 1))
        return b.Softmax(x, axis=1), b.Softmax(x), b.Conv(x, w, group=4), b.Transpose(x, perm=[0, 1, 3, 2])

    graph = graph_of(draw, ("n", 4, 5, 5))
    assert len(matches(lambda op, x: op.Softmax(x, axis=-1), graph)) == 1
    assert len(matches(lambda op, x: op.Softmax(x, axis=lambda axis: axis > 0), graph)) == 1
    assert len(matches(lambda op, x, w: op.Conv(x, w, group=1), graph)) == 0
    assert len(matches(lambda op, x, w: op.Conv(x, w, group=4), graph)) == 1
    assert len(matches(lambda op, x: op.Transpose(x, perm=[0, 1, 3, 2]), graph)) == 1
    assert len(matches(lambda op, x: op.Softmax(x, nonsense=None), graph)) == 2


def test_conditions_on_values_and_nodes():
    graph = graph_of(lambda b, x, y: (b.Relu(x), b.Relu(y)), (2,), (2, 3))
    assert len(matches(lambda op, x: op.Relu(op.where(x, lambda v: v.rank == 2)), graph)) == 1
    assert len(matches(lambda op, x: op.where(op.Relu(x), lambda v: v.rank == 2), graph)) == 1
    rule = Seen(lambda op, x: op.Relu(x).when(lambda node: node.output.rank == 1))
    statistics = apply_rules(graph, [rule])
    assert len(rule.matches) == 1
    assert sum(statistics.misses["seen"].values()) == 1, "what a condition excludes is no miss"


def test_inner_value_read_elsewhere_is_a_miss_unless_shared():
    graph = graph_of(lambda b, x: (lambda r: (b.Neg(r), b.Abs(r)))(b.Relu(x)), (2,))
    statistics = apply_rules(graph, [Seen(lambda op, x: op.Neg(op.Relu(x)))])
    assert dict(statistics.misses["seen"]) == {"the output of Relu is used elsewhere too": 1}
    assert len(matches(lambda op, x: op.Neg(op.shared(op.Relu(x))), graph)) == 1


def test_inner_value_that_the_graph_returns_is_a_miss():
    graph = graph_of(lambda b, x: (lambda r: (b.Neg(r), r))(b.Relu(x)), (2,))
    statistics = apply_rules(graph, [Seen(lambda op, x: op.Neg(op.Relu(x)))])
    assert dict(statistics.misses["seen"]) == {"the output of Relu is an output of the graph": 1}


def test_inner_value_read_twice_inside_the_pattern_is_fine():
    graph = graph_of(lambda b, x: (lambda r: b.Mul(r, b.Sigmoid(r)))(b.Relu(x)), (2,))

    def pattern(op, x):
        inner = op.Relu(x)
        return op.Mul(inner, op.Sigmoid(inner))

    assert len(matches(pattern, graph)) == 1
    other = graph_of(lambda b, x: b.Mul(b.Relu(x), b.Sigmoid(b.Relu(x))), (2,))
    assert not matches(pattern, other), "one node pattern is one node"


def test_a_match_stays_within_one_graph():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2,)))
    outer = Builder(graph)
    inner = outer.Relu(x)
    branches = []
    for _ in range(2):
        body = Graph("body")
        body.add_output(Builder(body).Neg(inner))
        branches.append(body)
    condition = graph.add_input("c", TensorType.make(DType.BOOL, ()))
    graph.add_output(outer("If", condition, then_branch=branches[0], else_branch=branches[1]))
    propagate(graph)
    assert len(matches(lambda op, x: op.Neg(x), graph)) == 2
    assert not matches(lambda op, x: op.Neg(op.shared(op.Relu(x))), graph)


def test_outputs_of_a_node_are_told_apart():
    graph = graph_of(
        lambda b, x: (lambda s: (b.Neg(s[1]), b.Abs(s[0])))(b.Split(x, axis=0, num_outputs=2, outputs=2)), (4,)
    )
    assert len(matches(lambda op, x: op.Neg(op.shared(op.Split(x))[1]), graph)) == 1
    assert not matches(lambda op, x: op.Neg(op.shared(op.Split(x))[0]), graph)
    assert not matches(lambda op, x: op.Neg(op.shared(op.Split(x))), graph)


class MergeProducts(Rule):
    """Two products of one value become one, and are split again."""

    def pattern(self, op, x, v, w):
        return op.MatMul(x, op.constant(v)), op.MatMul(x, op.constant(w))

    def rewrite(self, op, m):
        both = op.MatMul(m["x"], op.constant(torch.cat([m.data("v"), m.data("w")], 1)))
        sizes = [m.data("v").shape[1], m.data("w").shape[1]]
        return op.Split(both, sizes, axis=-1, outputs=2)


def test_several_roots_are_replaced_together():
    def draw(b, x):
        products = [b.MatMul(x, b.constant(torch.randn(4, size))) for size in (2, 3)]
        return [b.Relu(p) for p in products]

    graph = graph_of(draw, ("n", 4))
    before = graph.clone()
    assert apply_rules(graph, [MergeProducts()]).hits.total() == 1
    graph.verify()
    assert [n.op for n in graph] == ["MatMul", "Split", "Relu", "Relu"]
    from graphopt.runtime.executor import run

    x = torch.randn(3, 4)
    for mine, theirs in zip(run(graph, [x]), run(before, [x]), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_several_roots_of_which_one_comes_too_late():
    class Late(Rule):
        def pattern(self, op, x, y):
            return op.Abs(x), op.Add(x, op.Relu(y))

        def rewrite(self, op, m):
            return op.Abs(m["x"]), op.Add(m["x"], op.Relu(m["y"]))

    def draw(b, x, y):
        first = b.Abs(x)
        return first, b.Add(x, b.Relu(b.Neg(b.Add(y, first))))

    graph = graph_of(draw, (2,), (2,))
    statistics = apply_rules(graph, [Late()])
    assert "not there yet" in next(iter(statistics.misses["late"]))
    graph.verify()


def test_pattern_without_an_operator_at_its_root():
    class Bare(Rule):
        def pattern(self, op, x):
            return x

    with pytest.raises(PassError, match="outermost operator"):
        apply_rules(Graph(), [Bare()])


def test_pattern_language_knows_its_words():
    class Wrong(Rule):
        def pattern(self, op, x):
            return op.shard(op.Relu(x))

    with pytest.raises(AttributeError, match="no 'shard'"):
        apply_rules(Graph(), [Wrong()])


def test_a_variable_that_must_be_there_matches_no_input_that_is_left_out():
    class Bounded(Rule):
        def pattern(self, op, x, low, high):
            return op.Clip(x, low, high)

        def rewrite(self, op, m):
            return op.Relu(m["x"])

    graph = graph_of(lambda b, x: b.Clip(x, None, b.constant(1.0, like=x)), ("n", 3))
    assert not apply_rules(graph, [Bounded()]).hits
    assert [node.op for node in graph] == ["Clip"]
