"""Models of the transformers library, in and out: a few of those that ``tests.bench.transformers_zoo`` tries."""

import pytest
import torch

pytest.importorskip("transformers")

from tests.bench.transformers_models import CASES
from tests.bench.transformers_zoo import Trial


@pytest.fixture(scope="module", params=["BERT", "LLaMA", "T5 decoder", "ConvNeXt"])
def captured(request):
    with torch.random.fork_rng():
        trial = Trial(CASES[request.param]())
    return trial, trial.capture()


def test_out_to_torch(captured):
    trial, graph = captured
    trial.to_torch(graph)


def test_out_to_onnx(captured):
    trial, graph = captured
    trial.to_onnx(graph)


@pytest.mark.parametrize("pipeline", ["simplify,fuse", "prune-channels{ratio=0.5}"])
def test_optimised(captured, pipeline):
    trial, graph = captured
    trial.optimise(graph.clone(), pipeline)
