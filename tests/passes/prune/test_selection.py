from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.analysis.coupling import Group
from graphopt.passes.prune.plan import Limits, Plan


def groups_of(*sizes):
    bounds = np.cumsum([0, *sizes])
    return [Group(i, np.arange(a, b), ()) for i, (a, b) in enumerate(pairwise(bounds))]


def select_uniform(groups, scores, ratio, round_to):
    plan = Plan(groups, scores, scores, "uniform", Limits(round_to))
    return plan.components(plan.counts(ratio))


def select_global(groups, scores, ratio, round_to, max_ratio):
    plan = Plan(groups, scores, scores, "global", Limits(round_to, max_ratio=max_ratio))
    return plan.components(plan.counts(ratio))


def counts(groups, removed):
    return [int(np.isin(group.components, removed).sum()) for group in groups]


def test_uniform_takes_the_lowest_of_each_group():
    scores = np.array([5.0, 1, 4, 2, 3, 9, 7, 8])
    groups = groups_of(5, 3)
    assert sorted(select_uniform(groups, scores, 0.4, 1)) == [1, 3, 6]
    assert counts(groups, select_uniform(groups, scores, 0.99, 1)) == [4, 2]  # one of each stays
    assert len(select_uniform(groups, scores, 0.0, 1)) == 0
    assert len(select_uniform([], scores, 0.5, 1)) == 0


@pytest.mark.parametrize(("size", "ratio", "round_to", "kept"), [
    (64, 0.5, 8, 32), (64, 0.55, 8, 32), (64, 0.4, 8, 40), (10, 0.5, 8, 8), (6, 0.5, 8, 6), (16, 0.99, 8, 8),
    (10, 0.3, 1, 7), (100, 0.29, 1, 71), (12, 0.5, 16, 12),
])  # fmt: skip
def test_multiples_are_kept(size, ratio, round_to, kept):
    groups = groups_of(size)
    scores = np.arange(float(size))
    assert size - len(select_uniform(groups, scores, ratio, round_to)) == kept
    assert size - len(select_global(groups, scores, ratio, round_to, 0.999)) == kept


def test_global_ranks_all_groups_together_and_spares_each():
    groups = groups_of(4, 4)
    scores = np.array([1.0, 2, 3, 4, 10, 11, 12, 13])
    assert sorted(select_global(groups, scores, 0.25, 1, 0.9)) == [0, 1]
    assert counts(groups, select_global(groups, scores, 0.5, 1, 0.5)) == [2, 0]
    assert counts(groups, select_global(groups, scores, 0.9, 1, 0.99)) == [3, 3]
    assert counts(groups, select_global(groups, np.ones(8), 0.5, 1, 0.9)) == [3, 0]  # ties do not stop it


@given(
    sizes=st.lists(st.integers(2, 20), min_size=1, max_size=5), ratio=st.floats(0, 0.99), limit=st.floats(0.01, 0.99),
    round_to=st.integers(1, 5), seed=st.integers(0, 9),
)  # fmt: skip
def test_nothing_is_emptied_and_no_one_more_important_goes(sizes, ratio, limit, round_to, seed):
    groups = groups_of(*sizes)
    scores = np.random.default_rng(seed).random(sum(sizes))
    for removed in (select_uniform(groups, scores, ratio, round_to),
                    select_global(groups, scores, ratio, round_to, limit)):  # fmt: skip
        assert len(removed) <= ratio * sum(sizes) + 1e-6
        for group, count in zip(groups, counts(groups, removed), strict=True):
            kept = len(group) - count
            assert kept >= 1
            assert count == 0 or kept % round_to == 0
            gone = np.isin(group.components, removed)
            if gone.any():
                assert scores[group.components[gone]].max() < scores[group.components[~gone]].min()
