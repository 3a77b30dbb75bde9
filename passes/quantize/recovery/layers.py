"""Linear layers of a graph, float or behind Q/DQ pairs, for passes that change their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.ir import Graph, Node, Value
from graphopt.ops import attribute
from graphopt.passes.fuse.linear import Linear
from graphopt.passes.quantize.pairs import Pair

_PRODUCTS = ("Gemm", "MatMul")
_CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product with a constant weight of its own.

    Attributes:
        linear: the node, with its weight and bias as constants.
        pair: the Q/DQ pair between the constant and the node, if there is one.
    """

    linear: Linear
    pair: Pair | None

    @property
    def node(self) -> Node:
        return self.linear.node

    @property
    def weight(self) -> Value:
        return self.linear.weight


def layer_of(node: Node) -> Layer | None:
    """The layer that `node` is; ``None`` when it is none, or its weight is not a float constant that it alone reads."""
    if node.domain or node.op not in (*_PRODUCTS, *_CONVOLUTIONS) or node.output.rank is None:
        return None
    if node.op == "Gemm" and attribute(node, "transA"):
        return None
    weight, view, pair = _behind(node.operand(1))
    if not weight.is_constant or weight.data is None or not weight.dtype.is_float or len(weight.uses) != 1:
        return None
    if node.op in _PRODUCTS and weight.rank != 2:
        return None
    bias = node.input(2)
    if bias is not None and not bias.is_constant:
        return None
    transposed = view or (node.op == "Gemm" and bool(attribute(node, "transB")))
    return Layer(Linear(node, weight, bias, transposed, view), pair)


def _behind(value: Value) -> tuple[Value, bool, Pair | None]:
    """What a weight is made of: the constant, whether a Transpose turns it, and its Q/DQ pair."""
    view, pair = False, None
    while (node := value.producer) is not None and not node.domain and len(value.uses) == 1:
        if node.op == "Transpose" and node.operand(0).rank == 2 and not view:
            view = True
        elif node.op == "DequantizeLinear" and pair is None and _quantizer(node) is not None:
            pair = Pair(node.operand(0).producer or node, node)
            node = pair.quantize
        elif node.op in ("Max", "Min") and pair is not None:
            pass  # the bounds of fewer bits than the type has
        else:
            break
        value = node.operand(0)
    return value, view, pair


def _quantizer(dequantize: Node) -> Node | None:
    node = dequantize.operand(0).producer
    if node is None or node.op != "QuantizeLinear" or len(node.output.uses) != 1 or node.input(2) is None:
        return None
    return node


def layers(graph: Graph) -> Iterator[Layer]:
    """All layers of the outermost graph, in topological order."""
    for node in graph.nodes:
        layer = layer_of(node)
        if layer is not None:
            yield layer


def quantized_layers(graph: Graph) -> Iterator[Layer]:
    """The layers whose weights are behind Q/DQ pairs."""
    return (layer for layer in layers(graph) if layer.pair is not None)
