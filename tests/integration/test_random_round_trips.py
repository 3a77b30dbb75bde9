"""Random modules, out to ONNX and back: `tests/bench/fuzz_round_trip.py` runs thousands of these."""

import pytest

from tests.generators import RandomModule
from tests.round_trip import check_module


@pytest.mark.parametrize("seed", range(30))
def test_torch_to_graph_to_onnx_and_back(seed):
    assert check_module(RandomModule(seed, 1 + seed % 8), seed) in {"round", "carried"}
