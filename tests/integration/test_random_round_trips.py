"""Random models, all the way round: `tests/bench/fuzz_round_trip.py` runs thousands of these.

Hypothesis picks seeds and lengths: drawing each number from it is ten times slower, and it still finds the shortest.
"""

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.onnx_round_trip import check_model
from tests.random_onnx import MAKERS, random_model
from tests.random_torch import RandomModule
from tests.round_trip import check_module

SEEDS = st.integers(0, 2**32 - 1)
quick = settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])


@given(seed=SEEDS, length=st.integers(1, 8))
@settings(quick, max_examples=30)
def test_torch_to_graph_to_onnx_and_back(seed, length):
    outcome = check_module(RandomModule(seed, length), seed)
    assert outcome.split(",")[0] in {"round", "carried"}


@given(seed=SEEDS, steps=st.integers(1, 10))
@settings(quick, max_examples=80)
def test_onnx_to_graph_to_onnx_and_torch(seed, steps):
    rng = random.Random(seed)
    outcome = check_model(random_model(rng, steps), rng)
    assert outcome.split(",")[0] in {"round", "refused", "not finite"}


def test_few_models_are_refused():
    """A generator whose models ONNX Runtime does not execute would prove nothing."""
    outcomes = [check_model(random_model(random.Random(seed), 3), random.Random(1)) for seed in range(20)]
    assert sum(outcome.startswith("round") for outcome in outcomes) >= 17


def test_makers_have_names_and_are_many():
    assert len({maker.__name__ for maker in set(MAKERS)}) == len(set(MAKERS)) >= 60
