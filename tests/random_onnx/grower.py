"""Random ONNX graphs, grown node by node: valid by construction, for two sizes of their open dimensions at once.

Each step picks a maker that adds nodes on values that are there. The operator records infer the types; the tensors for
both sizes are computed along with the graph, so that makers see what they work on. What the records get wrong shows
when ONNX Runtime executes the graph.

Operators that decide by the contents of a tensor (comparisons, rounding, sorting) get values that are exact in every
runtime: moved inputs, and what was decided by such. Elsewhere a rounding error may decide differently.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphopt.ir import DType, Graph, Node, TensorType, Value
from graphopt.ir import dims as D
from graphopt.ops.builder import Builder
from graphopt.runtime.executor import _execute, _lookup
from tests.random_onnx.plain import is_runnable

#: Sizes of the open dimensions, twice.
BINDINGS = ({"n": 2, "s": 4}, {"n": 3, "s": 5})
#: Tensors with more elements than this are not worked on.
LIMIT = 3000
#: Opsets that graphs are written at: old forms, new forms, and the newest that ONNX Runtime has most kernels for.
OPSETS = (11, 12, 13, 15, 17, 18, 19, 20, 21, 21, 22, 23)

#: Operators whose float results are the same in every runtime if their inputs are.
EXACT = frozenset({
    "Abs", "BitCast", "Cast", "CastLike", "Ceil", "CenterCropPad", "Clip", "Compress", "Concat",
    "ConcatFromSequence", "ConstantOfShape", "DepthToSpace", "Dropout", "Expand", "EyeLike", "Flatten", "Floor",
    "Gather", "GatherElements", "GatherND", "GlobalMaxPool", "Hardmax", "Identity", "Max", "MaxPool", "MaxRoiPool",
    "MaxUnpool", "Min", "Neg", "OneHot", "Optional", "OptionalGetElement", "Pad", "ReduceMax", "ReduceMin", "Relu",
    "Reshape", "ReverseSequence", "Round", "ScatterElements", "ScatterND", "SequenceAt", "SequenceConstruct",
    "SequenceErase", "SequenceInsert", "Shrink", "Sign", "Slice", "SpaceToDepth", "Split", "SplitToSequence",
    "Squeeze", "ThresholdedRelu", "Tile", "TopK", "Transpose", "Trilu", "Unique", "Unsqueeze", "Where",
})  # fmt: skip


@dataclass(frozen=True, eq=False)
class Item:
    """A value of the pool.

    Attributes:
        value: in the graph.
        data: its tensors, for each of `BINDINGS`.
        exact: the same in every runtime, to the last bit.
    """

    value: Value
    data: tuple[torch.Tensor, ...]
    exact: bool

    @property
    def rank(self) -> int:
        return self.data[0].dim()

    @property
    def dtype(self) -> DType:
        return self.value.dtype

    @property
    def is_float(self) -> bool:
        return self.dtype in (DType.FLOAT32, DType.FLOAT64, DType.FLOAT16)

    @property
    def is_integer(self) -> bool:
        return self.dtype.is_integer

    def fixed(self, axis: int) -> int:
        """The extent of an axis, 0 where it is open."""
        shape = self.value.shape
        extent = shape[axis] if shape is not None else None
        return extent if isinstance(extent, int) else 0

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """The shapes, for each of `BINDINGS`."""
        return [tuple(each.shape) for each in self.data]

    @property
    def least(self) -> int:
        """The least number of elements."""
        return min(each.numel() for each in self.data)


Made = Value | Sequence[Value] | None
Maker = Callable[["Grower"], Made]
#: All makers, each as often as it should be tried.
MAKERS: list[Maker] = []


def maker(weight: int = 1) -> Callable[[Maker], Maker]:
    """Registers a function that adds nodes and returns the values that others may use; ``None`` if nothing fits."""

    def register(function: Maker) -> Maker:
        MAKERS.extend([function] * weight)
        return function

    return register


class Rejected(Exception):
    """What was made is valid, but not what is wanted: too large, or not finite, or ONNX Runtime has no kernel."""


class Grower:
    """A graph in the making, or a body inside one.

    Args:
        rng: decides everything.
        opset: that the graph will be written at.
        outer: for a body, the grower of the graph around it.
    """

    def __init__(self, rng: random.Random, opset: int, outer: Grower | None = None) -> None:
        self.rng = rng
        self.opset = opset
        self.graph = Graph()
        self.b = Builder(self.graph)
        self.depth = 0 if outer is None else outer.depth + 1
        self.pool: list[Item] = [] if outer is None else list(outer.pool)
        self.env: list[dict[Value, Any]] = [{} for _ in BINDINGS] if outer is None else [dict(e) for e in outer.env]
        self.noise = torch.Generator().manual_seed(rng.getrandbits(30)) if outer is None else outer.noise

    # -- growing

    def grow(self, steps: int, makers: Sequence[Maker] = MAKERS) -> None:
        """Makes `steps` steps; fewer when nothing fits anywhere."""
        for _ in range(steps):
            for _ in range(30):
                if self._step(self.rng.choice(makers)):
                    break

    def _step(self, make: Maker) -> bool:
        self.b = Builder(self.graph)
        try:
            made = make(self)
            if made is None:
                raise Rejected
            items = self._settle([made] if isinstance(made, Value) else list(made))
        except Rejected:
            self.b.discard()
            return False
        self.pool.extend(items)
        return True

    def _settle(self, made: Sequence[Value]) -> list[Item]:
        """Computes the new nodes, and holds their types to what comes out."""
        exact = {item.value: item.exact for item in self.pool}
        for node in self.b.nodes:
            if not is_runnable(node, self.opset):
                raise Rejected
            for env, binding in zip(self.env, BINDINGS, strict=True):
                arguments = [None if v is None else _lookup(v, env) for v in node.inputs]
                results = _execute(node, arguments, env)
                env.update(zip(node.outputs, results, strict=False))
                for value, result in zip(node.outputs, results, strict=False):
                    check_type(value, result, binding)
            is_exact = node.op in EXACT and all(exact.get(v, True) for v in node.inputs if v is not None)
            exact.update((value, is_exact or not value.dtype.is_float) for value in node.outputs)
        return [self._item(value, exact[value]) for value in made]

    def _item(self, value: Value, exact: bool) -> Item:
        item = Item(value, tuple(env[value] for env in self.env), exact)
        for tensor in item.data:
            if not isinstance(tensor, torch.Tensor) or tensor.dim() > 5 or not 0 < tensor.numel() <= LIMIT:
                raise Rejected
            wide = tensor.double()
            if not wide.isfinite().all() or (item.is_float and float(wide.abs().max()) > 50):
                raise Rejected
        return item

    # -- what makers ask for

    def add_input(self, dtype: DType, shape: Sequence[Any], sample: Callable[[tuple[int, ...]], torch.Tensor]) -> Item:
        """A graph input with sample tensors."""
        value = self.graph.add_input(f"x{self.depth}_{len(self.graph.inputs)}", TensorType.make(dtype, shape))
        # mypy does not know that a binding leaves no names.
        data = tuple(sample(tuple(D.substitute(d, each) for d in value.shape or ())) for each in BINDINGS)  # type: ignore[misc]
        return self.add_item(value, data)

    def add_item(self, value: Value, data: tuple[torch.Tensor, ...], exact: bool = True) -> Item:
        """Puts an input of the graph into the pool."""
        for env, tensor in zip(self.env, data, strict=True):
            env[value] = tensor
        self.pool.append(Item(value, data, exact))
        return self.pool[-1]

    def pick(self, *fits: Callable[[Item], bool]) -> Item:
        """A value for which all of `fits` hold, a recent one more likely. Raises Rejected when there is none."""
        found = [item for item in self.pool if all(fit(item) for fit in fits)]
        if not found:
            raise Rejected
        return self.rng.choice(found[-4:] if self.rng.random() < 0.6 else found)

    def float(self, *fits: Callable[[Item], bool], rank: int = 0) -> Item:
        """A float32 value of at least some rank; one time in ten of another float type."""
        if self.rng.random() < 0.1:
            return self.pick(lambda item: item.is_float and item.rank >= rank, *fits)
        return self.pick(lambda item: item.dtype is DType.FLOAT32 and item.rank >= rank, *fits)

    def axis(self, item: Item, fixed: bool = False) -> int:
        """An axis, from the front or the back; with `fixed`, one whose extent is known."""
        axes = [a for a in range(item.rank) if not fixed or item.fixed(a)]
        if not axes:
            raise Rejected
        axis = self.rng.choice(axes)
        return axis if self.rng.random() < 0.5 else axis - item.rank

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def weight(self, *shape: int, like: Item | None = None, low: float | None = None) -> Value:
        """A random constant, normal with a deviation of 0.5, or uniform between `low` and `low` + 1."""
        uniform = torch.rand(shape, generator=self.noise)
        data = torch.randn(shape, generator=self.noise) * 0.5 if low is None else uniform + low
        return self.b.constant(data, like=None if like is None else like.value)

    def full(self, number: float, *shape: int, like: Item) -> Value:
        return self.b.constant(torch.full(shape, number), like=like.value)

    def ints(self, numbers: Any, dtype: torch.dtype = torch.int64) -> Value:
        return self.b.constant(torch.tensor(numbers, dtype=dtype))


def check_type(value: Value, result: Any, binding: dict[str, int]) -> None:
    """The inferred type, with sizes for its names, is that of the tensor."""
    if not isinstance(result, torch.Tensor) or not isinstance(value.type, TensorType):
        return
    where = value.producer.describe() if value.producer is not None else value.name
    assert value.dtype.torch == result.dtype, f"{where}: inferred {value.type}, computed {result.dtype}"
    if value.shape is None:
        return
    inferred = [None if d is None else D.substitute(d, binding) for d in value.shape]
    actual = list(result.shape)
    fits = len(inferred) == len(actual) and all(
        not isinstance(a, int) or a == b for a, b in zip(inferred, actual, strict=True)
    )
    assert fits, f"{where}: inferred {value.type}, computed {actual} at {binding}"
    if value.known is not None and result.dtype == torch.int64:
        for known, number in zip(value.known.flat, result.reshape(-1).tolist(), strict=True):
            bound = None if known is None else D.substitute(known, binding)
            assert not isinstance(bound, int) or bound == number, f"{where}: known as {known}, computed {number}"


def describe(node: Node) -> str:
    """A node in one line, for reports."""
    return f"{node.op}({', '.join(str(v.type) if v is not None else '-' for v in node.inputs)}) {dict(node.attributes)}"
