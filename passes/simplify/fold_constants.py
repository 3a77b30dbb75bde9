"""Constant folding, bounded: the graph is computed ahead of time only where that does not make the model larger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from graphopt.analysis import propagate
from graphopt.errors import GraphoptError
from graphopt.ir import Graph, Node, TensorType, Value
from graphopt.ops import execute, record_of
from graphopt.ops.update import infer_node
from graphopt.pipeline import Changes, Context, Pass, register
from graphopt.rewrite import is_trainable, sweep

# A quantized weight is small because its DequantizeLinear is still there; a fake-quantized one trains because both are.
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
# What only repeats numbers is smaller as an operator.
_SPREADERS = frozenset({"Expand", "Tile", "ConstantOfShape", "Range", "Pad", "Resize", "Upsample", "EyeLike", "OneHot"})
_LEAST_SHARE = 1 << 14


@register("fold-constants")
@dataclass(frozen=True)
class FoldConstants(Pass):
    """Compute what depends on constants alone, where the results are hardly larger than what they replace.

    Results that hang together count together: slices of a weight that are put back in another order, say.

    Random operators, quantizers and operators with bodies are never folded. What depends on a trainable parameter is
    kept (the transposed weight of a linear layer, say), because the parameter would leave the ``state_dict``; constants
    of an ONNX model are no trainable parameters. An initializer that is also a graph input is no constant.

    Attributes:
        growth: bytes by which a result may exceed the constants that it makes superfluous.
        share: how much all constants together may grow beyond that, as a part of their bytes (at least 16 KiB), for
            results that are looked up or computed and leave no large constant behind. Never for operators that only
            repeat numbers: Expand, Tile, ConstantOfShape, Range, Pad and Resize stay.
        parameters: fold what depends on trainable parameters, too.
        memory: most bytes that a single intermediate result may take while folding.
    """

    growth: int = 1024
    share: float = 0.01
    parameters: bool = False
    memory: int = 1 << 26

    def run(self, graph: Graph, context: Context) -> Changes:
        propagate(graph)
        folder = _Folder(self, sum(_bytes(v.tensor_type) for v in _tensors(graph)))
        for node in graph.walk():
            folder.compute(node)
        folded = sum(folder.fold_together(values) for values in folder.components())
        folded += sum(folder.fold(value) for value in list(folder.results))
        sweep(folder.replaced)
        notes = tuple(f"{count} not folded: {reason}" for reason, count in folder.obstacles.most_common())
        return Changes(bool(folded), {"folded": folded}, notes)


class _Folder:
    """Results are computed where they are possible and small enough to compute, and kept where they pay."""

    def __init__(self, options: FoldConstants, bytes_before: int) -> None:
        self.options = options
        self.spare = max(_LEAST_SHARE, int(options.share * bytes_before)) if options.share else 0
        self.results: dict[Value, torch.Tensor] = {}
        self.replaced: dict[Value, None] = {}
        self.tried: set[Value] = set()
        self.spread: set[Value | None] = set()
        self.obstacles: Counter[str] = Counter()

    def compute(self, node: Node) -> None:
        """Computes a node whose inputs are all constants or results."""
        record = record_of(node)
        if record is None or record.compute is None or record.random or node.bodies or node.op in _QUANTIZERS:
            return
        inputs = [None if value is None else self._tensor(value) for value in node.inputs]
        if any(value is not None and tensor is None for value, tensor in zip(node.inputs, inputs, strict=True)):
            return
        if self._bytes_ahead(node, inputs) > max(
            self.options.memory, 2 * sum(t.nbytes for t in inputs if t is not None)
        ):
            self.obstacles[f"the result of {node.op} is larger than memory={self.options.memory} allows"] += 1
            return
        try:
            with torch.no_grad():
                outputs = execute(node, inputs)
        except (GraphoptError, RuntimeError, ArithmeticError, TypeError, ValueError, IndexError) as error:
            self.obstacles[f"{node.op} cannot be computed ({type(error).__name__}: {error})"] += 1
            return
        if node.op in _SPREADERS or any(value in self.spread for value in node.inputs):
            self.spread.update(node.outputs)
        for value, tensor in zip(node.outputs, outputs, strict=False):
            if isinstance(tensor, torch.Tensor) and isinstance(value.type, TensorType):
                self.results[value] = tensor

    def _tensor(self, value: Value) -> torch.Tensor | None:
        if value in self.results:
            return self.results[value]
        if not value.is_constant or (is_trainable(value) and not self.options.parameters):
            return None
        return None if value.data is None or value.data.is_meta else value.data

    def _bytes_ahead(self, node: Node, inputs: list[torch.Tensor | None]) -> int:
        """Bytes of the outputs, from their types; 0 when not even the contents of the inputs tell them."""
        if not all(value.tensor_type.is_static for value in node.outputs):
            constants = [
                None if t is None or v is None else Value.constant(t, dtype=v.dtype)
                for t, v in zip(inputs, node.inputs, strict=True)
            ]
            node = Node(node.op, constants, dict(node.attributes), len(node.outputs), domain=node.domain)
            infer_node(node)
        return sum(_bytes(value.tensor_type) for value in node.outputs)

    def components(self) -> list[list[Value]]:
        """Results that hang together: one is computed from the other, or both from the same large constant."""
        parent: dict[Value, Value] = {}

        def find(value: Value) -> Value:
            while parent.setdefault(value, value) is not value:
                parent[value] = parent[parent[value]]
                value = parent[value]
            return value

        for value in self.results:
            for source in value.producer.inputs if value.producer is not None else ():
                if source is not None and (source in self.results or self._is_large(source)):
                    parent[find(source)] = find(value)
        found: dict[Value, list[Value]] = {}
        for value in self.results:
            found.setdefault(find(value), []).append(value)
        return list(found.values())

    def fold_together(self, values: list[Value]) -> int:
        """Replaces all results of a component that something else reads by constants, if that pays.

        Returns the number of values replaced.
        """
        needed = [value for value in values if self._is_needed(value)]
        nodes = dict.fromkeys(value.producer for value in values if value.producer is not None)
        sources = dict.fromkeys(v for node in nodes for v in node.inputs if v is not None and v.is_constant)
        going = [v for v in sources if not v.is_output and all(user in nodes for user in v.users)]
        freed = sum(_bytes(v.tensor_type) for v in going)
        size = sum(self._size(value) for value in needed)
        allowed = self.options.growth + freed
        if not any(value in self.spread for value in values) and not any(map(self._is_large, sources.keys() - going)):
            allowed += self.spare
        if not needed or size > allowed or not all(map(self._fits, needed)):
            return 0
        self.spare -= max(size - self.options.growth - freed, 0)
        for value in needed:
            self._put(value)
        self.tried.update(values)
        return len(needed)

    def _is_large(self, value: Value) -> bool:
        return _bytes(value.tensor_type) > self.options.growth

    def _is_needed(self, value: Value) -> bool:
        return bool(value.uses) and (value.is_output or not all(self._is_computed(user) for user in value.users))

    def _size(self, value: Value) -> int:
        return -(-self.results[value].numel() * value.dtype.bits // 8)

    def fold(self, value: Value) -> int:
        """Replaces a result that something outside reads by a constant, or else what it is computed from, if that pays.

        Returns the number of values replaced.
        """
        producer = value.producer
        if producer is None or not self._is_needed(value):
            return 0
        folded = 0
        stack = [value]
        while stack:
            each = stack.pop()
            if each in self.tried or each not in self.results:
                continue
            self.tried.add(each)
            if self._replace(each):
                folded += 1
            elif each.producer is not None:
                stack.extend(v for v in each.producer.inputs if v is not None)
        return folded

    def _is_computed(self, node: Node) -> bool:
        return any(value in self.results for value in node.outputs)

    def _replace(self, value: Value) -> bool:
        if not self._fits(value):
            return False
        size, allowed = self._size(value), self.options.growth + self._freed(value)
        if size > allowed:
            return False
        self._put(value)
        return True

    def _fits(self, value: Value) -> bool:
        return value.graph is not None and _is_as_declared(self.results[value], value.tensor_type)

    def _put(self, value: Value) -> None:
        graph = value.graph
        assert graph is not None, "it fits"
        constant = graph.add_constant(_compact(self.results[value]), value.name, dtype=value.dtype)
        value.replace_uses(constant)
        self.replaced[value] = None

    def _freed(self, value: Value) -> int:
        """Bytes of the constants that lead to `value` and to nothing else."""
        freed = 0
        stack = [value]
        while stack:
            each = stack.pop()
            if each.is_constant:
                freed += _bytes(each.tensor_type)
            elif each.producer is not None and sum(bool(out.uses) for out in each.producer.outputs) <= 1:
                stack.extend(v for v in _once(each.producer.inputs) if len(v.users) == 1 and not v.is_output)
        return freed


def _tensors(graph: Graph) -> Iterable[Value]:
    return (v for scope in graph.graphs() for v in scope.constants if isinstance(v.type, TensorType))


def _once(values: Iterable[Value | None]) -> list[Value]:
    return list(dict.fromkeys(value for value in values if value is not None))


def _bytes(kind: TensorType) -> int:
    return -(-kind.numel * kind.dtype.bits // 8) if isinstance(kind.numel, int) else 0


def _is_as_declared(tensor: torch.Tensor, kind: TensorType) -> bool:
    wanted = kind.shape if kind.shape is not None else tuple(tensor.shape)
    return kind.dtype.bits > 0 and tensor.dtype == kind.dtype.torch and len(wanted) == tensor.dim() and all(
        not isinstance(want, int) or want == have for want, have in zip(wanted, tensor.shape, strict=True)
    )  # fmt: skip


def _compact(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor without the larger storage that it may be a view of."""
    tensor = tensor.detach().contiguous()
    return tensor if tensor.untyped_storage().nbytes() <= tensor.nbytes else tensor.clone()
