"""Input channels of layers: where weights have them, and having a layer read them several times."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from graphopt.ir import Graph, Node, Value
from graphopt.ops import record_of
from graphopt.ops.builder import Builder
from graphopt.passes.quantize.recovery.channels import axis_in, counterpart
from graphopt.passes.quantize.recovery.layers import Layer, layer_of


def is_dense(layer: Layer) -> bool:
    """True when every output of a layer sums over all of its input channels."""
    return not layer.linear.is_convolution or layer.linear.group == 1


def dim_in(layer: Layer) -> int:
    """Dimension of the weight, as stored, that has the input channels of a dense layer."""
    if layer.linear.is_convolution:
        return 1 if layer.node.op == "Conv" else 0
    return 1 if layer.linear.transposed else 0


def replace_data(constant: Value, data: torch.Tensor) -> None:
    """Gives a constant other numbers, of another shape."""
    constant.data = data
    constant.type = constant.tensor_type.with_shape(data.shape)


def repeat_inputs(graph: Graph, layer: Layer, copies: torch.Tensor, by: str) -> None:
    """Has a layer read each of its input channels as many times as `copies` says; its weight is not touched.

    Copies are made with the channels, at no cost but theirs, where only operators that treat every channel alike and
    for itself stand between the layer and the one that makes them, and nothing else reads these values. Elsewhere a
    Gather makes them.

    Args:
        graph: the graph.
        layer: a dense layer of it.
        copies: [in], 1 or more for each channel.
        by: name of the pass.
    """
    value, path = layer.node.operand(0), _Path(len(copies))
    if path.reaches_maker(value, axis_in(layer)):
        path.repeat(copies)
        return
    op = Builder(graph, layer.node, layer.node.origin.touched_by(by))
    index = torch.arange(len(copies)).repeat_interleave(copies)
    layer.node.set_input(0, op.Gather(value, index, axis=axis_in(layer)))


@dataclass
class _Path:
    """What lies between a layer and the one that makes its input channels.

    Attributes:
        size: number of channels.
        constants: those with a number, row or matrix for each channel, and the dimension that has them.
        depthwise: convolutions with a group for each channel.
    """

    size: int
    constants: dict[Value, int] = field(default_factory=dict)
    depthwise: list[Node] = field(default_factory=list)

    def repeat(self, copies: torch.Tensor) -> None:
        for constant, dim in self.constants.items():
            assert constant.data is not None, "paths have constants with data"
            replace_data(constant, constant.data.detach().repeat_interleave(copies, dim))
        for node in self.depthwise:
            node.attributes["group"] = int(copies.sum())

    def reaches_maker(self, value: Value, dim: int) -> bool:
        """Follows the channels of `value`, along `dim`, to a layer that makes them; false where one cannot."""
        node = value.producer
        if node is None or len(value.uses) != 1 or value.is_output or value is not node.outputs[0]:
            return False
        layer = layer_of(node)
        if layer is not None:
            return self._made_by(layer, dim)
        record = record_of(node)
        if record is None or record.random or not (record.elementwise or record.homogeneous):
            return False
        flowing = [operand for operand in node.inputs if operand is not None and not operand.is_constant]
        constants = [operand for operand in node.inputs if operand is not None and operand.is_constant]
        if len(flowing) != 1 or not all(self._is_repeatable(each, value, dim) for each in constants):
            return False
        before = counterpart(node, value, dim, flowing[0])
        return before is not None and self.reaches_maker(flowing[0], before)

    def _made_by(self, layer: Layer, dim: int) -> bool:
        linear, node = layer.linear, layer.node
        depthwise = not is_dense(layer) and node.op == "Conv" and linear.group == linear.channels_in
        if dim != linear.axis or linear.channels_out != self.size or layer.pair is not None:
            return False
        if linear.bias is not None and not self._has_channels(linear.bias, (linear.bias.rank or 0) - 1):
            return False
        if depthwise and linear.group == self.size:
            self.constants[layer.weight] = 0
            self.depthwise.append(node)
            return self.reaches_maker(node.operand(0), axis_in(layer))
        self.constants[layer.weight] = 1 - dim_in(layer)
        return is_dense(layer)

    def _is_repeatable(self, operand: Value, result: Value, dim: int) -> bool:
        """True for a constant that broadcasts over the channels of an operator's result or can be repeated with them.

        Integers are shapes and axes, which may count channels.
        """
        return operand.dtype.is_float and self._has_channels(operand, dim - (result.rank or 0) + (operand.rank or 0))

    def _has_channels(self, constant: Value, dim: int) -> bool:
        data = constant.data
        if data is None:
            return False
        if dim < 0 or data.shape[dim] != self.size:
            return dim < 0 or data.shape[dim] == 1
        self.constants[constant] = dim
        return len(constant.uses) == 1 and not constant.is_output
