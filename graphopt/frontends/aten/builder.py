"""What converters build with: canonical nodes, constants, and the small idioms that torch's semantics need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch

from graphopt.frontends.aten.registry import NoConversion
from graphopt.frontends.onnx_attributes import shortest
from graphopt.ir import Dim, DType, Graph, Node, Origin, Shape, TensorType, Value
from graphopt.ir import dims as D

#: A number, or a 0-d int64 tensor that holds one.
Size: TypeAlias = int | Value
#: A tensor, or a Python number.
Operand: TypeAlias = Value | int | float | bool

INT_MAX = (1 << 63) - 1
COMPLEX = frozenset({DType.COMPLEX64, DType.COMPLEX128})
INT_MIN = -INT_MAX


class Builder:
    """Appends canonical nodes to a graph on behalf of one torch operator at a time.

    Attributes:
        graph: the graph that is being built.
        origin: where the nodes that are added next come from.
        results: types of the results of the operator that is being converted (``None`` for what is no tensor).
        sizes: the values that stand for Python numbers (results of ``x.size(0)`` and arithmetic on them).
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.origin = Origin()
        self.results: list[TensorType | None] = []
        self.sizes: set[Value] = set()
        self.constants: dict[Any, Value] = {}

    # -- nodes and constants

    def emit(self, op: str, *inputs: Value | None, **attributes: Any) -> Value:
        """Adds a node with one output and returns the output. Trailing left-out inputs are dropped."""
        return self.emit_many(op, inputs, 1, **attributes)[0]

    def emit_many(self, op: str, inputs: Iterable[Value | None], outputs: int, **attributes: Any) -> list[Value]:
        """Adds a node with several outputs."""
        operands = list(inputs)
        while operands and operands[-1] is None:
            operands.pop()
        # ONNX keeps float attributes in single precision; ours have it too, so that a file changes nothing.
        plain = {name: shortest(told) if isinstance(told, float) else told for name, told in attributes.items()}
        node = Node(op, operands, plain, outputs, origin=self.origin)
        return list(self.graph.append(node).outputs)

    def constant(self, data: torch.Tensor) -> Value:
        """A new constant."""
        return self.graph.add_constant(data)

    def scalar(self, number: float | int | bool, dtype: DType) -> Value:
        """The 0-d constant `number` of element type `dtype`; equal ones are shared."""
        return self._shared(("scalar", repr(number), dtype), lambda: torch.tensor(number, dtype=dtype.torch))

    def ints(self, numbers: Iterable[int]) -> Value:
        """The 1-D int64 constant with these elements; equal ones are shared."""
        items = [int(number) for number in numbers]
        return self._shared(("ints", tuple(items)), lambda: torch.tensor(items, dtype=torch.int64))

    def _shared(self, key: Any, make: Any) -> Value:
        value = self.constants.get(key)
        if value is None or value.graph is not self.graph:
            value = self.constants[key] = self.constant(make())
        return value

    # -- results

    @property
    def result(self) -> TensorType:
        """Type of the (first) result."""
        kind = self.results[0] if self.results else None
        if kind is None:
            raise NoConversion("the result is no tensor")
        return kind

    @property
    def result_shape(self) -> Shape:
        """Shape of the (first) result."""
        shape = self.result.shape
        if shape is None:
            raise NoConversion("the result's rank is unknown")
        return shape

    # -- element types

    def cast(self, value: Value, dtype: DType) -> Value:
        """`value` with element type `dtype`; itself when it has that already.

        Raises NoConversion for a complex `value` and a real `dtype`: ``abs`` and the like do not drop imaginary parts.
        """
        if value.dtype == dtype:
            return value
        if value.dtype in COMPLEX and dtype not in COMPLEX:
            raise NoConversion("what turns complex numbers into real ones")
        cast = self.emit("Cast", value, to=int(dtype))
        cast.type = TensorType(dtype, value.shape)
        return cast

    def operand(self, item: Operand, dtype: DType) -> Value:
        """A tensor or number as a tensor of element type `dtype`."""
        return self.cast(item, dtype) if isinstance(item, Value) else self.scalar(item, dtype)

    def result_dtype(self, *items: Operand) -> DType:
        """The element type that torch's promotion rules give for these operands."""
        joint = self._dummy(items[0])
        for item in items[1:]:
            joint = _join(joint, self._dummy(item))
        return DType.of(joint.dtype if isinstance(joint, torch.Tensor) else torch.tensor(joint).dtype)

    def _dummy(self, item: Operand) -> Any:
        if not isinstance(item, Value):
            return item
        if item in self.sizes:
            return 1.0 if item.dtype.is_float else 1
        return torch.empty((1,) * rank_of(item), dtype=item.dtype.torch, device="meta")

    # -- sizes

    def size(self, value: Value, dim: int) -> Size:
        """Extent of a dimension: a number, or a 0-d int64 tensor."""
        extent = shape_of(value)[dim]
        if isinstance(extent, int):
            return extent
        dim %= rank_of(value)
        return self.number(self.emit("Shape", value, start=dim, end=dim + 1))

    def number(self, vector: Value) -> Value:
        """The single element of a 1-D tensor as a 0-d tensor that stands for a Python number."""
        scalar = self.emit("Squeeze", vector, self.ints([0]))
        scalar.type = TensorType(DType.INT64, ())
        self.sizes.add(scalar)
        return scalar

    def vector(self, sizes: Sequence[Size]) -> Value:
        """A 1-D int64 tensor with these elements; a constant when all are numbers."""
        pieces: list[Value] = []
        run: list[int] = []
        for size in sizes:
            if not isinstance(size, Value):
                run.append(int(size))
                continue
            if run:
                pieces.append(self.ints(run))
                run = []
            pieces.append(self._as_vector(size))
        if run or not pieces:
            pieces.append(self.ints(run))
        if len(pieces) == 1:
            return pieces[0]
        return self.emit("Concat", *pieces, axis=0)

    def _as_vector(self, size: Value) -> Value:
        node = size.producer
        if node is not None and node.op == "Squeeze" and node.operand(0).producer is not None:
            source = node.operand(0).producer
            if source is not None and source.op == "Shape":
                return node.operand(0)
        return self.emit("Unsqueeze", size, self.ints([0]))

    def multiply(self, sizes: Iterable[Size]) -> Size:
        """The product of sizes."""
        number, tensors = 1, []
        for size in sizes:
            if isinstance(size, Value):
                tensors.append(size)
            else:
                number *= size
        if not tensors:
            return number
        factors = tensors if number == 1 else [*tensors, self.scalar(number, DType.INT64)]
        total = factors[0]
        for factor in factors[1:]:
            total = self.emit("Mul", total, factor)
        self.sizes.add(total)
        return total

    # -- views

    def reshape(self, value: Value, sizes: Sequence[Size]) -> Value:
        """Reshape; at most one element of `sizes` may be -1, none may mean "copy"."""
        zero = any(not isinstance(size, Value) and size == 0 for size in sizes)
        return self.emit("Reshape", value, self.vector(sizes), **({"allowzero": 1} if zero else {}))

    def reshape_to(self, value: Value, sizes: Sequence[Size], target: Shape) -> Value:
        """Reshape to `sizes`, of which `target` tells what is known, with as constant a shape as possible.

        Sizes that are not numbers become 0 ("copy") where the input has the same extent in the same place, and -1 where
        there is only one left.
        """
        source = shape_of(value)
        if len(source) == len(target) and all(map(D.same, source, target)):
            return value
        final: list[Size] = [t if isinstance(t, int) and s != -1 else s for s, t in zip(sizes, target, strict=True)]
        loose = [i for i, size in enumerate(final) if isinstance(size, Value) or size == -1]
        if 0 in final:
            return self.reshape(value, final)
        if len(loose) == 1:
            final[loose[0]] = -1
            return self.emit("Reshape", value, self.ints(s for s in final if not isinstance(s, Value)))
        for i in loose:
            if i < len(source) and D.same(source[i], target[i]):
                final[i] = 0
        loose = [i for i in loose if final[i] != 0]
        if len(loose) == 1:
            final[loose[0]] = -1
        return self.emit("Reshape", value, self.vector(final))

    def unsqueeze(self, value: Value, *axes: int) -> Value:
        """Inserts dimensions of extent 1; the axes, not negative, count in the result."""
        if not axes:
            return value
        result = self.emit("Unsqueeze", value, self.ints(axes))
        if value.shape is not None:
            extents = list(value.shape)
            for axis in sorted(axes):
                extents.insert(axis, 1)
            result.type = value.tensor_type.with_shape(extents)
        return result

    def squeeze(self, value: Value, *axes: int) -> Value:
        """Removes dimensions of extent 1; the axes are not negative."""
        if not axes:
            return value
        result = self.emit("Squeeze", value, self.ints(axes))
        if value.shape is not None:
            result.type = value.tensor_type.with_shape(d for i, d in enumerate(value.shape) if i not in axes)
        return result

    def transpose(self, value: Value, perm: Sequence[int]) -> Value:
        """Permutes dimensions; `value` itself when there is nothing to do."""
        if list(perm) == list(range(len(perm))):
            return value
        result = self.emit("Transpose", value, perm=tuple(perm))
        if value.shape is not None:
            result.type = value.tensor_type.with_shape(value.shape[i] for i in perm)
        return result

    def slice(self, value: Value, axis: int, start: Size, end: Size, step: int = 1) -> Value:
        """``value[start:end:step]`` along `axis`."""
        steps = () if step == 1 else (self.ints([step]),)
        return self.emit("Slice", value, self.vector([start]), self.vector([end]), self.ints([axis]), *steps)

    def expand(self, value: Value, sizes: Sequence[Size]) -> Value:
        """Broadcasts to `sizes`; -1 (or 1) keeps the extent."""
        return self.emit(
            "Expand", value, self.vector([1 if not isinstance(s, Value) and s == -1 else s for s in sizes])
        )

    def shape(self, value: Value) -> Value:
        """The shape as a 1-D int64 tensor; a constant when it is known."""
        extents = shape_of(value)
        if D.is_static(extents):
            return self.ints(d for d in extents if isinstance(d, int))
        return self.emit("Shape", value)

    # -- batches

    def batched(self, value: Value, rank: int) -> tuple[Value, bool]:
        """`value` with a batch dimension in front when it has rank `rank` - 1, and whether one was added."""
        if rank_of(value) == rank - 1:
            return self.unsqueeze(value, 0), True
        return value, False


def _join(a: Any, b: Any) -> Any:
    if not isinstance(a, torch.Tensor) and not isinstance(b, torch.Tensor):
        return a + b
    dtype = torch.result_type(a, b)
    rank = max(item.dim() if isinstance(item, torch.Tensor) else 0 for item in (a, b))
    return torch.empty((1,) * rank, dtype=dtype, device="meta")


def shape_of(value: Value) -> Shape:
    """The shape of a value whose rank tracing knows. Raises NoConversion when it does not."""
    if value.shape is None:
        raise NoConversion("the rank of an operand is unknown")
    return value.shape


def rank_of(value: Value) -> int:
    """The rank of a value. Raises NoConversion when it is unknown."""
    return len(shape_of(value))


def axis_of(value: Value, dim: int) -> int:
    """A non-negative axis of `value`."""
    return dim % max(rank_of(value), 1)


def axes_of(value: Value, dims: int | Sequence[int] | None) -> list[int]:
    """Non-negative axes, ascending; all of them for ``None`` or none given."""
    rank = rank_of(value)
    if dims is None or (not isinstance(dims, int) and not dims):
        return list(range(rank))
    return sorted({dim % max(rank, 1) for dim in ([dims] if isinstance(dims, int) else dims)})


def numbers(sizes: Any, count: int, what: str = "size") -> list[int]:
    """A number or list of numbers as a list of `count`. Raises NoConversion for sizes that are not numbers."""
    items = [sizes] * count if isinstance(sizes, int) else list(sizes)
    if len(items) == 1:
        items *= count
    if any(isinstance(item, Value) for item in items):
        raise NoConversion(f"the {what} depends on the input's size")
    return [int(item) for item in items]


def plain(item: Operand) -> int | float:
    """A number that may not depend on the input. Raises NoConversion when it does."""
    if isinstance(item, Value):
        raise NoConversion("a number depends on the input's size")
    return item


def static(dim: Dim) -> int:
    """A dimension that has to be a number. Raises NoConversion when it is not."""
    if not isinstance(dim, int):
        raise NoConversion(f"dimension {D.format_dim(dim)} is not fixed")
    return dim


def require(condition: bool, reason: str) -> None:
    """Raises NoConversion with `reason` unless `condition` holds."""
    if not condition:
        raise NoConversion(reason)
