"""Linear algebra for which ONNX has no operator, in loops over rows and columns of (batches of) small matrices."""

from __future__ import annotations

from collections.abc import Callable

import torch

from graphopt.backends.lower import NoLowering, extent_of, lowers, rank_of, real, scalar
from graphopt.ir import DType, Graph, TensorType, Value
from graphopt.ops.builder import Builder

#: Computes the next state from the round's number (0-d int64) and the state.
Round = Callable[[Builder, Value, Value], Value]


def _loop(b: Builder, rounds: Value, state: Value, step: Round) -> Value:
    """The state after `rounds` (0-d int64) applications of `step`."""
    body = Graph("rounds")
    number = body.add_input("number", TensorType(DType.INT64, ()))
    going = body.add_input("going", TensorType(DType.BOOL, ()))
    before = body.add_input("state", state.type)
    inner = Builder(body, None, b.origin)
    after = step(inner, number, before)
    body.add_output(inner.Identity(going), "go_on")
    body.add_output(after, "new_state")
    last: Value = b.Loop(rounds, b.constant(torch.tensor(True)), state, body=body)
    last.type = state.type
    return last


def _rows(b: Builder, matrix: Value) -> tuple[Value, Value]:
    """The number of rows, 0-d, and the numbers of all rows [n, 1]."""
    extent = matrix.shape[-2] if matrix.shape is not None else None
    if isinstance(extent, int):
        return b.constant(torch.tensor(extent)), b.constant(torch.arange(extent).unsqueeze(1))
    rank = rank_of(matrix)
    count = b.Squeeze(b.Shape(matrix, start=rank - 2, end=rank - 1), [0])
    return count, b.Unsqueeze(b.Range(b.constant(torch.tensor(0)), count, b.constant(torch.tensor(1))), [1])


def _eliminate(b: Builder, a: Value, y: Value) -> Value:
    """The solution X [..., n, k] of ``a X = y``: Gauss-Jordan elimination with pivots from the rows below.

    Golub and Van Loan, Matrix Computations, section 3.4.
    """
    rank = rank_of(a)
    count, rows = _rows(b, a)

    def step(b: Builder, number: Value, state: Value) -> Value:
        zero = scalar(b, 0, state)
        at = b.Unsqueeze(number, [0])
        column = b.Abs(b.Gather(state, at, axis=-1))
        below = b.Where(b.GreaterOrEqual(rows, number), column, scalar(b, -1, state))
        here = b.Equal(rows, number)
        there = b.Equal(rows, b.ArgMax(below, axis=rank - 2, keepdims=1))
        pivot = b.ReduceSum(b.Where(there, state, zero), [-2], keepdims=1)
        swapped = b.Where(there, b.Gather(state, at, axis=-2), state)
        pivot = b.Div(pivot, b.Gather(pivot, at, axis=-1))
        cleared = b.Sub(swapped, b.Mul(b.Gather(swapped, at, axis=-1), pivot))
        return b.Where(here, pivot, cleared)

    last = _loop(b, count, b.Concat(a, y, axis=-1), step)
    width = b.Shape(a, start=rank - 1, end=rank)
    return b.Slice(last, width, [torch.iinfo(torch.int64).max], [rank - 1])


def _swapped(matrix: Value) -> tuple[int, ...]:
    rank = rank_of(matrix)
    return (*range(rank - 2), rank - 1, rank - 2)


def _identity(b: Builder, a: Value) -> Value:
    """The unit matrices beside a batch of square ones."""
    size = extent_of(a, -1)
    eye = b.constant(torch.eye(size), like=a)
    return b.Expand(eye, b.Shape(a))


def _no_errors(b: Builder, a: Value) -> Value:
    """What torch's ``info`` holds when all went well: one zero for each matrix."""
    rank = rank_of(a)
    batch = b.Shape(a, start=0, end=rank - 2)
    return b.Expand(b.constant(torch.tensor(0, dtype=torch.int32), dtype=DType.INT32), batch)


@lowers("linalg_inv", "inverse")
def _inv(b: Builder, A: Value | None = None, self: Value | None = None) -> Value:
    a = real(A if self is None else self)
    return _eliminate(b, a, _identity(b, a))


@lowers("linalg_inv_ex")
def _inv_ex(b: Builder, A: Value, check_errors: bool = False) -> tuple[Value, Value]:
    return _inv(b, A), _no_errors(b, A)


@lowers("linalg_solve")
def _solve(b: Builder, A: Value, B: Value, left: bool = True) -> Value:
    a, y = real(A), real(B)
    if not left:
        swap = _swapped(a)
        if rank_of(y) != rank_of(a):
            raise NoLowering("vectors from the left")
        return b.Transpose(_solve(b, b.Transpose(a, perm=swap), b.Transpose(y, perm=swap)), perm=swap)
    vectors = rank_of(y) == 1 or (rank_of(y) == rank_of(a) - 1 and y.shape == (a.shape or ())[:-1])
    if vectors:
        return b.Squeeze(_solve(b, a, b.Unsqueeze(y, [-1])), [-1])
    batch_a, batch_y = b.Shape(a, start=0, end=rank_of(a) - 2), b.Shape(y, start=0, end=rank_of(y) - 2)
    if rank_of(a) != rank_of(y) or (a.shape or ())[:-2] != (y.shape or ())[:-2]:
        tail = b.constant([1, 1])
        a, y = b.Expand(a, b.Concat(batch_y, tail, axis=0)), b.Expand(y, b.Concat(batch_a, tail, axis=0))
    return _eliminate(b, a, y)


@lowers("linalg_solve_ex")
def _solve_ex(b: Builder, A: Value, B: Value, left: bool = True, check_errors: bool = False) -> tuple[Value, Value]:
    return _solve(b, A, B, left), _no_errors(b, A)


@lowers("linalg_solve_triangular")
def _solve_triangular(
    b: Builder, self: Value, B: Value, upper: bool, left: bool = True, unitriangular: bool = False
) -> Value:
    if unitriangular:
        raise NoLowering("a diagonal of ones that is not there")
    return _solve(b, b.Trilu(real(self), upper=int(upper)), B, left)


@lowers("linalg_cholesky", "cholesky")
def _cholesky(b: Builder, self: Value, upper: bool = False) -> Value:
    """Column after column; Golub and Van Loan, section 4.2."""
    a = real(self)
    count, rows = _rows(b, a)
    columns = b.Squeeze(rows, [1])
    swap = _swapped(a)

    def step(b: Builder, number: Value, state: Value) -> Value:
        at = b.Unsqueeze(number, [0])
        done = b.Transpose(b.Gather(state, at, axis=-2), perm=swap)
        rest = b.Sub(b.Gather(a, at, axis=-1), b.MatMul(state, done))
        column = b.Div(rest, b.Sqrt(b.Gather(rest, at, axis=-2)))
        column = b.Where(b.GreaterOrEqual(rows, number), column, scalar(b, 0, state))
        return b.Where(b.Equal(columns, number), column, state)

    lower = _loop(b, count, b.Sub(a, a), step)
    return b.Transpose(lower, perm=swap) if upper else lower


@lowers("linalg_cholesky_ex")
def _cholesky_ex(b: Builder, self: Value, upper: bool = False, check_errors: bool = False) -> tuple[Value, Value]:
    return _cholesky(b, self, upper), _no_errors(b, self)


@lowers("cholesky_solve")
def _cholesky_solve(b: Builder, self: Value, input2: Value, upper: bool = False) -> Value:
    factor = real(input2)
    swap = _swapped(factor)
    other = b.Transpose(factor, perm=swap)
    return _solve(b, b.MatMul(other, factor) if upper else b.MatMul(factor, other), self)


@lowers("linalg_slogdet", "slogdet")
def _slogdet(b: Builder, A: Value | None = None, self: Value | None = None) -> tuple[Value, Value]:
    det = b.Det(real(A if self is None else self))
    return b.Sign(det), b.Log(b.Abs(det))


@lowers("logdet")
def _logdet(b: Builder, self: Value) -> Value:
    return b.Log(b.Det(real(self)))
