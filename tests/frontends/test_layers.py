"""Converters of convolutions, products, normalisation, pooling, attention, recurrence, resizing against torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.frontends.oracle import check

torch.manual_seed(0)
IMAGE = torch.randn(2, 4, 9, 8)
SIGNAL = torch.randn(2, 4, 11)
VOLUME = torch.randn(2, 4, 5, 6, 7)

CONVOLUTIONS = {
    "plain": (nn.Conv2d(4, 6, 3), IMAGE),
    "all options": (
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, bias=False),
        IMAGE,
    ),
    "same": (nn.Conv2d(4, 4, (4, 3), padding="same", groups=4), IMAGE),
    "valid": (nn.Conv2d(4, 4, 2, padding="valid"), IMAGE),
    "reflect": (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), IMAGE),
    "circular": (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), IMAGE),
    "1d": (nn.Conv1d(4, 6, 3, padding=1), SIGNAL),
    "1d same": (nn.Conv1d(4, 6, 4, padding="same"), SIGNAL),
    "3d": (nn.Conv3d(4, 6, 3, stride=2), VOLUME),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), IMAGE),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3, dilation=2), SIGNAL),
    "transposed 3d": (nn.ConvTranspose3d(4, 6, 2, bias=False), VOLUME),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name):
    module, x = CONVOLUTIONS[name]
    graph = check(module, x)
    weight = next(node for node in graph if "Conv" in node.op).operand(1)
    assert weight.parameter.name == "weight"
    assert weight.data.data_ptr() == module.weight.data_ptr()


def test_convolution_without_batch():
    check(nn.Conv2d(4, 6, 3), IMAGE[0], batch=None)
    check(nn.ConvTranspose2d(4, 6, 3), IMAGE[0], batch=None)


def test_convolution_function():
    w, b = torch.randn(6, 4, 3, 3), torch.randn(6)
    check(lambda x: torch.convolution(x, w, b, (1, 1), (1, 1), (1, 1), False, (0, 0), 1), IMAGE)
    check(lambda x: torch.convolution(x, w.transpose(0, 1), b, (2, 2), (1, 1), (1, 1), True, (1, 1), 1), IMAGE)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 8), (3, 5, 8), (2, 3, 5, 8)])
def test_linear(bias, shape):
    module = nn.Linear(8, 6, bias=bias)
    graph = check(module, torch.randn(shape))
    [weight] = [value for value in graph.parameters if value.parameter.name == "weight"]
    assert weight.data.data_ptr() == module.weight.data_ptr()
    assert [node.op for node in graph] == (["Gemm"] if len(shape) == 2 else ["Transpose", "MatMul", "Add"][: 2 + bias])


PRODUCTS = {
    "matmul": (lambda a, b: a @ b, (3, 4, 5), (5, 6)),
    "vector": (lambda a, b: a @ b, (3, 5), (5,)),
    "bmm": (lambda a, b: torch.bmm(a, b.expand(a.shape[0], 5, 6)), (3, 4, 5), (1, 5, 6)),
    "mm": (torch.mm, (3, 5), (5, 6)),
    "addmm": (lambda a, b: torch.addmm(b[0], a, b, beta=2, alpha=0.5), (3, 5), (5, 6)),
    "baddbmm": (lambda a, b: torch.baddbmm(a[:, :, :1], a, a.mT, alpha=2) + b, (3, 4, 5), (1,)),
    "addbmm": (lambda a, b: torch.addbmm(b, a, a.mT), (3, 4, 5), (4, 4)),
    "einsum": (lambda a, b: torch.einsum("bij, jk -> bki", a, b), (3, 4, 5), (5, 6)),
    "outer": (torch.outer, (3,), (5,)),
    "tensordot": (lambda a, b: torch.tensordot(a, b, dims=([1, 2], [1, 0])), (3, 4, 5), (5, 4, 6)),
    "bilinear": (lambda a, b: F.bilinear(a, a, b), (3, 5), (2, 5, 5)),
    "mv": (lambda a, b: torch.mv(a, b) + torch.dot(b, b), (3, 5), (5,)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_product(name):
    function, a, b = PRODUCTS[name]
    check(function, torch.randn(a), torch.randn(b))


def _trained(norm):
    for name in ("running_mean", "running_var", "weight", "bias"):
        tensor = getattr(norm, name, None)
        if tensor is not None:
            tensor.data.uniform_(0.5, 2)
    return norm


NORMS = {
    "batch": (_trained(nn.BatchNorm2d(4)), IMAGE),
    "batch 1d": (_trained(nn.BatchNorm1d(4)), SIGNAL),
    "batch of vectors": (_trained(nn.BatchNorm1d(4)), SIGNAL[:, :, 0]),
    "batch 3d, not affine": (_trained(nn.BatchNorm3d(4, affine=False, eps=1e-2)), VOLUME),
    "layer": (_trained(nn.LayerNorm(8)), IMAGE),
    "layer over two": (_trained(nn.LayerNorm((9, 8), eps=1e-3)), IMAGE),
    "layer, not affine": (nn.LayerNorm(8, elementwise_affine=False), IMAGE),
    "layer, no bias": (_trained(nn.LayerNorm(8, bias=False)), IMAGE),
    "group": (_trained(nn.GroupNorm(2, 4)), IMAGE),
    "group, not affine": (nn.GroupNorm(4, 4, affine=False), SIGNAL),
    "group of vectors": (_trained(nn.GroupNorm(2, 4)), SIGNAL[:, :, 0]),
    "instance": (_trained(nn.InstanceNorm2d(4, affine=True)), IMAGE),
    "instance, not affine": (nn.InstanceNorm1d(4), SIGNAL),
    "instance, tracked": (_trained(nn.InstanceNorm2d(4, track_running_stats=True)), IMAGE),
    "rms": (_trained(nn.RMSNorm(8, eps=1e-4)), IMAGE),
    "rms, no eps": (nn.RMSNorm((9, 8), elementwise_affine=False), IMAGE),
    "local response": (nn.LocalResponseNorm(2), IMAGE),
}


@pytest.mark.parametrize("name", NORMS)
def test_norm(name):
    check(*NORMS[name])


def test_batch_statistics():
    check(nn.BatchNorm2d(4, track_running_stats=False), IMAGE, batch=None)


POOLS = {
    "max": (nn.MaxPool2d(2), IMAGE),
    "max, all options": (nn.MaxPool2d((3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), ceil_mode=True), IMAGE),
    "max 1d": (nn.MaxPool1d(3, 2), SIGNAL),
    "max 3d": (nn.MaxPool3d(2), VOLUME),
    "max with indices": (nn.MaxPool2d(2, return_indices=True), IMAGE),
    "average": (nn.AvgPool2d(3, 2, padding=1), IMAGE),
    "average of what is there": (nn.AvgPool2d(3, 2, padding=1, count_include_pad=False, ceil_mode=True), IMAGE),
    "average 1d": (nn.AvgPool1d(2), SIGNAL),
    "average 3d": (nn.AvgPool3d(2), VOLUME),
    "global": (nn.AdaptiveAvgPool2d(1), IMAGE),
    "global 1d": (nn.AdaptiveAvgPool1d(1), SIGNAL),
    "adaptive, divides": (nn.AdaptiveAvgPool2d((3, 4)), IMAGE),
    "adaptive, open side": (nn.AdaptiveAvgPool2d((None, 2)), IMAGE),
    "adaptive, does not divide": (nn.AdaptiveAvgPool2d((4, 3)), IMAGE),
    "adaptive 1d, does not divide": (nn.AdaptiveAvgPool1d(7), SIGNAL),
    "adaptive max": (nn.AdaptiveMaxPool2d((3, 2)), IMAGE),
    "adaptive max, global": (nn.AdaptiveMaxPool2d(1), IMAGE),
    "power average": (nn.LPPool2d(2, 2), IMAGE),
}


@pytest.mark.parametrize("name", POOLS)
def test_pool(name):
    check(*POOLS[name])


def test_pool_without_batch():
    check(lambda x: F.max_pool2d(x, 2) + F.avg_pool2d(x, 2) + F.adaptive_avg_pool2d(x, (4, 4)), IMAGE[0], batch=None)


def test_adaptive_max_pool_that_does_not_divide():
    check(nn.AdaptiveMaxPool2d((4, 3)), IMAGE, batch=None, carried=["adaptive_max_pool2d"])


def _attention(**options):
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options)


HEADS = [torch.randn(2, 4, n, 8) for n in (5, 7, 7)]
MASK = torch.rand(5, 7) > 0.3
ATTENTIONS = {
    "plain": _attention(),
    "scaled": _attention(scale=0.3),
    "mask": _attention(attn_mask=MASK),
    "added mask": _attention(attn_mask=torch.randn(5, 7)),
    "causal": lambda q, k, v: F.scaled_dot_product_attention(q, q, q, is_causal=True),
    "causal, longer keys": _attention(is_causal=True),
    "grouped": lambda q, k, v: F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True),
    "one head": lambda q, k, v: F.scaled_dot_product_attention(q[:, 0], k[:, 0], v[:, 0]),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention(name):
    graph = check(ATTENTIONS[name], *HEADS, batch=(0, 1, 2))
    assert "Attention" in [node.op for node in graph]


def test_multi_head_attention():
    x = torch.randn(2, 5, 8)
    check(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), x)
    check(
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False), x
    )
    check(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), x, x, batch=(0, 1))


def test_multi_head_attention_with_weights():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, q, k, v):
            return self.attention(q, k, v)

    check(Own(), torch.randn(2, 5, 8), torch.randn(2, 7, 8), torch.randn(2, 7, 8), batch=(0, 1, 2))


RECURRENT = {
    "lstm": nn.LSTM(4, 5, batch_first=True),
    "lstm, deep, both ways": nn.LSTM(4, 5, 2, bidirectional=True, dropout=0.2, batch_first=True),
    "lstm, no bias": nn.LSTM(4, 5, bias=False, batch_first=True),
    "gru": nn.GRU(4, 5, 2, batch_first=True),
    "gru, both ways": nn.GRU(4, 5, bidirectional=True, batch_first=True),
    "rnn": nn.RNN(4, 5, batch_first=True),
    "rnn, relu": nn.RNN(4, 5, 2, nonlinearity="relu", bidirectional=True, batch_first=True),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent(name):
    module = RECURRENT[name]
    graph = check(module, torch.randn(2, 6, 4))
    kept = {value.parameter.name: value.data.data_ptr() for value in graph.parameters}
    assert kept == {key: value.data_ptr() for key, value in module.named_parameters()}


def test_recurrent_time_first_and_initial_state():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 5, 2)
            self.gru = nn.GRU(5, 3)

        def forward(self, x, h, c):
            y, state = self.lstm(x, (h, c))
            return self.gru(y)[0], state

    check(Own(), torch.randn(6, 2, 4), torch.randn(2, 2, 5), torch.randn(2, 2, 5), batch=None)
    check(nn.GRU(4, 5), torch.randn(6, 4), batch=None)


def test_recurrent_of_open_length():
    check(nn.LSTM(4, 5, 2), torch.randn(6, 2, 4))
    check(nn.GRU(4, 5, bidirectional=True), torch.randn(6, 2, 4))


def test_recurrent_cells():
    check(lambda x, h: F.linear(x, h), torch.randn(2, 4), torch.randn(5, 4))
    check(nn.LSTMCell(4, 5), torch.randn(2, 4))
    check(nn.GRUCell(4, 5), torch.randn(2, 4))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_lstm_with_projections_is_unrolled():
    check(nn.LSTM(4, 5, proj_size=3, batch_first=True), torch.randn(2, 3, 4), batch=None)


def _interpolate(**options):
    return lambda x: F.interpolate(x, **options)


RESIZES = {
    "nearest, factor": (_interpolate(scale_factor=2), IMAGE),
    "nearest, odd factor": (_interpolate(scale_factor=1.7), IMAGE),
    "nearest, smaller": (_interpolate(size=(4, 5)), IMAGE),
    "nearest-exact": (_interpolate(size=(5, 13), mode="nearest-exact"), IMAGE),
    "nearest 1d": (_interpolate(scale_factor=3), SIGNAL),
    "nearest 3d": (_interpolate(scale_factor=2), VOLUME),
    "bilinear": (_interpolate(size=(5, 13), mode="bilinear"), IMAGE),
    "bilinear, factor": (_interpolate(scale_factor=1.5, mode="bilinear"), IMAGE),
    "bilinear, recomputed factor": (
        _interpolate(scale_factor=1.5, mode="bilinear", recompute_scale_factor=True),
        IMAGE,
    ),
    "bilinear, corners": (_interpolate(size=(5, 13), mode="bilinear", align_corners=True), IMAGE),
    "bilinear to a point": (_interpolate(size=(1, 1), mode="bilinear"), IMAGE),
    "bilinear, antialias": (_interpolate(size=(5, 4), mode="bilinear", antialias=True), IMAGE),
    "bicubic": (_interpolate(size=(12, 15), mode="bicubic"), IMAGE),
    "bicubic, corners": (_interpolate(size=(12, 15), mode="bicubic", align_corners=True), IMAGE),
    "linear": (_interpolate(size=7, mode="linear"), SIGNAL),
    "trilinear": (_interpolate(size=(4, 5, 9), mode="trilinear"), VOLUME),
}


@pytest.mark.parametrize("name", RESIZES)
def test_resize(name):
    check(*RESIZES[name])


def test_fold():
    check(lambda x: F.fold(F.unfold(x, 3, padding=1), (9, 8), 3, padding=1), IMAGE)
    check(nn.Fold((5, 5), (2, 2), stride=(3, 3)), torch.randn(2, 8, 4))


def test_sampling():
    theta = torch.randn(2, 2, 3) * 0.3

    def sample(x, theta):
        grid = F.affine_grid(theta, (x.shape[0], 4, 6, 7), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False) + F.grid_sample(x, grid, "nearest", "border", True)

    check(sample, IMAGE, theta, batch=(0, 1), tolerance=1e-4)
