"""Sizes: torch's symbolic integers as named dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sympy
import torch
from torch.utils._sympy import functions as T

from graphopt.errors import CaptureError
from graphopt.ir import Dim, DType, TensorType
from graphopt.ir import dims as D


def _element_type(tensor: torch.Tensor) -> DType:
    """Raises CaptureError for a tensor that is not dense, or of a type that ONNX has not."""
    try:
        if tensor.layout is torch.strided:
            return DType.of(tensor.dtype)
    except KeyError:
        pass
    kind = f"{str(tensor.layout).removeprefix('torch.')} tensor of {str(tensor.dtype).removeprefix('torch.')}"
    raise CaptureError(
        f"the module computes with a {kind}",
        hint="graphs hold dense tensors of ONNX's element types: convert it in the module (to_dense, to)",
    )


class Symbols:
    """The names of the symbols of one export."""

    def __init__(self) -> None:
        self._names: dict[str, Dim] = {}
        self._dims: dict[sympy.Expr, Dim] = {}

    def bind(self, symbol: sympy.Expr, dim: Dim) -> None:
        """Calls torch's `symbol` (``s77``) `dim` from now on; the first call counts."""
        self._names.setdefault(str(symbol), dim)
        self._dims.clear()

    def names(self, symbol: sympy.Expr) -> bool:
        """Whether `symbol` has a name."""
        return str(symbol) in self._names

    def dim(self, size: Any) -> Dim:
        """A size from tracing as a dimension; ``None`` for arithmetic that dimensions do not have."""
        if isinstance(size, int):
            return size
        expr = expression(size)
        if expr not in self._dims:
            self._dims[expr] = D.normalise(self._convert(expr))
        return self._dims[expr]

    def type_of(self, traced: Any) -> TensorType | None:
        """The type of a value of tracing: a tensor's, a 0-d one for a number, ``None`` for anything else."""
        if isinstance(traced, torch.Tensor):
            return TensorType(_element_type(traced), tuple(self.dim(size) for size in traced.shape))
        for cls, dtype in _SCALARS.items():
            if isinstance(traced, cls):
                return TensorType(dtype, ())
        return None

    def _convert(self, expr: sympy.Expr) -> Any:
        if expr.is_Integer:
            return int(expr)
        if expr.is_Symbol:
            return self._names.get(str(expr), D.symbol(str(expr)))
        convert = _FUNCTIONS.get(expr.func)
        parts = [self._convert(arg) for arg in expr.args]
        if convert is None or any(part is None for part in parts):
            return None
        return convert(*parts)


def is_open(size: Any) -> bool:
    """Whether a size of tracing is symbolic (torch's stubs call every size an int)."""
    return isinstance(size, torch.SymInt)


def expression(size: Any) -> sympy.Expr:
    """The sympy expression of a symbolic size."""
    return size.node.expr


_SCALARS: Mapping[type, DType] = {
    bool: DType.BOOL,
    torch.SymBool: DType.BOOL,
    int: DType.INT64,
    torch.SymInt: DType.INT64,
    float: DType.FLOAT64,
    torch.SymFloat: DType.FLOAT64,
}


def _product(*factors: Any) -> Any:
    total: Any = 1
    for factor in factors:
        total = total * factor
    return total


_FUNCTIONS: Mapping[Any, Callable[..., Any]] = {
    sympy.Add: D.add,
    sympy.Mul: _product,
    sympy.Pow: lambda base, exponent: sympy.sympify(base) ** exponent,
    sympy.Rational: lambda *_: None,
    T.FloorDiv: D.floor_div,
    T.CleanDiv: D.floor_div,
    T.IntTrueDiv: lambda a, b: sympy.sympify(a) / b,
    T.CeilToInt: lambda a: sympy.ceiling(a),
    T.FloorToInt: lambda a: sympy.floor(a),
    T.TruncToInt: lambda a: sympy.floor(a),
    T.Mod: lambda a, b: sympy.Mod(a, b),
    T.PythonMod: lambda a, b: sympy.Mod(a, b),
    T.ModularIndexing: lambda a, b, m: sympy.Mod(D.floor_div(a, b), m),
    T.Max: lambda *args: sympy.Max(*args),
    T.Min: lambda *args: sympy.Min(*args),
    T.PowByNatural: lambda base, exponent: sympy.sympify(base) ** exponent,
}
