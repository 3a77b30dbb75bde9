"""What prune-channels removes, leaves alone, refuses, and says."""

import pytest
import torch

import graphopt as go
from graphopt.analysis import propagate
from graphopt.analysis.cost import Cost
from graphopt.errors import DataError, GraphoptError, OptionError, PassError
from graphopt.ir import DType, Graph, Node, TensorType, difference
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from graphopt.runtime.ort import OrtSession

FLOAT = DType.FLOAT32


class Net:
    """A graph under construction."""

    def __init__(self, *shape) -> None:
        self.graph = Graph()
        self.generator = torch.Generator().manual_seed(0)
        self.x = self.graph.add_input("x", TensorType.make(FLOAT, shape))

    def w(self, name, *shape):
        data = torch.randn(shape, generator=self.generator)
        return self.graph.add_constant(data / (shape[0] ** 0.5 if len(shape) > 1 else 1), name)

    def add(self, op, *inputs, outputs=1, **attributes):
        node = self.graph.append(Node(op, inputs, attributes, outputs))
        propagate(self.graph)
        return node.output if outputs == 1 else list(node.outputs)

    def linear(self, x, name, width, bias=True):
        y = self.add("MatMul", x, self.w(f"{name}.weight", x.shape[-1], width))
        return self.add("Add", y, self.w(f"{name}.bias", width)) if bias else y

    def done(self, *outputs):
        for number, value in enumerate(outputs):
            self.graph.add_output(value, f"y{number}")
        return self.graph


def mlp(*widths, batch=2):
    net = Net(batch, 6)
    value = net.x
    for number, width in enumerate(widths):
        value = net.add("Relu", net.linear(value, f"layer{number}", width))
    return net.done(net.linear(value, "head", 3))


def data_of(graph, name):
    return next(value for value in graph.constants if value.name == name).data


def prune(graph, options="", **kwargs):
    return go.optimize(graph, f"prune-channels{{{options}}}", **kwargs)


# -- what goes


def test_the_least_important_channels_go_with_everything_coupled():
    graph = mlp(4)
    first = graph.constants.__iter__().__next__()
    scores = torch.tensor([3.0, 1.0, 2.0, 4.0])
    first.data = torch.ones(6, 4) * scores
    head = next(value for value in graph.constants if value.name == "head.weight")
    head.data = torch.ones(4, 3)
    report = prune(graph, "ratio=0.5")
    assert report.kept == {"layer0.weight": {1: [0, 3]}, "layer0.bias": {0: [0, 3]}, "head.weight": {0: [0, 3]}}
    assert data_of(graph, "layer0.weight").tolist() == [[3.0, 4.0]] * 6
    groups = report.of("prune-channels").details["groups"]
    assert [(each["components"], each["removed"]) for each in groups] == [(4, 2)]


def test_scores_add_up_over_all_that_a_channel_takes_away():
    graph = mlp(2)
    values = {value.name: value for value in graph.constants}
    values["layer0.weight"].data = torch.ones(6, 2) * torch.tensor([1.0, 2.0])
    values["head.weight"].data = torch.ones(2, 3) * torch.tensor([[10.0], [1.0]])
    assert prune(graph, "ratio=0.5").kept["layer0.weight"] == {1: [0]}


def test_a_weight_of_zeros_goes_before_all_others_whatever_its_bias():
    graph = mlp(4)
    values = {value.name: value for value in graph.constants}
    values["layer0.weight"].data[:, 2] = 0
    values["head.weight"].data[2] = 0
    values["layer0.bias"].data[2] = 100
    assert 2 not in prune(graph, "ratio=0.25").kept["layer0.weight"][1]


def test_global_scope_takes_from_the_weaker_layer():
    graph = mlp(16, 16)
    values = {value.name: value for value in graph.constants}
    values["layer0.weight"].data[:, :12] *= 0.01
    values["layer1.weight"].data[:12] *= 0.01
    report = prune(graph, "ratio=0.4,scope=global")
    assert report.kept["layer0.weight"][1] == [12, 13, 14, 15]
    assert report.kept.get("head.weight", {0: range(16)})[0][-1] == 15
    uniform = prune(mlp(16, 16), "ratio=0.25")
    assert {len(uniform.kept[name][1]) for name in ("layer0.weight", "layer1.weight")} == {12}


def test_round_to_keeps_multiples():
    report = prune(mlp(24, 40), "ratio=0.5,round-to=8")
    assert (len(report.kept["layer0.weight"][1]), len(report.kept["layer1.weight"][1])) == (16, 24)


def test_random_follows_the_seed():
    kept = [prune(mlp(32), "criterion=random", seed=seed).kept for seed in (0, 0, 1)]
    assert kept[0] == kept[1] != kept[2]


def test_pruning_again_prunes_what_is_left_and_kept_composes():
    graph = mlp(16, 16)
    original = {value.name: value.data for value in graph.constants}
    report = go.optimize(graph, "prune-channels{ratio=0.5},prune-channels{ratio=0.5,criterion=l2},prune-channels")
    for name, dims in report.kept.items():
        wanted = original[name]
        for dim, indices in dims.items():
            wanted = wanted.index_select(dim, torch.tensor(indices))
        assert torch.equal(data_of(graph, name), wanted)
    assert graph.outputs[0].shape == (2, 3)
    assert data_of(graph, "layer0.weight").shape == (6, 2)


def test_no_weight_is_copied_but_the_sliced():
    graph = mlp(8, 8, 8)
    before = {value.name: value.data.data_ptr() for value in graph.constants}
    clone = graph.clone()
    prune(graph, "ignore=[layer1.*]")
    after = {value.name: value.data.data_ptr() for value in graph.constants}
    kept = {name for name in before if before[name] == after[name]}
    assert kept == {"layer0.weight", "layer0.bias", "layer1.weight", "layer1.bias", "head.bias"}
    assert data_of(clone, "head.weight").shape == (8, 3)  # the tensors that a copy shares are not written to


# -- what stays


@pytest.mark.parametrize("ignore", ["[layer1.*]", "[layer1.weight]", "[layer1]", "layer1"])
def test_ignored_layers_keep_their_channels(ignore):
    report = prune(mlp(8, 8, 8), f"ignore={ignore}")
    assert set(report.kept) == {"layer2.weight", "layer2.bias", "head.weight"}
    assert any("protects 2 groups" in note for note in report.of("prune-channels").notes)


def test_nothing_left_after_the_ignore_list():
    graph = mlp(8)
    with pytest.raises(PassError, match=r"nothing can be pruned .*ignore list"):
        prune(graph, "ignore=['*']")


def test_pattern_that_matches_nothing():
    with pytest.raises(OptionError, match=r"ignore pattern 'layr0\.\*' matches no parameter"):
        prune(mlp(8), "ignore=[layr0.*]")


def test_everything_frozen_names_what_froze_it():
    net = Net(2, 6)
    hidden = net.add("LogSoftmax", net.linear(net.x, "a", 8), axis=1)
    graph = net.done(net.linear(hidden, "b", 3))
    before = graph.clone()
    with pytest.raises(PassError, match="nothing can be pruned") as caught:
        prune(graph)
    for words in ("LogSoftmax over this axis (8 components)", "graph input 'x' (6", "graph output 'y0' (3"):
        assert words in str(caught.value)
    assert difference(graph, before) is None


def test_what_stops_more_from_going_is_told_by_reason():
    net = Net(2, 6)
    value = net.add("Hardmax", net.linear(net.linear(net.x, "a", 8), "b", 10), axis=1)
    for number, op in enumerate(["TopK", "CumSum", "LogSoftmax"]):
        more = net.linear(value, f"c{number}", 8 + number)
        if op == "TopK":
            k = net.graph.add_constant(torch.tensor([7]), "k")
            value = net.add(op, more, k, outputs=2, axis=1)[0]
        elif op == "CumSum":
            value = net.add(op, more, net.graph.add_constant(torch.tensor(1), "axis"))
        else:
            value = net.add(op, more, axis=1)
    graph = net.done(net.linear(value, "d", 3))
    entry = prune(graph, "ratio=0.5").of("prune-channels")
    frozen = entry.details["frozen"]
    assert frozen["Hardmax: Hardmax over this axis"] == 10
    assert len(frozen) >= 5
    assert entry.notes[-1].startswith("kept whole: ")
    assert entry.notes[-1].endswith(f"{len(frozen) - 4} more reasons")


def test_no_weights_at_all():
    net = Net(2, 6)
    with pytest.raises(PassError, match="no weights with channels between its inputs and its outputs"):
        prune(net.done(net.add("Relu", net.x)))


def test_ratio_that_removes_nothing():
    graph = mlp(3)
    with pytest.raises(PassError, match="removes nothing"):
        prune(graph, "ratio=0.1")
    with pytest.raises(PassError, match="round-to"):
        prune(mlp(8), "ratio=0.5,round-to=16")
    before = graph.clone()
    assert not prune(graph, "ratio=0").modified
    assert difference(graph, before) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(bad):
    graph = mlp(8, 8)
    values = {value.name: value for value in graph.constants}
    values["layer0.weight"].data[2, 3] = bad
    with pytest.raises(DataError, match=r"weight 'layer0\.weight' holds NaN or infinity.*ignore list"):
        go.optimize(graph, "prune-channels", check=False)
    report = go.optimize(graph, "prune-channels{ignore=[layer0.*]}", check=False)  # as the hint says
    assert set(report.kept) == {"layer1.weight", "layer1.bias", "head.weight"}


@pytest.mark.parametrize(
    "options",
    ["ratio=1", "ratio=-0.5", "ratio=nan", "ratio=x", "max-ratio=0", "max-ratio=1", "round-to=0", "round-to=1.5",
     "scope=local", "criterion=l3", "ignor=[x]", "ratio=0.5,ratio=0.6"],
)  # fmt: skip
def test_bad_options(options):
    graph = mlp(8)
    with pytest.raises(GraphoptError) as caught:
        prune(graph, options)
    assert caught.value.hint or "not" in caught.value.what
    assert len(graph) == 5
    assert data_of(graph, "layer0.weight").shape == (6, 8)


# -- safety


def test_sizes_that_only_the_run_knows_keep_their_channels():
    """The operand has all its channels when the graph runs, so the constant beside it may not lose any."""
    net = Net(2, "width")
    shifted = net.add("Add", net.x, net.w("shift", 8))
    hidden = net.linear(net.linear(shifted, "a", 8), "b", 8)
    graph = net.done(net.linear(hidden, "c", 2))
    report = prune(graph, check=False)
    assert "shift" not in report.kept
    assert 0 not in report.kept["a.weight"]
    assert run(graph, [torch.randn(5, 8)])[0].shape == (5, 2)


def test_captured_values_outputs_and_overridable_weights_stay():
    net = Net(2, 6)
    condition = net.graph.add_input("c", TensorType.make(DType.BOOL, ()))
    hidden = net.linear(net.x, "a", 8)
    bodies = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        bodies[name] = Graph(name)
        bodies[name].add_output(bodies[name].add(op, hidden), "r")
    chosen = net.add("If", condition, **bodies)
    middle = net.linear(net.linear(chosen, "b", 8), "c", 8)
    override = net.graph.add_input("d", TensorType.make(FLOAT, (8, 8)), default=torch.randn(8, 8))
    graph = net.done(net.linear(net.add("MatMul", middle, override), "e", 2), net.add("Exp", middle))
    report = prune(graph)
    assert set(report.kept) == {"b.weight", "b.bias", "c.weight"}
    assert report.kept["c.weight"].keys() == {0}


def test_weight_that_is_an_output_too():
    net = Net(2, 6)
    hidden = net.linear(net.linear(net.x, "a", 8), "b", 8)
    graph = net.done(net.linear(hidden, "c", 2))
    graph.add_output(next(value for value in graph.constants if value.name == "a.weight"), "exposed")
    report = prune(graph)
    assert "a.weight" not in report.kept
    assert graph.outputs[1].shape == (6, 8)
    assert "b.weight" in report.kept


@pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8, DType.INT4, DType.FLOAT8E4M3FN])
@pytest.mark.parametrize("per_channel", [False, True])
def test_quantized_weights_are_ranked_as_what_they_stand_for(dtype, per_channel):
    net = Net(2, 6)
    generator = torch.Generator().manual_seed(0)
    whole = torch.randint(1, 7, (8, 6), generator=generator).to(dtype.torch)
    zero = None
    scale = torch.linspace(1, 8, 8).flip(0) if per_channel else torch.tensor(0.5)
    if dtype is DType.UINT8:
        zero = torch.full_like(scale, 100, dtype=torch.uint8)
        whole = whole + 100
    w = net.graph.add_constant(whole, "w", dtype=dtype)
    inputs = [w, net.graph.add_constant(scale, "scale"), None if zero is None else net.graph.add_constant(zero, "zero")]
    floats = net.add("DequantizeLinear", *inputs, axis=0)
    v = net.graph.add_constant(torch.full((8, 3), 1e-3), "v")
    graph = net.done(net.add("MatMul", net.add("Gemm", net.x, floats, transB=1), v))
    real = (whole.float() - (100 if zero is not None else 0)) * (scale[:, None] if per_channel else scale)
    wanted = sorted(real.abs().sum(1).sort(stable=True).indices[4:].tolist())
    report = prune(graph)
    assert report.kept["w"][0] == wanted
    assert ("scale" in report.kept) == per_channel
    assert data_of(graph, "w").shape == (4, 6)


def test_after_quantization(tmp_path):
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 4),
    ).eval()  # fmt: skip
    batches = [torch.randn(8, 3, 16, 16) for _ in range(2)]
    graph = go.capture(module, (batches[0],), dynamic=[{0: "batch"}])
    report = go.optimize(graph, "insert-qdq{everything=true},calibrate,prune-channels", batches)
    ops = [node.op for node in graph.walk()]
    assert "DequantizeLinear" in ops
    assert report.passes[-1].checks["equivalence"]["max_rel"] < 1e-4
    assert any(value.rank == 1 and value.name in report.kept for value in graph.constants)  # scales per channel
    x = batches[0]
    got = torch.from_numpy(OrtSession(go.to_onnx(graph), optimize=False).run([x])[0])
    assert compare([got], run(graph, [x])).within(0.05)


def test_same_value_read_twice_by_one_node():
    net = Net(2, 6)
    hidden = net.linear(net.x, "a", 8)
    doubled = net.add("Concat", net.add("Add", hidden, hidden), hidden, axis=1)
    report = prune(net.done(net.linear(doubled, "b", 2)))
    a, b = report.kept["a.weight"][1], report.kept["b.weight"][0]
    assert b == [*a, *(index + 8 for index in a)]


def test_logarithms_and_quotients_of_removed_channels():
    net = Net(2, 6)
    up, down = net.linear(net.x, "a", 8), net.linear(net.x, "b", 8)
    quotient = net.add("Div", up, down)
    graph = net.done(net.linear(net.add("Log", net.add("Abs", quotient)), "c", 2))
    assert prune(graph).of("prune-channels").checks["equivalence"]["max_rel"] < 1e-4


def test_reduction_that_is_claimed_is_there():
    graph = mlp(32, 32)
    before = Cost(graph)
    entry = prune(graph).of("prune-channels")
    after = Cost(graph)
    assert (entry.before.weights, entry.after.weights) == (before.weights, after.weights)
    assert after.weights < before.weights / 2
    assert after.macs < before.macs / 2


@pytest.mark.parametrize(("sizes", "positions"), [([4, 2, 6], (0, 2)), ([4, 2, 6], (-1, 1)), (6, (1, 0))])
def test_sequences_of_parts_are_pruned_as_splits_are(sizes, positions):
    net = Net(2, 6)
    parts = net.add(
        "SplitToSequence", net.linear(net.x, "wide", 12), net.graph.add_constant(torch.tensor(sizes)), axis=1
    )
    taken = [net.add("SequenceAt", parts, net.graph.add_constant(torch.tensor(at))) for at in positions]
    graph = net.done(*(net.linear(part, f"head{number}", 3) for number, part in enumerate(taken)))
    lengths = [part.shape[1] for part in taken]
    kept = prune(graph, "ratio=0.5").kept
    for number, length in enumerate(lengths):
        assert len(kept[f"head{number}.weight"][0]) == length // 2
    assert 6 <= len(kept["wide.weight"][1]) < 12
    assert run(graph, [torch.randn(2, 6)])[0].shape == (2, 3)


def test_a_sequence_whose_part_is_chosen_by_the_run_freezes_what_was_split():
    net = Net(2, 6)
    at = net.graph.add_input("at", TensorType(DType.INT64, ()))
    parts = net.add("SplitToSequence", net.linear(net.x, "wide", 12), net.graph.add_constant(torch.tensor(4)), axis=1)
    graph = net.done(net.linear(net.add("SequenceAt", parts, at), "head", 3))
    with pytest.raises(PassError, match="nothing can be pruned"):
        prune(graph)


def test_rows_that_nobody_reads_are_no_channels():
    net = Net(2, 6)
    first = (net.graph.add_constant(torch.tensor([n])) for n in (0, 2))
    rows = net.add("Slice", net.w("table", 64, 6), *first)
    graph = net.done(net.linear(net.add("Add", net.linear(net.x, "wide", 6), rows), "head", 3))
    report = prune(graph)
    assert report.kept["table"].keys() == {1}
    assert len(report.of("prune-channels").details["groups"]) == 1


def test_indices_alone_are_not_worth_pruning():
    net = Net(2, 6)
    table = net.graph.add_constant(torch.arange(64), "positions")
    places = net.add("Slice", table, *(net.graph.add_constant(torch.tensor([n])) for n in (0, 2)))
    rows = net.add("Gather", net.w("embedding", 64, 6), places)
    graph = net.done(net.linear(net.add("Add", net.linear(net.x, "wide", 6), rows), "head", 3))
    assert "positions" not in prune(graph).kept


@pytest.mark.parametrize("constant", [True, False])
def test_numbers_between_constant_bounds_go_with_their_channels(constant):
    net = Net(2, 6)
    bounds = [net.graph.add_constant(torch.tensor(float(n))) for n in (1, 9, 1)]
    if not constant:
        bounds[0] = net.graph.add_input("from", TensorType(FLOAT, ()))
    slopes = net.add("Range", *bounds)
    slopes.type = TensorType(FLOAT, (8,))
    graph = net.done(net.linear(net.add("Mul", net.linear(net.x, "wide", 8, bias=False), slopes), "head", 3))
    if not constant:
        with pytest.raises(PassError, match="operator Range"):
            prune(graph)
        return
    kept = prune(graph).kept["wide.weight"][1]
    numbers = next(node for node in graph if node.op == "Identity").operand(0)
    assert numbers.data.tolist() == [float(1 + i) for i in kept]
