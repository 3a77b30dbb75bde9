"""Torch operators that ONNX lacks, written out: ONNX Runtime computes what torch does."""

import pytest
import torch
import torch.nn.functional as F

import graphopt as go
from graphopt.backends.lower import lowered
from graphopt.errors import CaptureError, UnsupportedOperatorError
from graphopt.runtime import run
from graphopt.runtime.ort import OrtSession
from tests.frontends.oracle import Wrap

GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(shape, generator=GENERATOR)


X, Y, ODD = normal(3, 4), normal(3, 4), normal(2, 7)
SQUARE = normal(2, 5, 5)
POSITIVE = SQUARE @ SQUARE.mT + torch.eye(5)
SIDES = normal(2, 5, 3)
GAMMA = torch.cat([torch.linspace(-5.3, 30, 60), torch.tensor([1.0, 2.0, 50.0, 1e-3])])
EDGE = torch.cat([torch.linspace(-0.9999, 0.9999, 40), torch.tensor([1.0, -1.0, 0.0])])
BAGS = normal(6, 3), torch.tensor([1, 2, 3, 4, 0]), torch.tensor([0, 2, 2])
fft, real = torch.fft, torch.view_as_real

FOURIER = {
    "fft": (lambda x: real(fft.fft(x)), [X]),
    "of a vector": (lambda x: fft.rfft(x).abs(), [ODD[0]]),
    "cut and padded": (lambda x: (fft.rfft(x, 5).abs(), fft.rfft(x, 9).imag), [ODD]),
    "there and back": (lambda x: fft.irfft(fft.rfft(x, norm="ortho") * (2 + 1j), n=7), [ODD]),
    "back to another length": (lambda x: fft.irfft(fft.rfft(x), n=12), [ODD]),
    "two dimensions, as FNet": (lambda x: fft.fft(fft.fft(x, dim=-1), dim=-2).real, [normal(2, 6, 8)]),
    "all dimensions": (lambda x: real(fft.ifftn(fft.fftn(x, norm="forward"), norm="ortho")), [normal(2, 3, 4)]),
    "mirrored": (lambda x: fft.hfft(fft.ihfft(x)), [X]),
    "a global filter": (
        lambda x, w: fft.irfft2(fft.rfft2(x, dim=(1, 2)) * torch.view_as_complex(w), s=(6, 6), dim=(1, 2)),
        [normal(2, 6, 6, 3), normal(6, 4, 3, 2)],
    ),
    "a Fourier neural operator": (
        lambda x, w: fft.irfft(torch.einsum("bix,iox->box", fft.rfft(x), torch.view_as_complex(w)), n=8),
        [normal(2, 3, 8), normal(3, 4, 5, 2)],
    ),
    "a spectrogram": (
        lambda x: torch.stft(x, 16, 4, window=torch.hann_window(16), return_complex=True).abs(), [normal(2, 100)],
    ),
    "a narrow window": (
        lambda x: real(torch.stft(x, 16, 4, 12, torch.ones(12), normalized=True, return_complex=True)), [normal(100)],
    ),
}  # fmt: skip

COMPLEX = {
    "angle": (lambda x, y: torch.angle(torch.complex(x, y)), [X, Y]),
    "angle of reals": (torch.angle, [X]),
    "polar": (lambda x, y: real(torch.polar(x.abs(), y)), [X, Y]),
    "quotients": (lambda x, y: real(torch.complex(x, y) / torch.complex(y, x) / x), [X, Y]),
    "conjugates": (lambda x, y: real(torch.complex(x, y).conj().exp() - x).sum(0), [X, Y]),
    "views": (lambda x, y: real(torch.complex(x, y).T.reshape(2, 2, 3)[:, 1:].flatten(1)), [X, Y]),
    "more views": (lambda x, y: real(torch.cat([torch.complex(x, y)[:, :1], y[:, :2]], 1).sum(1)), [X, Y]),
    "products": (lambda x, y: real(torch.complex(x, y) @ torch.complex(y, x).T), [X, Y]),
    "choice": (lambda x, y: real(torch.where(x > 0, torch.complex(x, y), 1j)), [X, Y]),
}

LINALG = {
    "inverse": (torch.linalg.inv, [SQUARE]),
    "inverse of one": (torch.linalg.inv, [SQUARE[0]]),
    "pivots": (torch.linalg.inv, [torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0], [3.0, 0.0, 0.0]])]),
    "solve": (torch.linalg.solve, [SQUARE, SIDES]),
    "solve for vectors": (torch.linalg.solve, [SQUARE, SIDES[..., 0]]),
    "solve for many": (torch.linalg.solve, [SQUARE, SIDES[:1]]),
    "solve from the right": (lambda a, y: torch.linalg.solve(a, y, left=False), [SQUARE, SIDES.mT]),
    "cholesky": (torch.linalg.cholesky, [POSITIVE]),
    "cholesky, upper": (lambda a: torch.linalg.cholesky(a, upper=True), [POSITIVE]),
    "solve by cholesky": (lambda a, y: torch.cholesky_solve(y, torch.linalg.cholesky(a)), [POSITIVE, SIDES]),
    "triangles": (lambda a, y: torch.linalg.solve_triangular(a, y, upper=True), [POSITIVE, SIDES]),
    "determinants": (lambda a, p: (*torch.linalg.slogdet(a), torch.logdet(p)), [SQUARE, POSITIVE]),
}

SPECIAL = {
    "lgamma": (torch.lgamma, [torch.cat([GAMMA, torch.tensor([0.0, -1.0, float("inf"), float("-inf")])])]),
    "digamma": (torch.digamma, [torch.cat([GAMMA, torch.tensor([0.0, -0.0])])]),
    "mvlgamma": (lambda x: torch.mvlgamma(x, 3), [X.abs() + 3]),
    "erfinv": (torch.erfinv, [EDGE]),
    "ndtri": (torch.special.ndtri, [EDGE / 2 + 0.5]),
    "i0": (lambda x: (torch.i0(x), torch.special.i0e(x)), [torch.linspace(-8, 8, 40)]),
}

SELECTIONS = {
    "cummax": (lambda x: torch.cummax(x, 1), [normal(3, 11).round()]),
    "cummin": (lambda x: torch.cummin(x, 0), [(normal(7, 3) * 3).long()]),
    "cummax of NaN": (lambda x: torch.cummax(x, 0), [torch.tensor([1.0, float("nan"), 3.0, 2.0])]),
    "logcumsumexp": (lambda x: torch.logcumsumexp(x, 1), [normal(3, 11) * 10]),
    "masked_select": (lambda x, y: torch.masked_select(x, y > 0), [X, Y]),
    "masked_scatter": (lambda x, y: x.masked_scatter(x > 0, y), [X, Y]),
    "unique": (lambda x: torch.unique(x, return_inverse=True, return_counts=True), [(X * 2).long()]),
    "searchsorted": (lambda x, y: torch.searchsorted(x.sort(-1)[0], y, right=True), [X, Y]),
    "bags of sums": (lambda w, i, o: F.embedding_bag(i, w, o, mode="sum"), [*BAGS]),
    "bags of means": (lambda w, i, o: F.embedding_bag(i, w, o, mode="mean"), [*BAGS]),
    "bags of maxima": (lambda w, i, o: F.embedding_bag(i, w, o, mode="max"), [*BAGS]),
    "bags of one size": (lambda w, i: F.embedding_bag(i, w), [BAGS[0], torch.tensor([[1, 2], [0, 1]])]),
}

CASES = {**FOURIER, **COMPLEX, **LINALG, **SPECIAL, **SELECTIONS}


def leaves(result):
    return [item for item in torch.utils._pytree.tree_leaves(result) if isinstance(item, torch.Tensor)]


def agree(graph, function, args):
    """ONNX Runtime on the model, and torch on the graph, against the function."""
    want = leaves(function(*args))
    model = go.to_onnx(graph)
    got = [torch.from_numpy(each) for each in OrtSession(model).run(list(args))]
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-5, equal_nan=True)
    for mine, theirs in zip(run(graph, args), want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5, equal_nan=True)
    return model


@pytest.mark.filterwarnings("ignore:A window was not provided")
@pytest.mark.parametrize("name", CASES)
def test_onnx_runtime_computes_the_same(name):
    function, args = CASES[name]
    graph = go.capture(Wrap(function), tuple(args))
    before = str(graph)
    model = agree(graph, function, args)
    assert str(graph) == before, "the graph keeps torch's operators"
    assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.parametrize("name", ["a spectrogram", "inverse", "cholesky", "cummax", "there and back"])
def test_open_batches(name):
    function, args = CASES[name]
    graph = go.capture(Wrap(function), tuple(a[:1] for a in args), dynamic={"args": [{0: "n"} for _ in args]})
    agree(graph, function, args)
    agree(graph, function, [torch.cat([a, a, a]) for a in args])


def test_weights_of_a_filter_stay_weights():
    class Filter(torch.nn.Module):
        """A complex weight, kept as torch keeps one."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.view_as_complex(normal(4, 2)))

        def forward(self, x):
            return torch.fft.irfft(torch.fft.rfft(x) * self.weight, n=7)

    module = Filter()
    graph = go.capture(module, ODD)
    with torch.no_grad():
        agree(graph, module, [ODD])
    emitted = go.to_torch(graph)
    assert list(emitted.state_dict()) == ["weight"]
    emitted(ODD).square().sum().backward()
    assert emitted.weight.grad is not None


def test_what_stays_is_named_all_at_once():
    graph = go.capture(Wrap(lambda x: (torch.linalg.svdvals(x), torch.linalg.qr(x)[0], torch.lgamma(x))), (SQUARE,))
    with pytest.raises(
        UnsupportedOperatorError, match=r"no operator for aten::linalg_qr, aten::linalg_svdvals;"
    ) as raised:
        go.to_onnx(graph)
    assert "lgamma" not in str(raised.value)
    assert raised.value.hint is not None


@pytest.mark.parametrize(
    ("function", "where"),
    [
        (lambda x: torch.fft.fft(x), "output 'output'"),
        (lambda x: torch.fft.fft(x).sqrt().abs(), "Sqrt (on complex numbers)"),
        (lambda x: real(torch.view_as_complex(real(x)) * 2), "input 'args.0'"),
    ],
)
def test_complex_numbers_that_cannot_leave(function, where):
    example = torch.complex(X, Y) if "input" in where else X
    graph = go.capture(Wrap(function), (example,))
    with pytest.raises(UnsupportedOperatorError, match="complex numbers") as raised:
        go.to_onnx(graph)
    assert where in str(raised.value)
    assert "view_as_real" in str(raised.value)


def test_open_sizes_that_a_transform_needs():
    graph = go.capture(Wrap(lambda x: torch.fft.rfft(x).abs()), (X,), dynamic={"args": [{1: "t"}]})
    with pytest.raises(UnsupportedOperatorError, match=r"aten::fft_rfft \(the extent of dimension 1 is open\)"):
        go.to_onnx(graph)


def test_a_graph_without_torch_operators_is_not_copied():
    graph = go.capture(Wrap(torch.relu), (X,))
    assert lowered(graph) is graph


def test_complex_numbers_keep_their_imaginary_parts():
    graph = go.capture(Wrap(lambda x, y: (torch.complex(x, y).abs(), torch.complex(x, y).real)), (X, Y))
    for mine, theirs in zip(run(graph, [X, Y]), (torch.complex(X, Y).abs(), X), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: x.to_sparse().sum(), "sparse_coo tensor of float32"),
        (lambda x: x.chalf().real, "tensor of complex32"),
    ],
)
def test_tensors_that_no_graph_holds(function, kind):
    with pytest.raises(CaptureError, match=kind):
        go.capture(Wrap(function), (X,))


def test_digamma_of_doubles_has_the_digits_of_doubles():
    x = torch.linspace(-5.3, 30, 60, dtype=torch.float64)
    model = go.to_onnx(go.capture(Wrap(torch.digamma), (x,)))
    [found] = OrtSession(model).run([x])
    torch.testing.assert_close(torch.from_numpy(found), torch.digamma(x), rtol=1e-10, atol=1e-10)
