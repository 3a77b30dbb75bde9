"""Matches and near misses of the rules that recognise cells of recurrent networks."""

import torch

from graphopt.ir import DType
from graphopt.passes.fuse import cells as C
from tests.passes.rule_cases import Cases

CASES = Cases()
match, miss = CASES.match, CASES.miss
# Kernels of ONNX Runtime and torch have no others; in half precision a cell rounds at other places.
OTHERS = (DType.FLOAT16, DType.BFLOAT16)


def lstm(d, x, h, c, w, r, b, size, form="gemm", order=(0, 2, 1, 3)):
    """A step; `order` says which part of the gates is input, output, forget and cell (here: torch's)."""
    if form == "gemm":
        gates = d.Add(d.Gemm(x, w, b, transB=1), d.Gemm(h, r, transB=1))
    elif form == "matmul":
        gates = d.Add(d.Add(d.MatMul(x, w), d.MatMul(h, r)), b)
    else:
        gates = d.Gemm(d.Concat(x, h, axis=1), w, b)
    parts = d.Split(gates, axis=1, num_outputs=4, outputs=4)
    i, o, f, g = (parts[place] for place in order)
    cell = d.Add(d.Mul(d.Sigmoid(f), c), d.Mul(d.Sigmoid(i), d.Tanh(g)))
    return d.Mul(d.Sigmoid(o), d.Tanh(cell)), cell


def _states(d, size):
    return d.input("n", size), d.input("n", size)


@match(C.LstmOfCell, 3, without=OTHERS)
def lstm_steps(d):
    size, width = d.size(3), d.size(4) + 20
    x, (h, c) = d.input("n", width), _states(d, size)
    first = lstm(d, x, h, c, d.weight(4 * size, width), d.weight(4 * size, size), d.weight(4 * size), size)
    rows = d.weight(width, 4 * size), d.weight(size, 4 * size), d.weight(4 * size)
    second = lstm(d, x, h, c, *rows, size, "matmul", (0, 1, 2, 3))
    joined = lstm(d, x, h, c, d.weight(width + size, 4 * size), None, d.weight(4 * size), size, "joined")
    return *first, *second, joined[0]


@match(C.LstmOfCell, 2, without=OTHERS)
def two_lstm_steps(d):
    w, r, b = d.weight(12, 4), d.weight(12, 3), d.weight(12)
    h, c = _states(d, 3)
    for _ in range(2):
        h, c = lstm(d, d.input("n", 4), h, c, w, r, b, 3)
    return h, c


@miss(C.LstmOfCell, reason="no parts of one affine map")
def lstm_with_other_gates(d):
    x, (h, c) = d.input("n", 4), _states(d, 3)
    trained = d.weight(12, 4, name="cell.weight_ih")
    first = lstm(d, x, h, c, trained, d.weight(12, 3), d.weight(12), 3)
    apart = [d.MatMul(x, d.weight(4, 3)) for _ in range(4)]
    cell = d.Add(d.Mul(d.Sigmoid(apart[0]), c), d.Mul(d.Sigmoid(apart[1]), d.Tanh(apart[2])))
    return *first, d.Mul(d.Sigmoid(apart[3]), d.Tanh(cell))


@miss(C.LstmOfCell, reason="one input and the hidden state")
def lstm_of_two_inputs(d):
    (h, c), x, y = _states(d, 3), d.input("n", 4), d.input("n", 5)
    gates = d.Add(d.Add(d.MatMul(x, d.weight(4, 12)), d.MatMul(y, d.weight(5, 12))), d.MatMul(h, d.weight(3, 12)))
    i, o, f, g = d.Split(gates, axis=1, num_outputs=4, outputs=4)
    cell = d.Add(d.Mul(d.Sigmoid(f), c), d.Mul(d.Sigmoid(i), d.Tanh(g)))
    return d.Mul(d.Sigmoid(o), d.Tanh(cell))


@miss(C.LstmOfCell)
def lstm_without_a_squashed_cell(d):
    x, (h, c) = d.input("n", 4), _states(d, 3)
    gates = d.Add(d.MatMul(x, d.weight(4, 12)), d.MatMul(h, d.weight(3, 12)))
    i, o, f, g = d.Split(gates, axis=1, num_outputs=4, outputs=4)
    return d.Mul(d.Sigmoid(o), d.Add(d.Mul(d.Sigmoid(f), c), d.Mul(d.Sigmoid(i), d.Tanh(g))))


def gru(d, x, h, w, r, b, rb, form="apart"):
    """A step as torch's GRUCell: reset, update, new."""
    inside = d.Split(d.Gemm(x, w, b, transB=1), axis=1, num_outputs=3, outputs=3)
    back = d.Split(d.Gemm(h, r, rb, transB=1), axis=1, num_outputs=3, outputs=3)
    reset, update = (d.Sigmoid(d.Add(inside[k], back[k])) for k in (0, 1))
    new = d.Tanh(d.Add(inside[2], d.Mul(reset, back[2])))
    if form == "apart":
        return d.Add(d.Mul(d.Sub(d.constant(torch.tensor(1.0)), update), new), d.Mul(update, h))
    return d.Add(d.Mul(d.Sub(h, new), update), new)


@match(C.GruOfCell, 3, without=OTHERS)
def gru_steps(d):
    size, width = d.size(3), d.size(4)
    x, h = d.input("n", width), d.input("n", size)
    w, r = d.weight(3 * size, width), d.weight(3 * size, size)
    once = gru(d, x, h, w, r, d.weight(3 * size), d.weight(3 * size))
    twice = gru(d, d.input("n", width), once, w, r, None, d.weight(3 * size), "lerp")
    return once, twice, gru(d, x, h, w, r, d.weight(3 * size), None)


@miss(C.GruOfCell, reason="one affine map each")
def gru_of_the_state_alone(d):
    h = d.input("n", 3)
    return gru(d, h, h, d.weight(9, 3), d.weight(9, 3), d.weight(9), d.weight(9))


@miss(C.GruOfCell)
def gru_that_forgets_the_other_way(d):
    x, h = d.input("n", 4), d.input("n", 3)
    inside = d.Split(d.Gemm(x, d.weight(9, 4), transB=1), axis=1, num_outputs=3, outputs=3)
    back = d.Split(d.Gemm(h, d.weight(9, 3), transB=1), axis=1, num_outputs=3, outputs=3)
    reset, update = (d.Sigmoid(d.Add(inside[k], back[k])) for k in (0, 1))
    new = d.Tanh(d.Add(inside[2], d.Mul(reset, back[2])))
    return d.Add(d.Mul(d.Sub(d.full(2), update), new), d.Mul(update, h))
