"""Steps that work on whole tensors: reductions, views, joins, attention, recurrent layers, images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.random_torch.program import Layers, Step, Steps, broadcast, divisor

if TYPE_CHECKING:
    from tests.random_torch.network import RandomModule

STEPS = Steps()


REDUCTIONS: list[Callable[[torch.Tensor, Any, bool], torch.Tensor]] = [
    lambda x, d, k: x.mean(d, keepdim=k), lambda x, d, k: x.sum(d, keepdim=k) * 0.1,
    lambda x, d, k: x.amax(d, keepdim=k),
    lambda x, d, k: x.amin(d, keepdim=k), lambda x, d, k: torch.logsumexp(x, d, keepdim=k),
    lambda x, d, k: torch.linalg.vector_norm(x, dim=d, keepdim=k),
    lambda x, d, k: torch.var(x, d, correction=0, keepdim=k),
    lambda x, d, k: torch.std(x, d, correction=0, keepdim=k) if x.numel() > 1 else x,
    lambda x, d, k: torch.linalg.vector_norm(x, 1, dim=d, keepdim=k) * 0.1,
]  # fmt: skip


@STEPS.add(3)
def _reduction(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim == 0:
        return None
    dims = sorted(rng.sample(range(x.ndim), rng.randint(1, min(2, x.ndim))))
    dims = [d - x.ndim if rng.random() < 0.5 else d for d in dims]
    number, keep = rng.randrange(len(REDUCTIONS)), rng.random() < 0.5
    return Step(f"reduction {number} over {dims}", lambda x: REDUCTIONS[number](x, dims, keep), [i])


@STEPS.add(2)
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


@STEPS.add(3)
def _reshape(net: RandomModule, i: int) -> Step:
    x, rng = net.value(i), net.rng
    shape = list(x.shape)
    if len(shape) > 1 and rng.random() < 0.5:
        start = rng.randrange(len(shape) - 1)
        end = rng.randint(start + 1, len(shape) - 1)
        return Step(f"flatten {start}..{end}", lambda x: torch.flatten(x, start, end), [i], exact=True)
    place = rng.randrange(len(shape)) if shape else 0
    if shape and len(shape) < 5:
        factor = divisor(rng, shape[place])
        shape[place : place + 1] = [factor, shape[place] // factor]
    else:
        shape = [-1]
    if rng.random() < 0.5 and shape:
        shape[rng.randrange(len(shape))] = -1
        shape = [-1 if n == shape.index(-1) else d for n, d in enumerate(shape)]
    wanted = tuple(shape)
    return Step(f"reshape {wanted}", lambda x: x.reshape(wanted), [i], exact=True)


@STEPS.add(4)
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


@STEPS.add(2)
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


@STEPS.add(2)
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


@STEPS.add(2)
def _product(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim < 2:
        return None
    if x.ndim == 3 and rng.random() < 0.3:
        return Step("einsum", lambda a, b: torch.einsum("bij,bkj->bik", a, b) * 0.2, [i, i])
    fits = net.others(lambda y: y.ndim >= 2 and y.shape[-2] == x.shape[-1] and broadcast(x[..., 0, 0], y[..., 0, 0]))
    if not fits:
        return Step("self product", lambda a: torch.matmul(a, a.transpose(-1, -2)) * 0.2, [i])
    return Step("matmul", lambda a, b: torch.matmul(a, b) * 0.2, [i, rng.choice(fits)])


@STEPS.add(2)
def _attention(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim == 4:
        causal = rng.random() < 0.5
        scale = rng.choice([None, 0.3])
        call = lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=causal, scale=scale)  # noqa: E731
        return Step(f"attention causal={causal}", call, [i])
    if x.ndim != 3:
        return None
    heads = divisor(rng, x.shape[-1])
    if rng.random() < 0.5:
        layer = nn.MultiheadAttention(x.shape[-1], heads, batch_first=True)
        return Step(str(layer), Layers(lambda x: layer(x, x, x, need_weights=False)[0], layer), [i])
    mask = torch.zeros(x.shape[1], x.shape[1]).masked_fill(torch.eye(x.shape[1]) == 0, -1.0)
    return Step("masked attention", lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=mask), [i])


@STEPS.add()
def _recurrent(net: RandomModule, i: int) -> Step | None:
    x, rng = net.value(i), net.rng
    if x.ndim != 3:
        return None
    kind = rng.choice([nn.LSTM, nn.GRU, nn.RNN])
    layer = kind(x.shape[-1], 3, batch_first=rng.random() < 0.7, bidirectional=rng.random() < 0.4,
                 num_layers=rng.choice([1, 2]))  # fmt: skip
    return Step(str(layer), Layers(lambda x: layer(x)[0], layer), [i])


@STEPS.add(2)
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


@STEPS.add(2)
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
