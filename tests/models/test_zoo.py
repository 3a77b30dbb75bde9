import importlib
import subprocess
import sys

import onnxruntime
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import graphopt as go
from graphopt.ir import difference
from graphopt.models import CNNS, ZOO, build
from tests.zoo import captured

FULL_SIZE = {  # parameters, as published
    "resnet:resnet18": 11_689_512,
    "resnet:resnet50": 25_557_032,
    "resnet:resnext50": 25_028_904,
    "densenet:densenet121": 7_978_856,
    "mobilenet:mobilenet_v2_x1": 3_504_872,
    "mobilenet:mobilenet_v3_large": 5_483_032,
    "shufflenet:shufflenet_v2_x1": 2_278_604,
    "efficientnet:efficientnet_b0": 5_288_548,
    "regnet:regnet_y_400mf": 4_344_144,
    "squeezenet:squeezenet1_1": 1_235_496,
    "convnext:convnext_tiny": 28_589_128,
    "swin:swin_tiny": 28_288_354,
    "vit:vit_base": 86_567_656,
    "mixer:mixer_base": 59_880_472,
    "bert:bert_base": 109_482_240,
    "gpt:gpt2_small": 124_439_808,
    "vgg:vgg11_bn": 132_868_840,
    "vgg:vgg16_bn": 138_365_992,
}
HEAVY = ("vit_base", "mixer_base", "bert_base", "gpt2_small", "vgg11_bn", "vgg16_bn")


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def run(module, args):
    with torch.no_grad():
        return pytree.tree_leaves(module(*args))


@pytest.fixture(scope="module", params=ZOO)
def built(request):
    return build(request.param)


def test_model_is_small_and_in_eval_mode(built):
    module, args = built
    assert not any(layer.training for layer in module.modules())
    assert isinstance(args, tuple)
    assert 50_000 < parameters(module) < 1_000_000


def test_outputs_are_finite_and_well_scaled(built):
    module, args = built
    for output in run(module, args):
        assert output.isfinite().all()
        assert 0.01 < output.std() < 10
        assert output.shape[0] == args[0].shape[0]


def test_output_depends_on_the_sample(built):
    module, args = built
    for output in run(module, args):
        assert not torch.allclose(output[0], output[1], atol=1e-4)


def test_exported_program_agrees_at_any_batch_size(built):
    module, args = built
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, args, strict=False, dynamic_shapes=tuple({0: batch} for _ in args))
    assert set(program.state_dict) >= set(module.state_dict())
    for other in (args, tuple(x[:1] for x in args), tuple(torch.cat([x, x[:1]]) for x in args)):
        for mine, theirs in zip(run(program.module(), other), run(module, other), strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.slow
def test_onnx_export_agrees(built, request, zoo_file):
    module, args = built
    path = zoo_file(request.node.callspec.params["built"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {value.name: x.numpy() for value, x in zip(session.get_inputs(), args, strict=True)}
    for mine, theirs in zip(session.run(None, feeds), run(module, args), strict=True):
        torch.testing.assert_close(torch.from_numpy(mine), theirs, rtol=1e-4, atol=1e-4)


def test_batch_norms_are_away_from_their_defaults(built):
    module, _ = built
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, default in (
                (layer.weight, 1),
                (layer.bias, 0),
                (layer.running_mean, 0),
                (layer.running_var, 1),
            ):
                assert (tensor - default).abs().mean() > 0.01
            assert layer.running_var.min() > 0


@pytest.mark.parametrize("name", ZOO)
def test_build_repeats_itself_and_leaves_the_global_random_state(name):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, first_args = build(name)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    second, second_args = build(name)
    for mine, theirs in zip(first_args, second_args, strict=True):
        assert torch.equal(mine, theirs)
    theirs = second.state_dict()
    assert list(first.state_dict()) == list(theirs)
    for key, tensor in first.state_dict().items():
        assert torch.equal(tensor, theirs[key]), key


def test_cnns_are_zoo_names_of_networks_with_convolutions():
    assert set(CNNS) < set(ZOO)
    for name in CNNS:
        module, args = build(name)
        assert any(isinstance(layer, nn.Conv2d) for layer in module.modules())
        assert args[0].dim() == 4


def test_structural_traits_are_there():
    gpt, _ = build("gpt")
    assert gpt.lm_head.weight is gpt.wte.weight
    swin, _ = build("swin")
    buffers = dict(swin.named_buffers())
    assert any(name.endswith("attn_mask") for name in buffers)
    assert not any(name.endswith("attn_mask") for name in swin.state_dict())
    assert any(name.endswith("relative_position_index") for name in swin.state_dict())
    model, args = build("image_vector")
    assert len(args) == 2
    assert set(model(*args)) == {"logits", "embedding"}


def test_swin_mask_separates_exactly_what_the_shift_joined():
    from graphopt.models.swin import shift_mask, to_windows

    resolution, window, shift = 8, 4, 2
    # Two positions of a shifted window belong together if they were as near before the shift as they are now.
    grid = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij"), -1)
    here = to_windows(grid[None], window)
    origin = to_windows(torch.roll(grid, (-shift, -shift), (0, 1))[None], window)
    near = here[:, :, None] - here[:, None]
    same = (near == origin[:, :, None] - origin[:, None]).all(-1)
    assert torch.equal(shift_mask(resolution, window, shift) == 0, same)


def test_gpt_sees_no_later_token():
    model, (ids,) = build("gpt")
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 512
    (before,), (after,) = run(model, (ids,)), run(model, (changed,))
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


def test_bert_ignores_padding():
    model, (ids, mask, types) = build("bert")
    changed = torch.where(mask == 1, ids, 5)
    assert not torch.equal(changed, ids)
    for before, after in zip(run(model, (ids, mask, types)), run(model, (changed, mask, types)), strict=True):
        torch.testing.assert_close(before[:, :8], after[:, :8])


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="resnext"):
        build("resnxt")


def test_import_is_cheap():
    code = "import sys, graphopt.models; sys.exit(any(name.startswith('graphopt.models.') for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "spec",
    [pytest.param(spec, marks=pytest.mark.slow if spec.endswith(HEAVY) else ()) for spec in FULL_SIZE],
)
def test_full_size_variant_has_the_published_number_of_parameters(spec):
    file, name = spec.split(":")
    module, _ = getattr(importlib.import_module(f"graphopt.models.{file}"), name)()
    assert parameters(module) == FULL_SIZE[spec]


def test_zoo_names_work_as_model_specs(built, request):
    name = request.node.callspec.params["built"]
    file = type(built[0]).__module__
    module, _ = getattr(importlib.import_module(file), name)()
    assert file.startswith("graphopt.models.")
    assert parameters(module) == parameters(built[0])


def test_captured_graphs_are_as_captured_and_share_no_weights():
    """Of the cache that other tests ask for graphs."""
    first, second = captured("gpt", "batch"), captured("gpt", "batch")
    module, args = build("gpt")
    assert difference(first, go.capture(module, args, dynamic=[{0: "batch"}]), provenance=True) is None
    for a, b in zip(first.parameters, second.parameters, strict=True):
        assert a.data.data_ptr() != b.data.data_ptr()
        assert a.data.requires_grad == b.data.requires_grad
