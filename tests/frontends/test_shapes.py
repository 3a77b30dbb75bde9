"""Converters of views, indexing, joining, reductions and creation against torch."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.frontends.oracle import check

torch.manual_seed(0)
X = torch.randn(2, 4, 6)
IMAGE = torch.randn(2, 8, 6, 4)
IDS = torch.tensor([[0, 2, 1], [3, 1, 1]])

VIEWS = {
    "view": lambda x: x.view(x.shape[0], -1),
    "view, batch first and last": lambda x: x.view(x.shape[0], 2, 2, 6).permute(1, 2, 3, 0).reshape(24, x.shape[0]),
    "view, batch merged": lambda x: x.view(x.shape[0] * 4, 6).view(x.shape[0], 4, 6),
    "view, leading -1": lambda x: x.reshape(-1, 2, 6).reshape(-1, 4, 6),
    "view, two open": lambda x: x.reshape(x.shape[0] * 4, 6).reshape(2, x.shape[0], 2, 6),
    "flatten": lambda x: (x.flatten(), x.flatten(1), x.flatten(0, 1), x.flatten(1, 1), x.sum().flatten()),
    "unflatten": lambda x: (x.unflatten(1, (2, 2)), x.unflatten(-1, (3, -1))),
    "ravel": lambda x: x.ravel(),
    "squeeze": lambda x: x[:, :1].squeeze(1) + x[:, :1].squeeze(-1).squeeze() + x[:, :1, None].squeeze((1, 2)),
    "unsqueeze": lambda x: (x.unsqueeze(0), x.unsqueeze(-1), x.unsqueeze(1), x[None, ..., None]),
    "permute": lambda x: (x.permute(2, 0, 1), x.transpose(1, 2), x.swapaxes(0, -1), x.mT, x[0].t(), x.permute(0, 1, 2)),
    "movedim": lambda x: (x.movedim(0, 2), x.movedim((0, 1), (2, 0)), x.T if x.dim() == 2 else x[0].T),
    "expand": lambda x: (x[:, None].expand(-1, 3, -1, -1), x[:, :1].expand(x.shape[0], 5, 6), x[0].expand_as(x)),
    "repeat": lambda x: (x.repeat(2, 1, 3), x.repeat(2, 1, 1, 1), x.tile(2), x.repeat(1, 1, 1)),
    "repeat by the batch": lambda x: x[:1].repeat(x.shape[0], 1, 1),
    "repeat_interleave": lambda x: (x.repeat_interleave(3, 1), x.repeat_interleave(2, 0), x.repeat_interleave(2)),
    "unfold": lambda x: (x.unfold(2, 2, 2), x.unfold(2, 3, 1), x.unfold(1, 3, 2)),
    "diagonal": lambda x: (x.diagonal(0, 1, 2), x.diagonal(1, 1, 2), torch.diagonal(x, -2, 2, 1)),
    "contiguous": lambda x: x.transpose(1, 2).contiguous().clone().detach(),
    "atleast": lambda x: torch.atleast_1d(x.sum()) + torch.atleast_1d(x).sum(),
    "view_as": lambda x: x.flatten(1).view_as(x) + x.flatten(1).reshape_as(x),
}


@pytest.mark.parametrize("name", VIEWS)
def test_view(name):
    check(VIEWS[name], X)


def test_views_use_constant_shapes():
    graph = check(lambda x: x.view(x.shape[0], 2, 2, x.shape[2]).flatten(2).reshape(-1, 12), X)
    assert {node.op for node in graph} <= {"Reshape", "Flatten"}
    assert all(node.operand(1).is_constant for node in graph if node.op == "Reshape")


PIXELS = {
    "shuffle": lambda x: F.pixel_shuffle(x, 2),
    "unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "channels": lambda x: F.channel_shuffle(x, 4),
    "pad": lambda x: (F.pad(x, (1, 2)), F.pad(x, (0, 1, 2, 0, 1, 1), value=3.5), F.pad(x, (-1, 0)), F.pad(x, (0, 0))),
    "reflect": lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"),
    "replicate": lambda x: F.pad(x, (1, 2, 2, 1), mode="replicate"),
    "circular": lambda x: F.pad(x, (1, 2, 2, 1), mode="circular"),
    "normalize": lambda x: F.normalize(x) + F.normalize(x, 1, dim=2),
    "similarity": lambda x: F.cosine_similarity(x, x.flip(1)),
    "im2col": lambda x: F.interpolate(x.mean(1, keepdim=True), size=x.shape[2:]),
}


@pytest.mark.parametrize("name", PIXELS)
def test_pixels(name):
    check(PIXELS[name], IMAGE)


INDEXING = {
    "slices": lambda x: (x[:, 1:3], x[:, ::2], x[:, -2:], x[:, :-1, 2:5:2], x[:, :], x.narrow(1, 1, 2), x[1:]),
    "open slices": lambda x: x.repeat(1, 5, 1)[:, x.shape[0] : x.shape[0] * 2 + 1][:, : -x.shape[0]],
    "select": lambda x: (x[:, 0], x[..., -1], x[:, 1, 2], x.select(1, -2), x[-1]),
    "index": lambda x: x[:, [0, 2]] + x[:, torch.tensor([1, -1])],
    "two indices": lambda x: (x[:, [0, 1], [2, 3]], x[:, [[0], [1]], [2, 3]], x[..., [0, 1], :][:, :, [1]]),
    "indices apart": lambda x: x[[0, 0]][[0, 1], :, [2, 3]],
    "index_select": lambda x: x.index_select(1, torch.tensor([3, 0])) + x.index_select(1, torch.tensor(2)),
    "gather": lambda x: x.gather(1, torch.zeros_like(x, dtype=torch.long)[:, :2]),
    "take_along_dim": lambda x: x.take_along_dim(x.argsort(1), 1),
    "roll": lambda x: (x.roll(1, 1), x.roll((2, -1), (1, 2)), x.roll(1, 0), x.roll(3), x.roll(6, 2)),
    "flip": lambda x: (x.flip(1), x.flip((1, 2)), x.fliplr(), x.flipud()),
    "triangles": lambda x: (x.tril(), x.triu(1), x.tril(-1), torch.ones(4, 4, dtype=torch.bool).tril()),
    "splits": lambda x: (*x.split(2, 1), *x.split([1, 3], 1), *x.chunk(3, 2), *x.chunk(4, 2), *x.tensor_split(4, 2)),
    "uneven split": lambda x: (*x.split(4, 2), *x.unbind(1), *x.chunk(1, 1)),
    "joins": lambda x: (
        torch.cat([x, x[:, :1]], 1),
        torch.stack([x, x], 1),
        torch.hstack([x, x]),
        torch.vstack([x, x]),
    ),
    "joins of types": lambda x: torch.cat([x, (x > 0)], 1),
    "mesh": lambda x: (
        torch.meshgrid(x[0, 0], x[0, :, 0], indexing="ij") + torch.meshgrid(x[0, 0], x[0, :, 0], indexing="xy")
    ),
    "scatter": lambda x: x.scatter(1, torch.zeros_like(x, dtype=torch.long)[:, :1], 5.0),
    "scatter of a tensor": lambda x: x.scatter(1, x.argsort(1)[:, :2], x * 2),
    "scatter_add": lambda x: torch.zeros_like(x).scatter_add(1, x.argsort(1) // 2, x),
    "scatter_reduce": lambda x: x.scatter_reduce(1, x.argsort(1) // 2, x, "amax"),
    "index_put": lambda x: x.index_put((torch.tensor([0]), torch.tensor([1])), torch.tensor(7.0)),
    "index_put of the batch": lambda x: x.index_put((torch.arange(x.shape[0]), x[:, :, 0].argmax(1)), x[:, 0] * 2),
    "index_put of a number": lambda x: x.index_put((torch.arange(x.shape[0]), x[:, :, 0].argmax(1)), torch.tensor(3.0)),
    "index_add": lambda x: x.index_add(1, torch.tensor([0, 2]), torch.ones(1, 2, 6).expand(x.shape[0], 2, 6)),
    "index_copy": lambda x: x.index_copy(1, torch.tensor([3, 0]), x[:, :2]),
    "index_fill": lambda x: x.index_fill(2, torch.tensor([3, 0]), -1.0),
    "one_hot": lambda x: F.one_hot(x.argmax(1), 5),
    "one_hot_of_a_scalar": lambda x: F.one_hot(x.argmax() % 5, 5),
    "searchsorted": lambda x: torch.searchsorted(torch.tensor([-1.0, 0.0, 1.0]), x, side="right"),
    "bucketize": lambda x: (
        torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])) + torch.bucketize(x, x[0, 0].sort()[0], right=True)
    ),
    "slice_scatter": lambda x: x.slice_scatter(x[:, :2] * 2, 1, 1, 3) + x.slice_scatter(x[:, :2], 1, 0, 4, 2),
    "select_scatter": lambda x: x.select_scatter(x[:, 0] * 2, 1, 2) + x.select_scatter(x[:, 0], 1, -1),
}


@pytest.mark.parametrize("name", INDEXING)
def test_indexing(name):
    check(INDEXING[name], X, batch=None if name in ("indices apart", "index_put", "take_along_dim") else (0,))


def test_embedding():
    module = torch.nn.Embedding(5, 3, padding_idx=0)
    graph = check(module, IDS)
    assert [node.op for node in graph] == ["Gather"]
    assert graph.parameters[0].data.data_ptr() == module.weight.data_ptr()


def test_masks_give_open_shapes():
    check(lambda x: x[x > 0], X)
    check(lambda x: x.masked_select(x > 0), X)
    check(lambda x: (x > 0).nonzero(), X)
    check(lambda x: x[x[:, :, 0] > 0], X)


REDUCTIONS = {
    "sum": lambda x: (x.sum(), x.sum(1), x.sum((1, 2), keepdim=True), (x > 0).sum(1), x.sum(1, dtype=torch.float64)),
    "mean": lambda x: (x.mean(), x.mean(-1), x.mean((0, 2)), x.mean(1, keepdim=True)),
    "prod": lambda x: (x.prod(), x.prod(1), x.long().prod(2, keepdim=True)),
    "extremes": lambda x: (x.max(), x.min(), x.amax((1, 2)), x.amin(1, keepdim=True), (x > 0).amax(1), *x.aminmax()),
    "extremes and where": lambda x: (*x.max(1), *x.min(2, keepdim=True)),
    "arg": lambda x: (x.argmax(), x.argmax(1), x.argmin(2, keepdim=True)),
    "truth": lambda x: ((x > 0).any(), (x > 0).all(1), x.any(2), (x > -9).all((1, 2)), x.count_nonzero(1)),
    "var": lambda x: (
        x.var(1),
        x.var((1, 2), correction=0),
        x.var(2, unbiased=False),
        x.std(1),
        x.std((1, 2), keepdim=True),
    ),
    "var over the batch": lambda x: (
        x[:, :, :2].repeat(2, 1, 1).var(0),
        x.repeat(2, 1, 1).std(),
        *torch.var_mean(x, 1),
    ),
    "norm": lambda x: (x.norm(dim=1), torch.linalg.norm(x, dim=1), torch.linalg.vector_norm(x, 3, 2), x.norm(1, dim=2)),
    "norm of extremes": lambda x: (
        torch.linalg.vector_norm(x, float("inf"), 1),
        torch.linalg.vector_norm(x, -float("inf")),
    ),
    "logsumexp": lambda x: (x.logsumexp(1), x.logsumexp((1, 2), keepdim=True)),
    "scans": lambda x: (x.cumsum(1), x.cumprod(2), (x > 0).cumsum(0)),
    "sorting": lambda x: (*x.sort(1), *x.topk(2, 1), x.argsort(2, descending=True), *x.topk(3, -1, largest=False)),
    "median": lambda x: (*x.median(1), *x[:, :3].median(1, keepdim=True)),
    "distances": lambda x: (torch.cdist(x, x * 2), torch.cdist(x, x[:, :2], p=1.0)),
    "of a number": lambda x: (x.sum().sum(), x.sum().mean(0), x.sum().amax()),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction(name):
    check(REDUCTIONS[name], X, tolerance=1e-4)


CREATION = {
    "fixed": lambda x: x.sum() + torch.zeros(2, 3) + torch.ones(3) * torch.full((2, 1), 3) + torch.tensor([1.0, 2, 3]),
    "like": lambda x: torch.zeros_like(x) + torch.ones_like(x) * torch.full_like(x, 2) + x.new_ones(6) + x.new_zeros(1),
    "by the batch": lambda x: (torch.zeros(x.shape[0], 3), torch.ones(x.shape[0] * 2), x.new_full((x.shape[0], 1), 2)),
    "arange": lambda x: (torch.arange(4), torch.arange(1, 9, 2), torch.arange(0, 1, 0.25), torch.arange(x.shape[0])),
    "arange on": lambda x: (
        x * torch.arange(x.shape[0])[:, None, None] + torch.arange(x.shape[0], x.shape[0] * 3, 2).sum()
    ),
    "eye": lambda x: (torch.eye(3), torch.eye(2, 3), torch.linspace(0, 1, 5)),
    "large": lambda x: torch.zeros(80, 80) + x.sum(),
    "types": lambda x: (x.to(torch.float64), x.half().float(), x.long(), x.type_as(x.int()), x.bool(), x.to(x.int())),
    "sizes in arithmetic": lambda x: x * x.shape[0] + x.shape[0] / 2 + (x.shape[0] * 3 + 1) // 2 - x.shape[0] % 2,
    "rounded sizes": lambda x: (
        torch.zeros(math.ceil(x.shape[0] / 2)),
        torch.zeros(math.floor(x.shape[0] * 1.5)),
        torch.zeros(round(x.shape[0] * 1.5), x.shape[0] ** 2),
        torch.zeros(torch.sym_max(x.shape[0], 3), torch.sym_min(2, x.shape[0])),
        x[:, -1:] * -x.shape[0],
    ),
    "max of sizes": lambda x: x.sum() + max(x.shape[0], 3) * 1.0 + x.numel(),
}


@pytest.mark.parametrize("name", CREATION)
def test_creation(name):
    check(CREATION[name], X)


def test_several_open_dimensions():
    from graphopt.frontends.capture import capture
    from tests.frontends.oracle import Wrap, compare

    def split_heads(x):
        b, t, d = x.shape
        y = x.view(b, t, 2, d // 2).transpose(1, 2)
        mask = torch.ones(t, t).tril()[None, None]
        scores = (y @ y.mT).masked_fill(mask == 0, float("-inf")).softmax(-1)
        return (scores @ y).transpose(1, 2).reshape(b, t, d) + torch.arange(t)[None, :, None]

    module = Wrap(split_heads)
    graph = capture(module, (torch.randn(1, 1, 6),), dynamic={"args": [{0: "batch", 1: "time"}]})
    graph.verify()
    assert str(graph.outputs[0].type) == "float32[batch, time, 6]"
    for b, t in ((1, 1), (3, 5), (2, 2)):
        compare(graph, module, (torch.randn(b, t, 6),))
