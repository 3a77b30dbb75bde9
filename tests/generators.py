"""Random torch modules: small networks of layers that fit each other, decided by a seed.

A module is a program. Each step is a layer or function on values made earlier; which steps are possible is found by
looking at the shapes of the values that a sample input gives. Operators that decide by the contents of a tensor
(comparisons, sorting, rounding) are only applied to values that are exact copies of inputs, since elsewhere a rounding
error of another runtime may decide differently.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

#: Values with more elements than this are not worked on.
LIMIT = 4096


@dataclass
class Step:
    """One application: `call` on the values at `inputs`; `exact` when it only moves elements of exact values."""

    name: str
    call: Callable[..., Any]
    inputs: Sequence[int]
    exact: bool = False


class RandomModule(nn.Module):
    """A network of `length` steps.

    Args:
        seed: decides everything, weights included.
        length: number of steps.

    Attributes:
        steps: the program.
        example: arguments.
        returned: positions of the values that are returned.
    """

    def __init__(self, seed: int, length: int) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        try:
            self.layers = nn.ModuleList()
            self.steps: list[Step] = []
            self.example = tuple(self._inputs())
            self._values: list[torch.Tensor] = list(self.example)
            self._exact = [True] * len(self._values)
            for _ in range(length):
                self._grow()
        finally:
            torch.set_rng_state(state)
        count = len(self._values)
        last = range(len(self.example), count)
        self.returned = sorted({count - 1, *self.rng.sample(list(last), min(len(last), self.rng.randint(0, 2)))})
        self.as_dict = self.rng.random() < 0.3
        del self._values
        self.eval()

    def _inputs(self) -> list[torch.Tensor]:
        rng = self.rng
        batch, channels, side = rng.randint(1, 3), rng.choice([2, 3, 4, 6]), rng.randint(4, 7)
        kinds = [(batch, channels, side, side + rng.randint(0, 2)), (batch, rng.randint(2, 6), rng.choice([4, 6, 8]))]
        kinds.append((batch, rng.choice([4, 6])))
        chosen = rng.sample(kinds, rng.choice([1, 1, 2]))
        return [torch.randn(shape) for shape in chosen]

    def _grow(self) -> None:
        rng = self.rng
        for _ in range(20):
            recent = range(max(0, len(self._values) - 4), len(self._values))
            position = rng.choice(recent) if rng.random() < 0.7 else rng.randrange(len(self._values))
            made = rng.choice(STEPS)(self, position)
            if made is None:
                continue
            count = len(self.layers)
            layers = [part for part in _parts(made.call) if isinstance(part, nn.Module)]
            self.layers.extend(layers)
            self.layers.eval()
            try:
                with torch.no_grad():
                    result = made.call(*(self._values[i] for i in made.inputs))
            except RuntimeError:  # nothing is left of an extent
                del self.layers[count:]
                continue
            results = list(result) if isinstance(result, (tuple, list)) else [result]
            if all(_is_fit(each) for each in results):
                self.steps.append(made)
                self._values.extend(results)
                self._exact.extend([made.exact and all(self._exact[i] for i in made.inputs)] * len(results))
                return
            del self.layers[count:]

    # -- what steps ask

    def value(self, position: int) -> torch.Tensor:
        return self._values[position]

    def is_exact(self, position: int) -> bool:
        return self._exact[position]

    def others(self, fits: Callable[[torch.Tensor], bool]) -> list[int]:
        """Positions of values that fit."""
        return [i for i, value in enumerate(self._values) if fits(value)]

    def forward(self, *arguments: torch.Tensor) -> Any:
        values = list(arguments)
        for step in self.steps:
            result = step.call(*(values[i] for i in step.inputs))
            values.extend(result if isinstance(result, (tuple, list)) else [result])
        chosen = [values[i] for i in self.returned]
        if self.as_dict:
            return {f"out{i}": value for i, value in zip(self.returned, chosen, strict=True)}
        return tuple(chosen) if len(chosen) > 1 else chosen[0]

    def describe(self) -> str:
        """The program as text."""
        shapes = ", ".join(str(list(each.shape)) for each in self.example)
        lines = [f"inputs {shapes}", *(f"{step.name} of {list(step.inputs)}" for step in self.steps)]
        return "\n".join([*lines, f"returns {self.returned}"])


def _parts(call: Any) -> list[Any]:
    return [call, *getattr(call, "layers", ())]


def _is_fit(value: Any) -> bool:
    """A float tensor of a fair size and magnitude."""
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32 or not 0 < value.numel() <= LIMIT:
        return False
    return value.ndim <= 5 and bool(torch.isfinite(value).all()) and float(value.abs().max()) < 50


# -- steps

Maker = Callable[[RandomModule, int], "Step | None"]
STEPS: list[Maker] = []


def _step(weight: int = 1) -> Callable[[Maker], Maker]:
    def decorate(maker: Maker) -> Maker:
        STEPS.extend([maker] * weight)
        return maker

    return decorate


class Layers:
    """A function that uses layers."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        self.function = function
        self.layers = layers

    def __call__(self, *arguments: torch.Tensor) -> Any:
        return self.function(*arguments)


def _divisor(rng: random.Random, number: int) -> int:
    return rng.choice([d for d in range(1, number + 1) if number % d == 0])


@_step(4)
def _convolution(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim not in (3, 4):
        return None
    inside, kernel, dilation = x.shape[1], rng.choice([1, 2, 3]), rng.choice([1, 1, 2])
    padding = rng.choice([0, 1, kernel // 2])
    if min(x.shape[2:]) + 2 * padding < dilation * (kernel - 1) + 1:
        return None
    groups = _divisor(rng, inside)
    outside = groups * rng.randint(1, 2)
    options: dict[str, Any] = {"stride": rng.choice([1, 1, 2]), "groups": groups, "bias": rng.random() < 0.5}
    if rng.random() < 0.25:
        kind = nn.ConvTranspose1d if x.ndim == 3 else nn.ConvTranspose2d
        layer = kind(inside, outside, kernel, padding=min(padding, kernel - 1), **options)
    else:
        kind = nn.Conv1d if x.ndim == 3 else nn.Conv2d
        mode = rng.choice(["zeros", "zeros", "reflect", "replicate"]) if 0 < padding < min(x.shape[2:]) else "zeros"
        layer = kind(inside, outside, kernel, padding=padding, dilation=dilation, padding_mode=mode, **options)
    return Step(str(layer), layer, [i])


@_step(3)
def _linear(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim < 2:
        return None
    tied = [layer for layer in net.layers if isinstance(layer, nn.Linear) and layer.in_features == x.shape[-1]]
    if tied and rng.random() < 0.3:
        layer = rng.choice(tied)
        return Step(f"again {layer}", Layers(layer), [i])
    layer = nn.Linear(x.shape[-1], rng.choice([2, 4, 6]), bias=rng.random() < 0.7)
    return Step(str(layer), layer, [i])


@_step(4)
def _normalisation(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim < 2:
        return None
    channels = x.shape[1]
    choices: list[Callable[[], nn.Module]] = [
        lambda: nn.LayerNorm(list(x.shape[-rng.randint(1, x.ndim - 1) :]), elementwise_affine=rng.random() < 0.7),
        lambda: nn.RMSNorm(x.shape[-1], eps=1e-5),
    ]
    if x.ndim in (2, 3):
        choices.append(lambda: nn.BatchNorm1d(channels, affine=rng.random() < 0.8))
    if x.ndim == 4:
        choices.append(lambda: nn.BatchNorm2d(channels))
        choices.append(lambda: nn.LocalResponseNorm(rng.choice([2, 3])))
    if x.ndim > 2 and x[0, 0].numel() > 1:
        choices.append(lambda: nn.GroupNorm(_divisor(rng, channels), channels, affine=rng.random() < 0.7))
        choices.append(lambda: {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}[x.ndim](channels))
    layer = rng.choice(choices)()
    if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 1.5)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return Step(str(layer), layer, [i])


@_step(3)
def _pool(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim not in (3, 4) or min(x.shape[2:]) < 2:
        return None
    flat = x.ndim == 3
    kernel, stride, ceil = 2, rng.choice([1, 2]), rng.random() < 0.3
    padding = rng.choice([0, 1])
    layer = rng.choice(
        [
            lambda: (nn.MaxPool1d if flat else nn.MaxPool2d)(kernel, stride, padding, ceil_mode=ceil),
            lambda: (nn.AvgPool1d if flat else nn.AvgPool2d)(
                kernel, stride, padding, ceil_mode=ceil, count_include_pad=rng.random() < 0.5
            ),
            lambda: (nn.AdaptiveAvgPool1d if flat else nn.AdaptiveAvgPool2d)(rng.choice([1, 2])),
            lambda: (nn.AdaptiveMaxPool1d if flat else nn.AdaptiveMaxPool2d)(1),
            lambda: (nn.LPPool1d if flat else nn.LPPool2d)(2, kernel, stride),
        ]
    )()
    return Step(str(layer), layer, [i])


ACTIVATIONS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    torch.relu, torch.sigmoid, torch.tanh, F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.silu, F.mish, F.elu,
    lambda x: F.elu(x, 0.5), F.selu, lambda x: F.celu(x, 1.5), F.softplus, F.hardswish, F.hardsigmoid, F.relu6,
    lambda x: F.leaky_relu(x, 0.2), F.hardtanh, lambda x: F.hardshrink(x, 0.0), F.softsign, F.logsigmoid, F.tanhshrink,
    torch.sin, torch.cos, torch.erf, torch.abs, torch.neg, torch.square, lambda x: torch.exp(-x.abs()),
    lambda x: torch.log(x.abs() + 1), lambda x: torch.sqrt(x.abs() + 0.1), lambda x: torch.rsqrt(x.abs() + 1),
    lambda x: torch.reciprocal(x.abs() + 1), lambda x: torch.clamp(x, -1, 2), lambda x: torch.clamp(x, min=0.5),
    lambda x: torch.atan(x), lambda x: torch.asinh(x), lambda x: torch.expm1(-x.abs()), lambda x: torch.log1p(x.abs()),
    lambda x: x.abs() ** 1.5, lambda x: x**3, lambda x: 1 - x, lambda x: 2.0 / (x.abs() + 1), lambda x: x * 0.5 + 3,
    lambda x: torch.sinc(x), lambda x: F.threshold(x.abs(), -1, 20), lambda x: torch.logit(torch.sigmoid(x), 1e-3),
    lambda x: F.dropout(x, 0.5, False), lambda x: x.double().sin().float(), lambda x: x.clone(), lambda x: x.detach(),
]  # fmt: skip


@_step(5)
def _activation(net: RandomModule, i: int) -> Step:
    number = net.rng.randrange(len(ACTIVATIONS))
    return Step(f"activation {number}", ACTIVATIONS[number], [i])


@_step()
def _prelu(net: RandomModule, i: int) -> Step | None:
    x = net.value(i)
    if x.ndim < 2:
        return None
    layer = nn.PReLU(net.rng.choice([1, x.shape[1]]))
    return Step(str(layer), layer, [i])


BINARY: list[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = [
    torch.add, torch.sub, torch.mul, lambda a, b: a / (b.abs() + 1), torch.maximum, torch.minimum,
    lambda a, b: torch.add(a, b, alpha=2), lambda a, b: torch.rsub(a, b), lambda a, b: torch.lerp(a, b, 0.3),
    lambda a, b: torch.addcmul(a, b, b, value=0.5), lambda a, b: torch.addcdiv(a, b, b.abs() + 1),
    lambda a, b: torch.atan2(a, b.abs() + 1), lambda a, b: torch.hypot(a, b + 0.0), lambda a, b: (a - b).square(),
]  # fmt: skip


@_step(5)
def _binary(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    j = rng.choice(net.others(lambda y: _broadcast(x, y)))
    number = rng.randrange(len(BINARY))
    pair = [i, j] if rng.random() < 0.5 else [j, i]
    return Step(f"binary {number}", BINARY[number], pair)


def _broadcast(x: torch.Tensor, y: torch.Tensor) -> bool:
    try:
        return len(torch.broadcast_shapes(x.shape, y.shape)) <= 5
    except RuntimeError:
        return False


@_step(2)
def _with_constant(net: RandomModule, i: int) -> Step:
    """A parameter or buffer of the module itself, of a shape that broadcasts."""
    x, rng = net.value(i), net.rng
    rank = rng.randint(0, x.ndim)
    shape = [d if rng.random() < 0.5 else 1 for d in x.shape[x.ndim - rank :]]
    holder = nn.Module()
    tensor = torch.rand(shape) + 0.5
    if rng.random() < 0.5:
        holder.weight = nn.Parameter(tensor)
    else:
        holder.register_buffer("weight", tensor, persistent=rng.random() < 0.5)
    operation = rng.choice([torch.mul, torch.add, torch.sub, torch.div])
    return Step(f"{operation.__name__} {shape}", Layers(lambda x: operation(x, holder.weight), holder), [i])


REDUCTIONS: list[Callable[[torch.Tensor, Any, bool], torch.Tensor]] = [
    lambda x, d, k: x.mean(d, keepdim=k), lambda x, d, k: x.sum(d, keepdim=k) * 0.1,
    lambda x, d, k: x.amax(d, keepdim=k),
    lambda x, d, k: x.amin(d, keepdim=k), lambda x, d, k: torch.logsumexp(x, d, keepdim=k),
    lambda x, d, k: torch.linalg.vector_norm(x, dim=d, keepdim=k),
    lambda x, d, k: torch.var(x, d, correction=0, keepdim=k),
    lambda x, d, k: torch.std(x, d, correction=0, keepdim=k) if x.numel() > 1 else x,
    lambda x, d, k: torch.linalg.vector_norm(x, 1, dim=d, keepdim=k) * 0.1,
]  # fmt: skip


@_step(3)
def _reduction(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim == 0:
        return None
    dims = sorted(rng.sample(range(x.ndim), rng.randint(1, min(2, x.ndim))))
    dims = [d - x.ndim if rng.random() < 0.5 else d for d in dims]
    number, keep = rng.randrange(len(REDUCTIONS)), rng.random() < 0.5
    return Step(f"reduction {number} over {dims}", lambda x: REDUCTIONS[number](x, dims, keep), [i])


@_step(2)
def _along(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim == 0:
        return None
    d = rng.randrange(-x.ndim, x.ndim)
    name, call = rng.choice(
        [
            ("softmax", lambda x: torch.softmax(x, d)),
            ("log_softmax", lambda x: torch.log_softmax(x, d)),
            ("softmin", lambda x: F.softmin(x, d)),
            ("cumsum", lambda x: torch.cumsum(x, d) * 0.2),
            ("normalize", lambda x: F.normalize(x, dim=d, eps=1e-3)),
            ("glu", lambda x: F.glu(x, d) if x.shape[d] % 2 == 0 else x),
        ]
    )
    return Step(f"{name} over {d}", call, [i])


@_step(3)
def _reshape(net: RandomModule, i: int) -> Step:
    x, rng = net.value(i), net.rng
    shape = list(x.shape)
    if len(shape) > 1 and rng.random() < 0.5:
        start = rng.randrange(len(shape) - 1)
        end = rng.randint(start + 1, len(shape) - 1)
        return Step(f"flatten {start}..{end}", lambda x: torch.flatten(x, start, end), [i], exact=True)
    place = rng.randrange(len(shape)) if shape else 0
    if shape and len(shape) < 5:
        factor = _divisor(rng, shape[place])
        shape[place : place + 1] = [factor, shape[place] // factor]
    else:
        shape = [-1]
    if rng.random() < 0.5 and shape:
        shape[rng.randrange(len(shape))] = -1
        shape = [-1 if n == shape.index(-1) else d for n, d in enumerate(shape)]
    wanted = tuple(shape)
    return Step(f"reshape {wanted}", lambda x: x.reshape(wanted), [i], exact=True)


@_step(4)
def _move(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim == 0:
        return None
    order = rng.sample(range(x.ndim), x.ndim)
    a, b = rng.randrange(-x.ndim, x.ndim), rng.randrange(-x.ndim, x.ndim)
    size = x.shape[a]
    start, stop, stride = rng.randint(0, size - 1), rng.randint(1, size + 2), rng.choice([1, 1, 2])
    picked = [rng.randrange(-size, size) for _ in range(rng.randint(1, 3))]
    repeats = [rng.choice([1, 1, 2]) for _ in range(x.ndim)]
    sizes = [rng.choice([-1, 1, 2]) if d > 1 else rng.choice([1, 2]) for d in x.shape]
    before = rng.choice([0, 1])
    first, last = start % x.shape[0], start % x.shape[-1]
    name, call = rng.choice(
        [
            (f"permute {order}", lambda x: x.permute(order)),
            (f"transpose {a} {b}", lambda x: x.transpose(a, b)),
            (f"unsqueeze {a}", lambda x: x.unsqueeze(a)),
            (f"squeeze {a}", lambda x: x.squeeze(a)),
            ("squeeze", lambda x: x.squeeze()),
            (f"flip {a}", lambda x: torch.flip(x, [a])),
            (f"roll {a}", lambda x: torch.roll(x, 1, a)),
            (f"narrow {a} {start}", lambda x: x.narrow(a, start, size - start)),
            (f"slice {start}:{stop}:{stride}", lambda x: x[first:stop:stride]),
            (f"slice last {start}:{stop}:{stride}", lambda x: x[..., last:stop:stride]),
            (f"select {a}", lambda x: x.select(a, start)),
            (f"index {picked}", lambda x: x.index_select(a, torch.tensor([p % size for p in picked]))),
            (f"repeat {repeats}", lambda x: x.repeat(repeats)),
            (f"expand {sizes}", lambda x: x.expand([s if d == 1 else -1 for s, d in zip(sizes, x.shape, strict=True)])),
            (f"constant pad {before}", lambda x: F.pad(x, (before, 1), value=0.5)),
            (f"repeat_interleave {a}", lambda x: torch.repeat_interleave(x, 2, a)),
            (f"unflatten {a}", lambda x: torch.unflatten(x, a, (_half(size), size // _half(size)))),
            (f"movedim {a} {b}", lambda x: torch.movedim(x, a, b)),
            ("tril", lambda x: torch.tril(x, start - 1) if x.ndim > 1 else x),
            ("triu", lambda x: torch.triu(x, start - 1) if x.ndim > 1 else x),
            ("diagonal", lambda x: torch.diagonal(x, 0, -2, -1) if x.ndim > 1 else x),
        ]
    )
    return Step(name, call, [i], exact=True)


def _half(number: int) -> int:
    return 2 if number % 2 == 0 else 1


@_step(2)
def _split(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    axes = [d for d in range(x.ndim) if x.shape[d] > 1]
    if not axes:
        return None
    axis = rng.choice(axes)
    first = rng.randint(1, x.shape[axis] - 1)
    call = rng.choice(
        [
            lambda x: torch.split(x, [first, x.shape[axis] - first], axis),
            lambda x: torch.split(x, first, axis),
            lambda x: torch.chunk(x, 2, axis),
            lambda x: torch.unbind(x, axis),
        ]
    )
    return Step(f"split {axis}", call, [i], exact=True)


@_step(2)
def _join(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim == 0:
        return None
    if rng.random() < 0.3:
        j = rng.choice(net.others(lambda y: y.shape == x.shape))
        axis = rng.randint(-x.ndim - 1, x.ndim)
        return Step(f"stack {axis}", lambda a, b: torch.stack([a, b], axis), [i, j], exact=True)
    axis = rng.randrange(x.ndim)
    rest = [d for n, d in enumerate(x.shape) if n != axis]
    fits = net.others(lambda y: y.ndim == x.ndim and [d for n, d in enumerate(y.shape) if n != axis] == rest)
    chosen = [rng.choice(fits) for _ in range(rng.randint(1, 2))]
    return Step(f"cat {axis}", lambda *xs: torch.cat(xs, axis), [i, *chosen], exact=True)


@_step(2)
def _product(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim < 2:
        return None
    if x.ndim == 3 and rng.random() < 0.3:
        return Step("einsum", lambda a, b: torch.einsum("bij,bkj->bik", a, b) * 0.2, [i, i])
    fits = net.others(lambda y: y.ndim >= 2 and y.shape[-2] == x.shape[-1] and _broadcast(x[..., 0, 0], y[..., 0, 0]))
    if not fits:
        return Step("self product", lambda a: torch.matmul(a, a.transpose(-1, -2)) * 0.2, [i])
    return Step("matmul", lambda a, b: torch.matmul(a, b) * 0.2, [i, rng.choice(fits)])


@_step(2)
def _attention(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim == 4:
        causal = rng.random() < 0.5
        scale = rng.choice([None, 0.3])
        call = lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=causal, scale=scale)  # noqa: E731
        return Step(f"attention causal={causal}", call, [i])
    if x.ndim != 3:
        return None
    heads = _divisor(rng, x.shape[-1])
    if rng.random() < 0.5:
        layer = nn.MultiheadAttention(x.shape[-1], heads, batch_first=True)
        return Step(str(layer), Layers(lambda x: layer(x, x, x, need_weights=False)[0], layer), [i])
    mask = torch.zeros(x.shape[1], x.shape[1]).masked_fill(torch.eye(x.shape[1]) == 0, -1.0)
    return Step("masked attention", lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=mask), [i])


@_step()
def _recurrent(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim != 3:
        return None
    kind = rng.choice([nn.LSTM, nn.GRU, nn.RNN])
    layer = kind(x.shape[-1], 3, batch_first=rng.random() < 0.7, bidirectional=rng.random() < 0.4,
                 num_layers=rng.choice([1, 2]))  # fmt: skip
    return Step(str(layer), Layers(lambda x: layer(x)[0], layer), [i])


@_step(2)
def _image(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim != 4:
        return None
    size = [rng.randint(2, 6), rng.randint(2, 6)]
    corners = rng.random() < 0.5
    name, call = rng.choice(
        [
            ("nearest", lambda x: F.interpolate(x, scale_factor=2, mode="nearest")),
            (f"bilinear {size}", lambda x: F.interpolate(x, size=size, mode="bilinear", align_corners=corners)),
            ("bicubic", lambda x: F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=corners)),
            ("reflect", lambda x: F.pad(x, (1, 1, 0, 1), mode="reflect") if min(x.shape[2:]) > 1 else x),
            ("replicate", lambda x: F.pad(x, (1, 0, 2, 1), mode="replicate")),
            ("circular", lambda x: F.pad(x, (1, 1, 1, 1), mode="circular")),
            ("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2) if x.shape[1] % 4 == 0 else x),
            ("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2) if x.shape[2] % 2 + x.shape[3] % 2 == 0 else x),
            ("channel_shuffle", lambda x: F.channel_shuffle(x, _half(x.shape[1]))),
            ("unfold", lambda x: F.unfold(x, 2) if min(x.shape[2:]) > 1 else x),
        ]
    )
    return Step(name, call, [i])


@_step(2)
def _by_contents(net: RandomModule, i: int) -> Step | None:
    """Operators that decide by the contents of a tensor."""
    x, rng = net.value(i), net.rng
    if not net.is_exact(i) or x.ndim == 0 or x.unique().numel() < x.numel():
        return None
    d = rng.randrange(-x.ndim, x.ndim)
    k = rng.randint(1, x.shape[d])
    holder = nn.Embedding(64, 3)
    name, call, layers = rng.choice(
        [
            ("where", lambda x: torch.where(x > 0.1, x, -x), ()),
            ("masked_fill", lambda x: x.masked_fill((x < 0) & (x > -1), 2.0), ()),
            (f"topk {k} over {d}", lambda x: torch.topk(x, k, d)[0], ()),
            (f"sort over {d}", lambda x: torch.sort(x, d, descending=True)[0], ()),
            (f"max over {d}", lambda x: torch.max(x, d)[0], ()),
            (f"embedding of argmax over {d}", lambda x: holder(x.argmax(d)), (holder,)),
            (f"gather argsort over {d}", lambda x: torch.gather(x, d, torch.argsort(x, d)), ()),
            ("round", lambda x: torch.round(x * 3), ()),
            ("floor", lambda x: torch.floor(x), ()),
            ("sign", lambda x: torch.sign(x) + torch.ceil(x), ()),
            ("one_hot", lambda x: F.one_hot(x.argmin(d), x.shape[d]).float(), ()),
            ("count", lambda x: (x > 0).sum(d).float(), ()),
            ("remainder", lambda x: torch.remainder(x, 0.7), ()),
            ("scatter", lambda x: torch.zeros_like(x).scatter(d, x.argmax(d, keepdim=True), 1.5), ()),
        ]
    )
    return Step(name, Layers(call, *layers) if layers else call, [i])


__all__ = ["RandomModule", "Step"]
