"""Pruning makes no second copy of the weights: what it needs is what is left, and one weight at a time."""

import sys

import pytest
import torch

import graphopt as go
from graphopt.analysis.cost import Cost
from tests.bench.prune_large import Sizes, decoder, watched


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident set from /proc")
def test_no_second_copy_of_the_weights():
    ids = torch.zeros(1, 4, dtype=torch.long)
    go.optimize(go.capture(decoder(Sizes(8, 1, 2, 1, 8, 8), torch.float32), ids), "prune-channels", check=False)
    module = decoder(Sizes(dim=1024, layers=3, heads=16, shared=4, hidden=4096, vocabulary=1000), torch.float32)
    graph, _, capturing = watched(lambda: go.capture(module, ids))
    weights = Cost(graph).weight_bytes
    assert weights > 170e6
    _, _, pruning = watched(lambda: go.optimize(graph, "prune-channels{ratio=0.5}", check=False))
    left = Cost(graph).weight_bytes
    assert left < 0.35 * weights
    assert capturing < 0.1 * weights
    assert pruning < left + 0.25 * weights
