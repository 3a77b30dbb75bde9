"""Activation functions and dropout."""

from __future__ import annotations

from graphopt.frontends.aten.builder import Builder, axis_of, rank_of, require, shape_of, static
from graphopt.frontends.aten.registry import converts
from graphopt.ir import DType, Value


@converts("aten.relu.default")
def relu(c: Builder, self: Value) -> Value:
    return c.emit("Relu", self)


@converts("aten.relu6.default")
def relu6(c: Builder, self: Value) -> Value:
    return hardtanh(c, self, 0.0, 6.0)


@converts("aten.hardtanh.default")
def hardtanh(c: Builder, self: Value, min_val: float = -1.0, max_val: float = 1.0) -> Value:
    return c.emit("Clip", self, c.scalar(min_val, self.dtype), c.scalar(max_val, self.dtype))


@converts("aten.gelu.default")
def gelu(c: Builder, self: Value, approximate: str = "none") -> Value:
    return c.emit("Gelu", self, approximate=approximate)


@converts("aten.silu.default")
def silu(c: Builder, self: Value) -> Value:
    return c.emit("Swish", self)


@converts("aten.mish.default")
def mish(c: Builder, self: Value) -> Value:
    return c.emit("Mish", self)


@converts("aten.hardswish.default")
def hardswish(c: Builder, self: Value) -> Value:
    return c.emit("HardSwish", self)


@converts("aten.hardsigmoid.default")
def hardsigmoid(c: Builder, self: Value) -> Value:
    return c.emit("HardSigmoid", self, alpha=1 / 6, beta=0.5)


@converts("aten.leaky_relu.default")
def leaky_relu(c: Builder, self: Value, negative_slope: float = 0.01) -> Value:
    return c.emit("LeakyRelu", self, alpha=float(negative_slope))


@converts("aten.rrelu.default")
def rrelu(
    c: Builder, self: Value, lower: float = 0.125, upper: float = 1 / 3, training: bool = False, generator: None = None
) -> Value:
    require(not training, "the slopes are random in training")
    return leaky_relu(c, self, (lower + upper) / 2)


@converts("aten.prelu.default")
def prelu(c: Builder, self: Value, weight: Value) -> Value:
    """The slopes lie along dimension 1."""
    if shape_of(weight) != () and shape_of(weight) != (1,) and rank_of(self) > 2:
        weight = c.unsqueeze(weight, *range(1, rank_of(self) - 1))
    return c.emit("PRelu", self, weight)


@converts("aten.elu.default")
def elu(c: Builder, self: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    require(input_scale == 1, "ELU with an input scale")
    y = c.emit("Elu", self, alpha=float(alpha))
    return y if scale == 1 else c.emit("Mul", y, c.scalar(scale, self.dtype))


@converts("aten.selu.default")
def selu(c: Builder, self: Value) -> Value:
    return c.emit("Selu", self)


@converts("aten.celu.default")
def celu(c: Builder, self: Value, alpha: float = 1.0) -> Value:
    return c.emit("Celu", self, alpha=float(alpha))


@converts("aten.threshold.default")
def threshold(c: Builder, self: Value, threshold: float, value: float) -> Value:
    if value == 0 and threshold >= 0:
        return c.emit("ThresholdedRelu", self, alpha=float(threshold))
    above = c.emit("Greater", self, c.scalar(threshold, self.dtype))
    return c.emit("Where", above, self, c.scalar(value, self.dtype))


@converts("aten.softplus.default")
def softplus(c: Builder, self: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """Above the threshold torch is linear, which float32 cannot tell from the formula."""
    require(threshold >= 20, "softplus with a low threshold")
    if beta == 1:
        return c.emit("Softplus", self)
    scale = c.scalar(beta, self.dtype)
    return c.emit("Div", c.emit("Softplus", c.emit("Mul", self, scale)), scale)


@converts("aten.softsign.default")
def softsign(c: Builder, self: Value) -> Value:
    return c.emit("Softsign", self)


@converts("aten.log_sigmoid.default")
def log_sigmoid(c: Builder, self: Value) -> Value:
    return c.emit("Neg", c.emit("Softplus", c.emit("Neg", self)))


@converts("aten.hardshrink.default")
def hardshrink(c: Builder, self: Value, lambd: float = 0.5) -> Value:
    return c.emit("Shrink", self, lambd=float(lambd), bias=0.0)


@converts("aten.softshrink.default")
def softshrink(c: Builder, self: Value, lambd: float = 0.5) -> Value:
    return c.emit("Shrink", self, lambd=float(lambd), bias=float(lambd))


@converts("aten.tanhshrink.default")
def tanhshrink(c: Builder, self: Value) -> Value:
    return c.emit("Sub", self, c.emit("Tanh", self))


@converts("aten.glu.default")
def glu(c: Builder, self: Value, dim: int = -1) -> Value:
    axis = axis_of(self, dim)
    half = static(c.result_shape[axis])
    a, b = c.emit_many("Split", [self, c.ints([half, half])], 2, axis=axis)
    return c.emit("Mul", a, c.emit("Sigmoid", b))


@converts("aten.softmax.int", "aten.special_softmax.int")
def softmax(c: Builder, self: Value, dim: int, dtype: object = None) -> Value:
    return _softmax(c, "Softmax", self, dim)


@converts("aten.log_softmax.int", "aten.special_log_softmax.int")
def log_softmax(c: Builder, self: Value, dim: int, dtype: object = None) -> Value:
    return _softmax(c, "LogSoftmax", self, dim)


@converts("aten._softmax.default")
def inner_softmax(c: Builder, self: Value, dim: int, half_to_float: bool) -> Value:
    return _softmax(c, "Softmax", self, dim)


@converts("aten._log_softmax.default")
def inner_log_softmax(c: Builder, self: Value, dim: int, half_to_float: bool) -> Value:
    return _softmax(c, "LogSoftmax", self, dim)


@converts("aten._safe_softmax.default")
def safe_softmax(c: Builder, self: Value, dim: int, dtype: object = None) -> Value:
    """Rows of minus infinity give zeros."""
    probabilities = _softmax(c, "Softmax", self, dim)
    zero = c.scalar(0.0, c.result.dtype)
    return c.emit("Where", c.emit("IsNaN", probabilities), zero, probabilities)


def _softmax(c: Builder, op: str, x: Value, dim: int) -> Value:
    x = c.cast(x, c.result.dtype)
    if rank_of(x) == 0:
        return c.squeeze(c.emit(op, c.unsqueeze(x, 0), axis=0), 0)
    return c.emit(op, x, axis=axis_of(x, dim))


# -- dropout: nothing happens at inference, the ratio is kept for training

#: `Node.metadata` key: which kind of torch dropout a Dropout node was; the torch backend makes it again.
DROPOUT_KIND = "torch.dropout"


@converts("aten.dropout.default")
def dropout(c: Builder, input: Value, p: float, train: bool) -> Value:
    require(not train or p == 0, "dropout that is on at inference")
    return c.emit("Dropout", input, c.scalar(p, DType.FLOAT32))


def _special_dropout(name: str) -> None:
    @converts(f"aten.{name}.default")
    def convert(c: Builder, input: Value, p: float, train: bool) -> Value:
        y = dropout(c, input, p, train)
        if y.producer is not None:
            y.producer.metadata[DROPOUT_KIND] = name
        return y


for _name in ("feature_dropout", "alpha_dropout", "feature_alpha_dropout"):
    _special_dropout(_name)


@converts("aten.native_dropout.default")
def native_dropout(c: Builder, input: Value, p: float, train: bool | None) -> tuple[Value, Value]:
    require(not train, "dropout that is on at inference")
    y, mask = c.emit_many("Dropout", [input, c.scalar(p, DType.FLOAT32)], 2)
    return y, mask


@converts("aten.logaddexp.default")
def logaddexp(c: Builder, self: Value, other: Value) -> Value:
    """Max + log(1 + exp(-|a - b|))."""
    gap = c.emit("Neg", c.emit("Abs", c.emit("Sub", self, other)))
    return c.emit("Add", c.emit("Max", self, other), c.emit("Softplus", gap))
