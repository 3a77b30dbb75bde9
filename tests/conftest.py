import random

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


@pytest.fixture(autouse=True)
def seed() -> int:
    """Start every test from the same random state, in whatever order the tests run."""
    value = 0
    random.seed(value)
    np.random.seed(value)  # code under test may use the global state
    torch.manual_seed(value)
    return value
