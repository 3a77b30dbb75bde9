"""Matrix products against ONNX Runtime, and their costs against torch's counter."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from graphopt.errors import ShapeError
from graphopt.ops import execute, record_of
from tests.ops.oracle import check, graph_of

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def macs_and_flops(op, inputs, **attributes):
    _, node = graph_of(op, inputs, **attributes)
    record = record_of(node)
    node.output.type = record.infer(node)[0]
    with FlopCounterMode(display=False) as counter:
        execute(node, [torch.from_numpy(a) for a in inputs])
    return record.macs(node), counter.get_total_flops()


MATMULS = [
    ((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((4,), (4, 5)),
    ((3, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (4,)), ((4,), (2, 4, 3)), ((0, 4), (4, 5)), ((3, 0), (0, 5)),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), MATMULS)
def test_matmul(a, b):
    check("MatMul", [array(*a), array(*b)])


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float64])
def test_matmul_types(dtype):
    check("MatMul", [(5 * array(3, 4)).astype(dtype), (5 * array(4, 5)).astype(dtype)])


def test_matmul_symbolic():
    check("MatMul", [array(2, 3, 4), array(4, 5)], symbolic={0: ("n", "s", 4)})
    check("MatMul", [array(2, 6, 3, 4), array(2, 6, 4, 3)], symbolic={0: ("n", 6, "s", 4), 1: ("n", 6, 4, "s")})


@pytest.mark.parametrize("c", [None, (), (5,), (1,), (3, 1), (1, 5), (3, 5)])
@pytest.mark.parametrize("transA", [0, 1])
@pytest.mark.parametrize("transB", [0, 1])
def test_gemm(c, transA, transB):
    a, b = array(*((4, 3) if transA else (3, 4))), array(*((5, 4) if transB else (4, 5)))
    inputs = [a, b, *([] if c is None else [np.asarray(array(*c))])]
    symbolic = {0: (4, "m") if transA else ("m", 4)}
    check("Gemm", inputs, transA=transA, transB=transB, symbolic=None if c in ((3, 1), (3, 5)) else symbolic)
    check("Gemm", inputs, transA=transA, transB=transB, alpha=0.5, beta=1.5)


def test_gemm_integers():
    inputs = [(5 * array(*shape)).astype(np.int32) for shape in ((3, 4), (4, 5), (5,))]
    check("Gemm", inputs, reference=True)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [("ij,jk->ik", [(2, 3), (3, 4)]), ("bij, bjk -> bik", [(2, 3, 4), (2, 4, 5)]), ("ij,jk", [(2, 3), (3, 4)]),
     ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)]), ("...ij,...jk->...ik", [(2, 3, 4, 5), (3, 5, 2)]),
     ("ii->i", [(3, 3)]), ("ii", [(3, 3)]), ("ij->ji", [(2, 3)]), ("ij->", [(2, 3)]), ("i,j->ij", [(2,), (3,)]),
     ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]), ("bi,i->b", [(2, 3), (3,)]), ("ab,cd->abcd", [(2, 3), (2, 2)]),
     ("...i->...", [(2, 3, 4)]), ("bn,anm,bm->ba", [(2, 3), (4, 3, 5), (2, 5)])],
)  # fmt: skip
def test_einsum(equation, shapes):
    check("Einsum", [array(*shape) for shape in shapes], equation=equation)


def test_einsum_symbolic():
    check("Einsum", [array(2, 3, 4), array(4, 5)], symbolic={0: ("n", "s", 4)}, equation="bsi,io->bso")
    check("Einsum", [array(2, 3, 4), array(2, 4, 5)], symbolic={0: ("n", "s", 4), 1: ("n", 4, "t")},
          equation="...si,...it->...st")  # fmt: skip


@pytest.mark.parametrize(("a", "b"), MATMULS[:4])
def test_matmul_macs(a, b):
    macs, flops = macs_and_flops("MatMul", [array(*a), array(*b)])
    assert 2 * macs == flops > 0


@pytest.mark.parametrize("transA", [0, 1])
@pytest.mark.parametrize("transB", [0, 1])
def test_gemm_macs(transA, transB):
    inputs = [array(*((4, 3) if transA else (3, 4))), array(*((5, 4) if transB else (4, 5))), array(5)]
    macs, flops = macs_and_flops("Gemm", inputs, transA=transA, transB=transB)
    assert 2 * macs == flops > 0


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [("ij,jk->ik", [(2, 3), (3, 4)]), ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)]),
     ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]), ("abi,io->abo", [(2, 3, 4), (4, 5)]), ("ij->ji", [(2, 3)])],
)  # fmt: skip
def test_einsum_macs(equation, shapes):
    # torch takes the paths of opt_einsum where that is installed
    with torch.backends.opt_einsum.flags(enabled=False):
        macs, flops = macs_and_flops("Einsum", [array(*shape) for shape in shapes], equation=equation)
    assert macs * 2 == flops


def test_einsum_macs_of_what_torch_does_not_count():
    macs, flops = macs_and_flops("Einsum", [array(2, 3), array(4)], equation="ij,k->jk")
    assert (macs, flops) == (12, 0)


@pytest.mark.parametrize("shape", [(3, 3), (4, 3, 3), (2, 4, 2, 2), (1, 1)])
def test_det(shape):
    check("Det", [array(*shape)], symbolic={0: (*"abcd"[: len(shape) - 2], *shape[-2:])})


@pytest.mark.parametrize(
    ("op", "shapes", "attributes", "words"),
    [("MatMul", [(3, 4), (5, 6)], {}, "inner dimensions 4 and 5"), ("MatMul", [(), (5, 6)], {}, "scalar"),
     ("MatMul", [(2, 3, 4), (3, 4, 5)], {}, "broadcast"), ("Gemm", [(3, 4), (5, 6)], {}, "inner"),
     ("Gemm", [(3, 4), (4, 5), (3,)], {}, "broadcast"), ("Gemm", [(1, 4), (4, 5), (3, 5)], {}, "does not broadcast"),
     ("Gemm", [(2, 3, 4), (4, 5)], {}, "rank 3"), ("Einsum", [(3, 4)], {"equation": "ij,jk->ik"}, "2 terms"),
     ("Einsum", [(3, 4)], {"equation": "ijk->k"}, "rank 2"), ("Einsum", [(3, 4)], {"equation": "ij->k"}, "'k'"),
     ("Einsum", [(3, 4), (5, 6)], {"equation": "ij,jk->ik"}, "broadcast")],
)  # fmt: skip
def test_errors(op, shapes, attributes, words):
    _, node = graph_of(op, [np.asarray(array(*shape), dtype=np.float32) for shape in shapes], **attributes)
    with pytest.raises(ShapeError, match=words):
        record_of(node).infer(node)
