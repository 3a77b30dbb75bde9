"""Reductions, scans, sorting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphopt.frontends.aten.builder import Builder, Size, axes_of, axis_of, rank_of, require, shape_of, static
from graphopt.frontends.aten.elementwise import truth
from graphopt.frontends.aten.registry import converts
from graphopt.ir import DType, Value

Dims = int | Sequence[int] | None


def reduce(c: Builder, op: str, x: Value, dims: Dims = None, keepdim: bool = False) -> Value:
    """A Reduce* over `dims`, all of them when none are given."""
    if rank_of(x) == 0:
        return _of_scalar(c, op, x)
    return c.emit(op, x, c.ints(axes_of(x, dims)), keepdims=int(keepdim))


def _of_scalar(c: Builder, op: str, x: Value) -> Value:
    vector = c.unsqueeze(x, 0)
    return c.emit(op, vector, c.ints([0]), keepdims=0)


@converts("aten.sum.default", "aten.sum.dim_IntList")
def sum_(c: Builder, self: Value, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
    return reduce(c, "ReduceSum", c.cast(self, c.result.dtype), dim, keepdim)


@converts("aten.mean.default", "aten.mean.dim")
def mean(c: Builder, self: Value, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
    return reduce(c, "ReduceMean", c.cast(self, c.result.dtype), dim, keepdim)


@converts("aten.prod.default", "aten.prod.dim_int")
def prod(c: Builder, self: Value, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
    return reduce(c, "ReduceProd", c.cast(self, c.result.dtype), dim, keepdim)


@converts("aten.logsumexp.default")
def logsumexp(c: Builder, self: Value, dim: Dims, keepdim: bool = False) -> Value:
    return reduce(c, "ReduceLogSumExp", c.cast(self, c.result.dtype), dim, keepdim)


def _extreme(op: str) -> Callable[..., Value]:
    def convert(c: Builder, self: Value, dim: Dims = None, keepdim: bool = False) -> Value:
        if self.dtype == DType.BOOL:
            return c.cast(reduce(c, op, c.cast(self, DType.INT32), dim, keepdim), DType.BOOL)
        return reduce(c, op, self, dim, keepdim)

    return convert


amax = converts("aten.amax.default", "aten.max.default")(_extreme("ReduceMax"))
amin = converts("aten.amin.default", "aten.min.default")(_extreme("ReduceMin"))


@converts("aten.aminmax.default")
def aminmax(c: Builder, self: Value, *, dim: Dims = None, keepdim: bool = False) -> tuple[Value, Value]:
    return amin(c, self, dim, keepdim), amax(c, self, dim, keepdim)


@converts("aten.any.default", "aten.any.dim", "aten.any.dims")
def any_(c: Builder, self: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    counted = c.cast(truth(c, self), DType.INT32)
    return c.cast(reduce(c, "ReduceMax", counted, dim, keepdim), DType.BOOL)


@converts("aten.all.default", "aten.all.dim", "aten.all.dims")
def all_(c: Builder, self: Value, dim: Dims = None, keepdim: bool = False) -> Value:
    counted = c.cast(truth(c, self), DType.INT32)
    return c.cast(reduce(c, "ReduceMin", counted, dim, keepdim), DType.BOOL)


@converts("aten.count_nonzero.default", "aten.count_nonzero.dim_IntList")
def count_nonzero(c: Builder, self: Value, dim: Dims = None) -> Value:
    return reduce(c, "ReduceSum", c.cast(truth(c, self), DType.INT64), dim)


# -- variance


def _variance(c: Builder, x: Value, dims: Dims, correction: float | None, keepdim: bool) -> tuple[Value, Value]:
    """Variance and mean."""
    require(x.dtype.is_float and rank_of(x) > 0, "the variance of integers or of one number")
    axes = axes_of(x, dims)
    average = c.emit("ReduceMean", x, c.ints(axes), keepdims=1)
    deviation = c.emit("Sub", x, average)
    variance = c.emit("ReduceMean", c.emit("Mul", deviation, deviation), c.ints(axes), keepdims=int(keepdim))
    correction = 1.0 if correction is None else float(correction)
    if correction:
        variance = c.emit("Mul", variance, _bessel(c, x, axes, correction))
    final = average if keepdim else c.emit("Squeeze", average, c.ints(axes))
    return variance, final


def _bessel(c: Builder, x: Value, axes: Sequence[int], correction: float) -> Value:
    """N / (n - correction)."""
    count = c.multiply(c.size(x, axis) for axis in axes)
    if not isinstance(count, Value):
        require(count > correction, "the variance of too few elements")
        return c.scalar(count / (count - correction), x.dtype)
    total = c.cast(count, x.dtype)
    return c.emit("Div", total, c.emit("Sub", total, c.scalar(correction, x.dtype)))


def _unbiased(flag: bool) -> float:
    return 1.0 if flag else 0.0


@converts("aten.var.correction")
def var(c: Builder, self: Value, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False) -> Value:
    return _variance(c, self, dim, correction, keepdim)[0]


@converts("aten.std.correction")
def std(c: Builder, self: Value, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False) -> Value:
    return c.emit("Sqrt", _variance(c, self, dim, correction, keepdim)[0])


@converts("aten.var.dim")
def var_dim(c: Builder, self: Value, dim: Dims, unbiased: bool = True, keepdim: bool = False) -> Value:
    return _variance(c, self, dim, _unbiased(unbiased), keepdim)[0]


@converts("aten.std.dim")
def std_dim(c: Builder, self: Value, dim: Dims, unbiased: bool = True, keepdim: bool = False) -> Value:
    return c.emit("Sqrt", _variance(c, self, dim, _unbiased(unbiased), keepdim)[0])


@converts("aten.var.default")
def var_all(c: Builder, self: Value, unbiased: bool = True) -> Value:
    return _variance(c, self, None, _unbiased(unbiased), False)[0]


@converts("aten.std.default")
def std_all(c: Builder, self: Value, unbiased: bool = True) -> Value:
    return c.emit("Sqrt", _variance(c, self, None, _unbiased(unbiased), False)[0])


@converts("aten.var_mean.correction")
def var_mean(
    c: Builder, self: Value, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    return _variance(c, self, dim, correction, keepdim)


@converts("aten.var_mean.default")
def var_mean_all(c: Builder, self: Value, unbiased: bool = True) -> tuple[Value, Value]:
    return _variance(c, self, None, _unbiased(unbiased), False)


@converts("aten.var_mean.dim")
def var_mean_dim(
    c: Builder, self: Value, dim: Dims, unbiased: bool = True, keepdim: bool = False
) -> tuple[Value, Value]:
    return _variance(c, self, dim, _unbiased(unbiased), keepdim)


@converts("aten.std_mean.correction")
def std_mean(
    c: Builder, self: Value, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    variance, average = _variance(c, self, dim, correction, keepdim)
    return c.emit("Sqrt", variance), average


# -- norms


@converts("aten.linalg_vector_norm.default")
def vector_norm(
    c: Builder, self: Value, ord: float = 2, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None
) -> Value:
    x = c.cast(self, c.result.dtype)
    if ord == 2:
        return reduce(c, "ReduceL2", x, dim, keepdim)
    if ord == 1:
        return reduce(c, "ReduceL1", x, dim, keepdim)
    magnitude = c.emit("Abs", x)
    magnitude.type = x.type
    if ord == float("inf"):
        return reduce(c, "ReduceMax", magnitude, dim, keepdim)
    if ord == float("-inf"):
        return reduce(c, "ReduceMin", magnitude, dim, keepdim)
    require(ord != 0, "the number of elements that are not zero")
    powers = c.emit("Pow", magnitude, c.scalar(float(ord), x.dtype))
    powers.type = x.type
    return c.emit("Pow", reduce(c, "ReduceSum", powers, dim, keepdim), c.scalar(1 / float(ord), x.dtype))


@converts("aten.cdist.default")
def cdist(c: Builder, x1: Value, x2: Value, p: float = 2, compute_mode: int | None = None) -> Value:
    """Distances of each row of `x1` from each row of `x2`."""
    a, b = c.unsqueeze(x1, rank_of(x1) - 1), c.unsqueeze(x2, rank_of(x2) - 2)
    gap = c.emit("Sub", a, b)
    gap.type = c.result.with_shape((*c.result_shape, shape_of(x1)[-1]))
    return vector_norm(c, gap, p, -1)


@converts("aten.linalg_norm.default")
def linalg_norm(
    c: Builder, self: Value, ord: float | None = None, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None
) -> Value:
    vector = ord is None or isinstance(dim, int) or (dim is not None and len(dim) == 1) or rank_of(self) == 1
    require(vector, "the norm of a matrix")
    return vector_norm(c, self, 2 if ord is None else ord, dim, keepdim)


@converts("aten.norm.ScalarOpt_dim", "aten.norm.Scalar", "aten.norm.ScalarOpt_dim_dtype")
def norm(
    c: Builder, self: Value, p: float | None = 2, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None
) -> Value:
    return vector_norm(c, self, 2 if p is None else p, dim, keepdim)


# -- positions


def _arg(op: str) -> Callable[..., Value]:
    def convert(c: Builder, self: Value, dim: int | None = None, keepdim: bool = False) -> Value:
        x = c.cast(self, DType.INT32) if self.dtype == DType.BOOL else self
        if dim is None:
            require(not keepdim, "the position in the whole tensor, with its dimensions")
            return c.emit(op, c.emit("Reshape", x, c.ints([-1])), axis=0, keepdims=0)
        if rank_of(self) == 0:
            return c.emit(op, c.unsqueeze(x, 0), axis=0, keepdims=0)
        return c.emit(op, x, axis=axis_of(self, dim), keepdims=int(keepdim))

    return convert


argmax = converts("aten.argmax.default")(_arg("ArgMax"))
argmin = converts("aten.argmin.default")(_arg("ArgMin"))


@converts("aten.max.dim")
def max_dim(c: Builder, self: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    return amax(c, self, dim, keepdim), argmax(c, self, dim, keepdim)


@converts("aten.min.dim")
def min_dim(c: Builder, self: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    return amin(c, self, dim, keepdim), argmin(c, self, dim, keepdim)


@converts("aten.topk.default")
def topk(
    c: Builder, self: Value, k: Size, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Value, ...]:
    require(rank_of(self) > 0, "the largest elements of one number")
    count = c.vector([k])
    attributes = {"axis": axis_of(self, dim), "largest": int(largest), "sorted": int(sorted)}
    values, indices = c.emit_many("TopK", [self, count], 2, **attributes)
    # ONNX requires both outputs, and one without a name would be left out.
    values.name, indices.name = "values", "indices"
    return values, indices


@converts("aten.sort.default")
def sort(c: Builder, self: Value, dim: int = -1, descending: bool = False) -> tuple[Value, ...]:
    require(rank_of(self) > 0, "sorting one number")
    x = c.cast(self, DType.INT32) if self.dtype == DType.BOOL else self
    values, indices = topk(c, x, c.size(self, dim), dim, largest=descending)
    return c.cast(values, DType.BOOL) if x is not self else values, indices


@converts("aten.sort.stable")
def sort_stable(
    c: Builder, self: Value, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Value, ...]:
    return sort(c, self, dim, descending)


@converts("aten.median.dim")
def median(c: Builder, self: Value, dim: int, keepdim: bool = False) -> tuple[Value, ...]:
    """The lower of the two in the middle: the last of the smaller half."""
    require(rank_of(self) > 0, "a tensor without dimensions")
    axis = axis_of(self, dim)
    extent = static(shape_of(self)[axis])
    half = (extent + 1) // 2
    last = c.scalar(half - 1, DType.INT64)
    picked = [c.emit("Gather", each, last, axis=axis) for each in topk(c, self, half, dim, largest=False)]
    return tuple(c.emit("Unsqueeze", each, c.ints([axis])) for each in picked) if keepdim else tuple(picked)


@converts("aten.argsort.default")
def argsort(c: Builder, self: Value, dim: int = -1, descending: bool = False) -> Value:
    return sort(c, self, dim, descending)[1]


# -- scans


@converts("aten.cumsum.default")
def cumsum(c: Builder, self: Value, dim: int, *, dtype: Any = None) -> Value:
    if rank_of(self) == 0:
        return c.cast(self, c.result.dtype)
    return c.emit("CumSum", c.cast(self, c.result.dtype), c.scalar(axis_of(self, dim), DType.INT64))


@converts("aten.cumprod.default")
def cumprod(c: Builder, self: Value, dim: int, *, dtype: Any = None) -> Value:
    if rank_of(self) == 0:
        return c.cast(self, c.result.dtype)
    return c.emit("CumProd", c.cast(self, c.result.dtype), c.scalar(axis_of(self, dim), DType.INT64))
