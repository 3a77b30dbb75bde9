"""Whatever the architecture: what is pruned computes what the original with the removed slices zeroed computes."""

import numpy as np
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from graphopt.analysis import propagate_all
from graphopt.errors import PassError
from graphopt.ir import difference
from graphopt.ir.names import unique_names
from graphopt.passes.prune import PruneChannels
from graphopt.pipeline import Context
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from graphopt.runtime.masked import run_masked
from tests.passes.prune.random_graphs import INSTRUCTIONS, SIZE, build

number = st.integers(0, 11)
programs = st.lists(st.tuples(st.sampled_from(INSTRUCTIONS), number, number, number), min_size=1, max_size=14)


def masked_difference(graph, original, changes, x):
    return compare(run(graph, [x]), run_masked(original, [x], changes.kept, changes.details["restricted"]))


@settings(max_examples=100)
@given(
    program=programs, seed=st.integers(0, 99), extra=number, ratio=st.floats(0.05, 0.9),
    scope=st.sampled_from(["uniform", "global"]), round_to=st.sampled_from([1, 1, 2]), batch=st.sampled_from([2, "n"]),
)  # fmt: skip
def test_pruned_graph_is_the_masked_original(program, seed, extra, ratio, scope, round_to, batch):
    graph = build(program, seed, extra, batch)
    unique_names(graph)
    original = graph.clone()
    x = torch.randn(2, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    step = PruneChannels(ratio, "l1", scope, round_to=round_to)
    try:
        with graph.transaction():
            changes = step.run(graph, Context(graph))
    except PassError:
        event("nothing removed")
        assert difference(graph, original) is None
        return
    event("pruned")
    propagate_all(graph)  # the shapes that pruning stated are those that the operators' rules give
    graph.verify()
    assert [value.type for value in graph.inputs] == [value.type for value in original.inputs]
    assert [value.type for value in graph.outputs] == [value.type for value in original.outputs]
    assert masked_difference(graph, original, changes, x).within(1e-4)
    check_kept(graph, original, changes.kept)
    again = original.clone()
    assert difference(graph, pruned(again, step)) is None


def pruned(graph, step):
    step.run(graph, Context(graph))
    return graph


def check_kept(graph, original, kept):
    """Every pruned constant is the original's slice at the indices reported, and all others are as they were."""
    before = {value.name: value.data for value in original.constants}
    for value in graph.constants:
        if value.name not in before or not value.data.is_floating_point():
            continue  # sizes and indices that were made anew
        wanted = before[value.name]
        for dim, indices in kept.get(value.name, {}).items():
            assert 0 < len(indices) < wanted.shape[dim]
            assert indices == sorted(set(indices))
            wanted = wanted.index_select(dim, torch.tensor(indices))
        assert torch.equal(value.data, wanted), value.name


@settings(max_examples=25)
@given(program=programs, seed=st.integers(0, 99))
def test_pruning_twice_in_a_row_composes(program, seed):
    graph = build(program, seed)
    unique_names(graph)
    original = graph.clone()
    from graphopt.pipeline.manager import run_pipeline

    try:
        report = run_pipeline(graph, "prune-channels{ratio=0.3},prune-channels{ratio=0.4,criterion=l2}", Context(graph))
    except PassError:
        event("nothing removed")
        return
    event("pruned twice")
    check_kept(graph, original, report.kept)


def test_the_check_can_fail():
    program = [("conv", 0, 2, 1), ("batch_norm", 0, 0, 0), ("activation", 0, 0, 0), ("conv", 0, 2, 0)]
    graph = build(program, 0)
    unique_names(graph)
    original = graph.clone()
    changes = PruneChannels(0.5).run(graph, Context(graph))
    x = torch.randn(2, 4, SIZE, SIZE)
    assert masked_difference(graph, original, changes, x).within(1e-5)
    scales = [value for value in graph.constants if value.name in changes.kept and value.rank == 1]
    for value in scales:
        before = value.data
        value.data = torch.roll(before, 1)  # as if other channels of it had been kept
        assert not masked_difference(graph, original, changes, x).within(1e-4)
        value.data = before
    assert np.mean([len(kept) for dims in changes.kept.values() for kept in dims.values()]) > 1
