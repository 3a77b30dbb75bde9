import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("sklearn")

from graphopt.models.digits import CHECKPOINT, accuracy, data, digits
from tests.processes import run_python


@pytest.fixture(scope="module")
def split():
    return data()


def test_checkpoint_is_accurate_on_held_out_images(split):
    module, _ = digits()
    assert accuracy(module, split.test_x, split.test_y) >= 0.98


def test_fresh_weights_have_learnt_nothing(split):
    module, _ = digits(pretrained=False)
    assert accuracy(module, split.test_x, split.test_y) < 0.3


def test_module_is_in_eval_mode_and_runs():
    module, (x,) = digits()
    assert not module.training
    assert module(x).shape == (2, 10)
    assert sum(parameter.numel() for parameter in module.parameters()) < 245_000


def test_split_is_stratified_and_scaled(split):
    assert split.train_x.shape == (1437, 1, 8, 8)
    assert split.test_x.shape == (360, 1, 8, 8)
    assert split.train_x.dtype == split.test_x.dtype == torch.float32
    assert split.train_y.dtype == split.test_y.dtype == torch.int64
    assert split.train_x.min() == 0
    assert split.train_x.max() == 1
    assert all(35 <= count <= 37 for count in split.test_y.bincount())


def test_split_is_disjoint(split):
    train, test = ({image.numpy().tobytes() for image in images} for images in (split.train_x, split.test_x))
    assert not train & test
    assert len(train) + len(test) == 1797


def test_split_is_fixed(split):
    torch.manual_seed(123)
    again = data()
    assert torch.equal(again.test_x, split.test_x)
    assert torch.equal(again.train_y, split.train_y)
    assert split.test_y[:8].tolist() == [7, 6, 3, 7, 7, 3, 2, 8]


def test_checkpoint_is_small():
    assert CHECKPOINT.stat().st_size < 1_000_000


def test_training_script_writes_the_same_checkpoint_twice(tmp_path):
    paths = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    script = ("-m", "graphopt.models.train_digits", "--epochs", "1", "--out")
    assert run_python(*script, paths[0], cwd=tmp_path).returncode == 0
    subprocess.run([sys.executable, *script, paths[1]], check=True, capture_output=True)  # where hashes are others
    first, second = (load_file(path) for path in paths)
    assert set(first) == set(load_file(CHECKPOINT))
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), key
