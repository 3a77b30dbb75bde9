import functools
import gc
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

# One thread per worker: pytest-xdist runs the tests side by side.
torch.set_num_threads(1)


class _TorchRandom:
    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.random.get_rng_state)
    setstate = staticmethod(torch.random.set_rng_state)


_TORCH_RANDOM = _TorchRandom()  # hypothesis holds it weakly
hypothesis.register_random(_TORCH_RANDOM)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("ci")


def _uncovered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Switches coverage's tracer off while torch is at work: Python 3.11 runs at half its speed under one.

    What it calls back of graphopt is then not counted, which makes the coverage too low and never too high.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        tracer = sys.gettrace()
        if not type(tracer).__module__.startswith("coverage"):
            return function(*args, **kwargs)
        sys.settrace(None)
        try:
            return function(*args, **kwargs)
        finally:
            sys.settrace(tracer)

    return call


torch.export.export = _uncovered(torch.export.export)
torch.onnx.export = _uncovered(torch.onnx.export)


def pytest_collection_finish() -> None:
    """What torch and the tests themselves consist of is there to stay: no collection of garbage need look at it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seed() -> int:
    """Start every test from the same random state, in whatever order the tests run."""
    value = 0
    random.seed(value)
    np.random.seed(value)  # code under test may use the global state
    torch.manual_seed(value)
    return value


@pytest.fixture(scope="session")
def zoo_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The ONNX file that torch.onnx.export writes of a zoo model: made once in a session, whoever asks first."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "zoo-files"
    folder.mkdir(exist_ok=True)

    def export(name: str) -> Path:
        from graphopt.models import build

        path = folder / f"{name}.onnx"
        if not path.exists():
            module, args = build(name)
            part = folder / f"{name}.{os.getpid()}.onnx"
            torch.onnx.export(module, args, part, dynamo=True, verbose=False, external_data=False)
            part.replace(path)
        return path

    return export
