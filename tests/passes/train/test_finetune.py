import copy
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphopt as go
from graphopt.errors import DataError, OptionError, PassError, PipelineError
from graphopt.ir import difference
from graphopt.models.digits import accuracy, data, digits
from graphopt.passes.train import Finetune
from graphopt.passes.train.losses import classification, distillation
from graphopt.pipeline import Context


class Small(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Linear(6, width)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.2)
        self.second = nn.Linear(width, 3)

    def forward(self, x):
        return self.second(self.drop(torch.relu(self.norm(self.first(x)))))


def batches(count: int = 4, rows: int = 16, labels: bool = True):
    generator = torch.Generator().manual_seed(1)
    rule = torch.randn(6, 3, generator=generator)
    made = []
    for _ in range(count):
        x = torch.randn(rows, 6, generator=generator)
        made.append((x, (x @ rule).argmax(1)) if labels else (x,))
    return made


def captured(module: nn.Module | None = None):
    module = (module or Small()).eval()
    return module, go.capture(module, (torch.randn(2, 6),), dynamic={"x": {0: "batch"}})


def test_distillation_is_the_article_s_formula():
    student, teacher, t = torch.randn(5, 7), torch.randn(5, 7), 3.0
    q, p = np.exp(teacher.double().numpy() / t), np.exp(student.double().numpy() / t)
    q, p = q / q.sum(1, keepdims=True), p / p.sum(1, keepdims=True)
    want = t**2 * (q * np.log(q / p)).sum(1).mean()
    assert float(distillation(student, teacher, t)) == pytest.approx(want, rel=1e-5)
    assert float(distillation(teacher, teacher, t)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("as_graph", [False, True])
def test_first_step_follows_the_weighted_loss(alpha, as_graph):
    """One step of plain SGD without momentum's history: the weights move by -lr times the gradient of the formula."""
    torch.manual_seed(3)
    module, teacher = nn.Linear(6, 3).eval(), nn.Linear(6, 3).eval()
    graph = go.capture(module, (torch.randn(16, 6),))
    x, y = batches(1)[0]
    known = go.capture(teacher, (torch.randn(16, 6),)) if as_graph else teacher
    step = Finetune(epochs=1, lr=0.1, optimizer="sgd", weight_decay=0.0, alpha=alpha, temperature=2.0, clip=0)
    report = go.optimize(graph, [step], [(x, y)], teacher=known)

    logits = module(x)
    kl = F.kl_div(F.log_softmax(logits / 2, 1), F.softmax(teacher(x) / 2, 1), reduction="sum") / len(x)
    loss = alpha * F.cross_entropy(logits, y) + (1 - alpha) * 4 * kl
    (gradient,) = torch.autograd.grad(loss, module.weight)
    assert report.of("finetune").details["losses"] == [pytest.approx(loss.item(), rel=1e-5)]
    torch.testing.assert_close(go.to_torch(graph).weight, module.weight - 0.1 * gradient)


def test_teacher_alone_is_enough():
    teacher, _ = captured()
    _, graph = captured()
    report = go.optimize(graph, "finetune{epochs=4,lr=0.01}", batches(labels=False), teacher=teacher)
    losses = report.of("finetune").details["losses"]
    assert losses[-1] < losses[0] / 1.5


def test_training_lowers_the_loss_and_takes_statistics_back():
    module, graph = captured()
    before = copy.deepcopy(module.state_dict())
    report = go.optimize(graph, "finetune{epochs=8,lr=0.02}", batches())
    entry = report.of("finetune")
    assert entry.details["losses"][-1] < entry.details["losses"][0] / 1.5
    assert entry.notes[0].startswith("loss ")
    assert "equivalence" not in entry.checks
    trained = go.to_torch(graph).state_dict()
    assert trained.keys() == before.keys()
    for name in before:
        if name != "norm.num_batches_tracked":
            assert not torch.equal(trained[name], before[name]), name
        assert torch.equal(module.state_dict()[name], before[name]), "the caller's module was trained"


def test_only_what_required_gradients_moves():
    module = Small()
    module.first.requires_grad_(False)
    _, graph = captured(module)
    go.optimize(graph, "finetune{epochs=1}", batches())
    trained = go.to_torch(graph)
    assert torch.equal(trained.first.weight, module.first.weight)
    assert not trained.first.weight.requires_grad
    assert not torch.equal(trained.second.weight, module.second.weight)
    assert trained.second.weight.requires_grad


def test_seed_decides_and_the_caller_s_randomness_is_left_alone():
    module, _ = captured()
    results = {}
    for name, seed, noise in (("a", 0, 5), ("b", 0, 6), ("c", 1, 5)):
        _, graph = captured(module)
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        go.optimize(graph, "finetune{epochs=2}", batches(), seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        results[name] = go.to_torch(graph).second.weight
    assert torch.equal(results["a"], results["b"])
    assert not torch.equal(results["a"], results["c"])  # dropout differs


def test_works_where_gradients_are_switched_off():
    _, graph = captured()
    with torch.no_grad():
        assert go.optimize(graph, "finetune{epochs=1}", batches()).modified


def test_teacher_has_its_modes_back():
    teacher = Small()
    teacher.drop.eval()
    modes = [each.training for each in teacher.modules()]
    _, graph = captured()
    go.optimize(graph, "finetune{epochs=1}", batches(), teacher=teacher)
    assert [each.training for each in teacher.modules()] == modes
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert torch.equal(teacher.norm.running_mean, torch.zeros(8))


def test_own_loss():
    _, graph = captured()
    data = [(torch.randn(8, 6), torch.randn(8, 3))]
    report = go.optimize(graph, "finetune{epochs=1}", data, loss=F.mse_loss)
    assert report.of("finetune").details["losses"][0] < 5


def test_labels_of_any_integer_type_and_probabilities():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    want = F.cross_entropy(logits, labels)
    assert torch.equal(classification(logits, labels.to(torch.int32)), want)
    assert torch.equal(classification(logits, labels.to(torch.uint8)), want)
    torch.testing.assert_close(classification(logits, F.one_hot(labels, 3).float()), want)


def test_no_epochs_change_nothing():
    _, graph = captured()
    before = graph.clone()
    assert not go.optimize(graph, "finetune{epochs=0}", batches()).modified
    assert difference(graph, before) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [("lr=0", "lr is 0"), ("lr=nan", "lr is nan"), ("alpha=1.5", "from 0 to 1"), ("temperature=0", "temperature"),
     ("epochs=-1", "0 or more"), ("epochs=1.5", "whole number"), ("optimizer=adam", "did you mean 'adamw'"),
     ("weight-decay=-1", "weight-decay is -1"), ("output=-1", "output"), ("lrr=1", "did you mean 'lr'")],
)  # fmt: skip
def test_bad_options(options, words):
    _, graph = captured()
    with pytest.raises((OptionError, PipelineError), match=words):
        go.optimize(graph, f"finetune{{{options}}}", batches())


@pytest.mark.parametrize(
    ("data", "teacher", "error", "words"),
    [(None, None, DataError, "needs data"),
     (batches(labels=False), None, DataError, "labels or a teacher"),
     ([], None, DataError, "no samples"),
     ([(torch.randn(4, 6), torch.tensor([0, 1]))], None, DataError, "2 labels for 4 samples"),
     ([(torch.randn(2, 6), torch.tensor([0, 9]))], None, DataError, "label 9 is no class: the output has 3"),
     (batches(), nn.Linear(6, 4), DataError, r"the teacher gives \[16, 4\]"),
     (batches(), "big", OptionError, "the teacher is a str")],
)  # fmt: skip
def test_bad_data(data, teacher, error, words):
    _, graph = captured()
    before = graph.clone()
    with pytest.raises(error, match=words):
        go.optimize(graph, "finetune{epochs=1}", data, teacher=teacher)
    assert difference(graph, before) is None


def test_output_that_is_not_there():
    _, graph = captured()
    with pytest.raises(OptionError, match="no output 1"):
        go.optimize(graph, "finetune{output=1}", batches())


def test_loss_that_explodes_leaves_the_graph_alone():
    _, graph = captured()
    before = graph.clone()
    with pytest.raises(PassError, match="lower lr"):
        go.optimize(graph, "finetune{epochs=3,lr=1e30,clip=0,optimizer=sgd}", batches())
    assert difference(graph, before) is None


def test_nothing_trainable():
    module = Small().requires_grad_(False)
    _, graph = captured(module)
    with pytest.raises(PassError, match="no parameter is trainable"):
        go.optimize(graph, "finetune", batches())


def test_progress_is_shown_per_epoch():
    _, graph = captured()
    seen = []

    def progress(items, description, total):
        seen.append((description, total))
        yield from items

    context = Context(graph, batches(), progress=progress)
    Finetune(epochs=3).run(graph, context)
    assert ("fine-tuning", 3) in seen


def test_recovers_pruned_digits():
    samples = data()
    module, example = digits()
    graph = go.capture(module, example, dynamic={"x": {0: "batch"}})
    train = [
        (samples.train_x[i : i + 64], samples.train_y[i : i + 64]) for i in range(0, len(samples.train_x) - 63, 64)
    ]
    go.optimize(graph, "prune-channels{ratio=0.5}")
    pruned = accuracy(go.to_torch(graph).eval(), samples.test_x, samples.test_y)
    go.optimize(graph, "finetune{epochs=2,lr=0.003}", train, teacher=module)
    tuned = accuracy(go.to_torch(graph).eval(), samples.test_x, samples.test_y)
    assert tuned > 0.95
    assert tuned > pruned


@pytest.mark.parametrize(
    ("epochs", "note"), [(1, r"loss \d\.\d{4} in the one epoch"), (2, r"loss \S+ -> \S+ over 2 epochs")]
)
def test_the_loss_in_words(epochs, note):
    _, graph = captured()
    (entry,) = go.optimize(graph, f"finetune{{epochs={epochs}}}", batches()).passes
    assert len(entry.notes) == 1
    assert re.fullmatch(note, entry.notes[0])


@pytest.mark.parametrize(
    ("loss", "words"),
    [(3, "the loss is 3 .*function of"), (lambda a, b: 1 / 0, "the loss raised ZeroDivisionError: division by zero"),
     (lambda a, b: a, r"the loss returned \[16, 3\] .*one number"), (lambda a, b: 0.5, "the loss returned float")],
)  # fmt: skip
def test_a_loss_that_is_none(loss, words):
    _, graph = captured()
    with pytest.raises(OptionError, match=words):
        go.optimize(graph, "finetune{epochs=1}", batches(1), loss=loss)
