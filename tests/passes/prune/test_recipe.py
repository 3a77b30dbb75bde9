"""A recipe does to a fresh model what was done to the first one."""

import copy

import numpy as np
import pytest
import torch

import graphopt as go
from graphopt.errors import DataError, SaveError
from graphopt.ir import difference
from graphopt.models import ZOO, build
from graphopt.passes.prune import load_recipe, save_recipe
from graphopt.runtime import run
from graphopt.runtime.samples import example_inputs
from tests.zoo import captured


def fresh(name):
    """The same class with other weights."""
    module, args = build(name)
    torch.manual_seed(7)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=0.1)
    return module, go.capture(module, args)


def renewed(graph):
    """A graph of the same class with other weights."""
    generator = torch.Generator().manual_seed(7)
    for value in graph.parameters:
        if not value.parameter.buffer:
            value.data = torch.randn(value.data.shape, generator=generator) / 10
    return graph


def weights(graph):
    return {value.name: value.type for value in graph.constants if value.dtype.is_float}


@pytest.mark.parametrize(
    ("name", "suffix"), [*((name, "safetensors") for name in ZOO), ("resnext", "json"), ("swin", "json")]
)
def test_zoo(name, suffix, tmp_path):
    first = captured(name)
    second = renewed(first.clone())
    pipeline = "prune-channels{ratio=0.3},prune-channels{ratio=0.3,scope=global,criterion=l2}"
    report = go.optimize(first, pipeline, check=False)
    path = tmp_path / f"recipe.{suffix}"
    save_recipe(report, path, first if suffix == "safetensors" else None)
    assert load_recipe(path).kept == report.kept
    again = go.optimize(second, f'apply-recipe{{file="{path}"}}')  # held to masked equivalence
    assert again.kept == report.kept
    assert weights(second) == weights(first)
    if suffix == "safetensors":
        go.optimize(second, f'load-weights{{file="{path}"}}')
        inputs = example_inputs(first)
        for got, want in zip(run(second, inputs), run(first, inputs), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        assert difference(first, second) is None


@pytest.mark.parametrize("pipeline", [
    "prune-depth{ratio=0.5},prune-channels{ratio=0.4}", "prune-channels{ratio=0.4},prune-depth{ratio=0.5}",
])  # fmt: skip
@pytest.mark.parametrize("name", ["resnet", "vit", "convnext"])
def test_blocks_and_channels(name, pipeline, tmp_path):
    first = captured(name)
    report = go.optimize(first, pipeline)
    path = tmp_path / "recipe.safetensors"
    save_recipe(report, path, first)
    second = renewed(captured(name))
    go.optimize(second, f'apply-recipe{{file="{path}"}},load-weights{{file="{path}"}}')
    inputs = example_inputs(first)
    torch.testing.assert_close(run(second, inputs)[0], run(first, inputs)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2", "densenet", "lenet"])
def test_written_back_into_the_users_own_module(name, tmp_path):
    graph = captured(name)
    report = go.optimize(graph, "prune-channels{ratio=0.5}")
    path = tmp_path / "recipe.json"
    save_recipe(report, path)
    own, other = fresh(name)
    before = copy.deepcopy(own)
    go.optimize(other, f'apply-recipe{{file="{path}"}}')
    go.write_back(other, own)
    x = example_inputs(other)
    torch.testing.assert_close(own(*x), run(other, x)[0], rtol=1e-3, atol=1e-4)
    for key, tensor in own.state_dict().items():
        wanted = before.state_dict()[key]
        for dim, kept in report.kept.get(key, {}).items():
            wanted = wanted[(slice(None),) * dim + (np.array(kept),)]
        assert torch.equal(tensor, wanted)


def test_what_does_not_fit_is_refused(tmp_path):
    graph = captured("resnet")
    report = go.optimize(graph, "prune-channels{ratio=0.5}", check=False)
    path = tmp_path / "recipe.safetensors"
    save_recipe(report, path)
    for name in ("mobilenet_v2", "resnet_bottleneck"):
        other = captured(name)
        before = str(other)
        with pytest.raises(DataError, match="recipe"):
            go.optimize(other, f'apply-recipe{{file="{path}"}}')
        assert str(other) == before
    other = captured("resnet")
    with pytest.raises(DataError, match="no weights"):
        go.optimize(other, f'load-weights{{file="{path}"}}')
    save_recipe(report, path, graph)
    with pytest.raises(DataError, match="in the recipe and") as error:
        go.optimize(other, f'load-weights{{file="{path}"}}')
    assert "apply-recipe" in error.value.hint


def test_a_recipe_that_tears_apart_what_is_coupled(tmp_path):
    graph = captured("resnet")
    report = go.optimize(graph, "prune-channels{ratio=0.5}", check=False)
    name = next(iter(report.kept))
    report.passes[0].kept[name][0] = report.passes[0].kept[name][0][:-1]
    save_recipe(report, tmp_path / "recipe.json")
    with pytest.raises(DataError, match="free to stay"):
        go.optimize(captured("resnet"), f'apply-recipe{{file="{tmp_path / "recipe.json"}"}}')
    report.passes[0].kept[name][0] = [999]
    save_recipe(report, tmp_path / "recipe.json")
    with pytest.raises(DataError, match="index 999"):
        go.optimize(captured("resnet"), f'apply-recipe{{file="{tmp_path / "recipe.json"}"}}')


def test_bad_files(tmp_path):
    graph = captured("lenet")
    report = go.optimize(graph, "prune-channels", check=False)
    for name, own in (("recipe.txt", None), ("recipe.json", graph)):
        with pytest.raises(SaveError, match="cannot be written"):
            save_recipe(report, tmp_path / name, own)
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text("[1")
    (tmp_path / "c.safetensors").write_bytes(b"nothing")
    for name in ("a.json", "b.json", "c.safetensors", "absent.json"):
        with pytest.raises(DataError, match=r"no recipe|no such file"):
            load_recipe(tmp_path / name)
