"""Elementwise converters against torch."""

import pytest
import torch
import torch.nn.functional as F

from graphopt.backends import to_torch
from graphopt.frontends.capture import capture
from tests.frontends.oracle import Wrap, check

torch.manual_seed(0)
X = torch.randn(3, 4, 5)
Y = torch.randn(3, 4, 5)
POSITIVE = X.abs() + 0.5
UNIT = X.tanh() * 0.9
INTS = torch.randint(-7, 8, (3, 4))
OTHER = torch.tensor([[3, -2, 5, -4]])
BITS = X > 0

UNARY = [
    "abs", "neg", "exp", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asinh", "atan", "erf", "erfc", "sigmoid", "sign",
    "floor", "ceil", "round", "trunc", "frac", "square", "exp2", "expm1", "positive", "sgn", "isnan", "isinf",
    "isfinite", "logical_not", "nan_to_num", "reciprocal",
]  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_unary(name):
    check(getattr(torch, name), X)


@pytest.mark.parametrize("name", ["sqrt", "log", "rsqrt", "log2", "log10", "log1p"])
def test_unary_of_positive(name):
    check(getattr(torch, name), POSITIVE)


@pytest.mark.parametrize("name", ["asin", "acos", "atanh", "arctan"])
def test_unary_of_unit(name):
    check(getattr(torch, name), UNIT)


def test_acosh_and_logit():
    check(torch.acosh, POSITIVE + 1)
    check(lambda x: torch.logit(x) + torch.logit(x, 0.3), POSITIVE / 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_logarithms_and_exponentials_beside_one_far_out(dtype):
    x = torch.tensor([[-0.5, 0.0, 1e-4, 0.9, 1.0, 1.1, 60.0, 6e4, float("inf"), float("nan")]], dtype=dtype)
    tolerance = 2e-3 if dtype is torch.float16 else 1e-5
    check(torch.log1p, x, tolerance=tolerance)
    check(torch.expm1, torch.cat([-x, x[:, :6], torch.tensor([[-200.0, -1e4]], dtype=dtype)], 1), tolerance=tolerance)


def test_log1p_has_a_gradient_everywhere():
    x = torch.tensor([0.0, 2.0, 1e30], requires_grad=True)
    to_torch(capture(Wrap(torch.log1p), (x.detach(),)))(x).sum().backward()
    torch.testing.assert_close(x.grad, 1 / (1 + x.detach()))


@pytest.mark.parametrize("name", ["sqrt", "exp", "abs", "floor", "neg", "bitwise_not", "log1p", "trunc"])
def test_unary_of_integers(name):
    check(getattr(torch, name), INTS.abs())


def test_small_arguments_keep_their_digits():
    tiny = torch.tensor([[1e-6, -3e-7]])
    check(lambda x: torch.expm1(x) * 1e6, tiny, tolerance=1e-6)
    check(lambda x: torch.log1p(x) * 1e6, tiny, tolerance=1e-6)


BINARY = {
    "arithmetic": lambda x, y: x + y - x * y / (y + 9),
    "alpha": lambda x, y: torch.add(x, y, alpha=2) - torch.sub(x, y, alpha=3) + torch.rsub(x, y),
    "scalars": lambda x, y: (2 - x) * 3 + x / 2 - 1.5 + 4 / (y + 9),
    "pow": lambda x, y: x**2 + x**3 + (x.abs() + 1) ** 0.5 + 2**y + (x.abs() + 1) ** y + (x.abs() + 1) ** -0.5,
    "division": lambda x, y: torch.div(x, y, rounding_mode="floor") + torch.div(x, y, rounding_mode="trunc") + x // y,
    "remainder": lambda x, y: x % y + torch.fmod(x, y) + x % 2 + torch.fmod(x, 3),
    "extremes": lambda x, y: torch.maximum(x, y) + torch.minimum(x, y) + torch.max(x, y) + torch.fmin(x, y),
    "comparisons": lambda x, y: (x < y, x <= y, x > y, x >= y, x == y, x != y, x > 0, x == 1, x.ne(2), x.less(y)),
    "fused": lambda x, y: torch.addcmul(x, x, y, value=2) + torch.addcdiv(x, y, y.abs() + 1) + torch.lerp(x, y, 0.3),
    "logic": lambda x, y: (x > 0) & (y > 0) | (x > 1) ^ (y < 0),
    "logical": lambda x, y: torch.logical_and(x, y > 0).logical_or(x > 1).logical_xor(y),
    "where": lambda x, y: torch.where(x > y, x, y) + torch.where(x > 0, x, 0.5) + torch.where(x > 0, 1, 2),
    "mask": lambda x, y: x.masked_fill(y > 0, float("-inf")).masked_fill(y < -1, 3),
    "clamp": lambda x, y: x.clamp(-1, 1) + x.clamp(max=0.5) + x.clamp_min(0.1) + x.clip(y, y + 1) + x.clamp_max(0),
    "logaddexp": torch.logaddexp,
    "hypot": torch.hypot,
    "broadcast": lambda x, y: x * y[0] + y[:, :1] + x[..., None].squeeze(-1),
    "bool arithmetic": lambda x, y: ((x > 0) + (y > 0), (x > 0) * (y > 0), (x > 0) * 2, (x > 0) + x),
    "bool comparisons": lambda x, y: ((x > 0) < (y > 0), (x > 0) == (y > 0), (x > 0) != True),  # noqa: E712
}


@pytest.mark.parametrize("name", BINARY)
def test_binary(name):
    check(BINARY[name], X, Y, batch=(0, 1))


INTEGER = {
    "floor": lambda a, b: (a // b, torch.div(a, b, rounding_mode="floor"), a // 3, a // -3),
    "trunc": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
    "remainder": lambda a, b: (a % b, torch.fmod(a, b), a % 3, a % -3),
    "true division": lambda a, b: a / b + a / 2,
    "promotion": lambda a, b: (a + 0.5, a * b, a.float() + b, a.int() + b, a > 0.5, a + (b > 0), 2.0 * a),
    "bits": lambda a, b: (a & b, a | b, a ^ b, ~a, a & 3),
    "pow": lambda a, b: (a**2, a**3, b.abs() ** 2),
    "clamp": lambda a, b: (a.clamp(-2, 3), a.clamp(-0.5, 2)),
}


@pytest.mark.parametrize("name", INTEGER)
def test_integers(name):
    check(INTEGER[name], INTS, OTHER)


ACTIVATIONS = {
    "relu family": lambda x: F.relu(x) + F.relu6(x * 4) + F.leaky_relu(x, 0.2) + F.hardtanh(x) + F.rrelu(x),
    "gelu": lambda x: F.gelu(x) + F.gelu(x, approximate="tanh"),
    "swish family": lambda x: F.silu(x) + F.mish(x) + F.hardswish(x * 3) + F.hardsigmoid(x * 3),
    "elu family": lambda x: F.elu(x, 0.5) + F.selu(x) + F.celu(x, 2.0),
    "threshold": lambda x: F.threshold(x, 0.5, 0.0) + F.threshold(x, 0.1, 20.0) + F.threshold(x, -1, 0),
    "softplus": lambda x: F.softplus(x) + F.softplus(x, beta=2) + F.softsign(x) + F.logsigmoid(x),
    "shrink": lambda x: F.hardshrink(x) + F.softshrink(x, 0.3) + F.tanhshrink(x),
    "glu": lambda x: F.glu(x, 1),
    "softmax": lambda x: F.softmax(x, -1) + F.log_softmax(x, 1) + F.softmin(x, 2) + F.softmax(x, 0).sum(),
    "softmax in double": lambda x: F.softmax(x, -1, dtype=torch.float64),
    "softmax of a number": lambda x: F.softmax(x.sum(), 0),
    "dropout": lambda x: F.dropout(F.alpha_dropout(x, training=False), training=False),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    check(ACTIVATIONS[name], X)


@pytest.mark.parametrize("count", [1, 4])
def test_prelu(count):
    check(torch.nn.PReLU(count), X)
    check(torch.nn.PReLU(count), X[:, :, 0])


def test_dropout_keeps_ratio_and_kind():
    graph = check(torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Dropout1d(0.2)), X)
    plain, feature = graph.nodes
    assert plain.operand(1).data.item() == pytest.approx(0.3)
    assert not plain.metadata
    assert feature.metadata == {"torch.dropout": "feature_dropout"}
    assert feature.origin.module == "1"
