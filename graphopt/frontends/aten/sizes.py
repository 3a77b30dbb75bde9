"""Sizes that are not numbers, and arithmetic on them: 0-d int64 tensors."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.frontends.aten.builder import Builder, Operand, Size
from graphopt.frontends.aten.registry import converts
from graphopt.ir import DType, Value


@converts("aten.sym_size.int")
def sym_size(c: Builder, self: Value, dim: int) -> Size:
    return c.size(self, dim)


@converts("aten.sym_numel.default")
def sym_numel(c: Builder, self: Value) -> Size:
    return c.emit("Size", self)


@converts("aten.item.default", "aten._local_scalar_dense.default")
def item(c: Builder, self: Value) -> Value:
    """A number read from the data (an index, a length)."""
    return c.emit("Reshape", self, c.ints([])) if self.rank != 0 else self


def _type(c: Builder, *operands: Operand) -> DType:
    return c.result_dtype(*operands)


def _arithmetic(op: str) -> Callable[[Builder, Operand, Operand], Value]:
    def convert(c: Builder, a: Operand, b: Operand) -> Value:
        dtype = _type(c, a, b)
        return c.emit(op, c.operand(a, dtype), c.operand(b, dtype))

    return convert


for _name, _op in {"add": "Add", "sub": "Sub", "mul": "Mul", "eq": "Equal", "lt": "Less", "le": "LessOrEqual",
                   "gt": "Greater", "ge": "GreaterOrEqual"}.items():  # fmt: skip
    converts(f"_operator.{_name}")(_arithmetic(_op))
converts("torch.sym_max")(_arithmetic("Max"))
converts("torch.sym_min")(_arithmetic("Min"))


@converts("_operator.ne")
def ne(c: Builder, a: Operand, b: Operand) -> Value:
    return c.emit("Not", _arithmetic("Equal")(c, a, b))


@converts("_operator.neg")
def neg(c: Builder, a: Value) -> Value:
    return c.emit("Neg", a)


@converts("_operator.floordiv")
def floordiv(c: Builder, a: Operand, b: Operand) -> Value:
    """Sizes are not negative, where ONNX's truncating Div is the floor."""
    dtype = _type(c, a, b)
    x, y = c.operand(a, dtype), c.operand(b, dtype)
    if dtype.is_float:
        return c.emit("Floor", c.emit("Div", x, y))
    return c.emit("Div", c.emit("Sub", x, c.emit("Mod", x, y)), y)


@converts("_operator.mod")
def mod(c: Builder, a: Operand, b: Operand) -> Value:
    return _arithmetic("Mod")(c, a, b)


@converts("_operator.truediv")
def truediv(c: Builder, a: Operand, b: Operand) -> Value:
    return c.emit("Div", c.operand(a, DType.FLOAT64), c.operand(b, DType.FLOAT64))


@converts("_operator.pow", "math.pow")
def power(c: Builder, a: Operand, b: Operand) -> Value:
    return _arithmetic("Pow")(c, a, b)


@converts("torch.sym_float")
def sym_float(c: Builder, a: Operand) -> Value:
    return c.operand(a, DType.FLOAT64)


@converts("torch.sym_int", "math.trunc", "builtins.int")
def sym_int(c: Builder, a: Operand) -> Value:
    return c.operand(a, DType.INT64)


@converts("math.floor")
def floor(c: Builder, a: Operand) -> Value:
    return c.cast(c.emit("Floor", c.operand(a, DType.FLOAT64)), DType.INT64)


@converts("math.ceil")
def ceil(c: Builder, a: Operand) -> Value:
    return c.cast(c.emit("Ceil", c.operand(a, DType.FLOAT64)), DType.INT64)


@converts("builtins.round")
def round_(c: Builder, a: Operand, digits: None = None) -> Value:
    return c.cast(c.emit("Round", c.operand(a, DType.FLOAT64)), DType.INT64)


@converts("torch.sym_sqrt", "math.sqrt", "torch._sym_sqrt")
def sqrt(c: Builder, a: Operand) -> Value:
    return c.emit("Sqrt", c.operand(a, DType.FLOAT64))


@converts("torch.sym_not")
def sym_not(c: Builder, a: Value) -> Value:
    return c.emit("Not", a)


@converts("torch.sym_ite")
def sym_ite(c: Builder, condition: Value, a: Operand, b: Operand) -> Value:
    dtype = _type(c, a, b)
    return c.emit("Where", condition, c.operand(a, dtype), c.operand(b, dtype))
