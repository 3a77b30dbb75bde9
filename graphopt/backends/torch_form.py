"""Module forms: what a node is as an ``nn.Module`` with weights, and what matchers need to find out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from graphopt.ir import Node, Value
from graphopt.ops import attribute
from graphopt.ops.windows import same_pads, window

Unpack: TypeAlias = Callable[[torch.Tensor], Sequence[torch.Tensor]]
#: From the emitter and the fx node of a module's result to the fx node of a value.
Pick: TypeAlias = Callable[[Any, Any], Any]
Pack: TypeAlias = Callable[[Sequence[torch.Tensor]], torch.Tensor]


def _one(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    return (tensor,)


def _first(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return tensors[0]


@dataclass(frozen=True)
class Weight:
    """A constant of the graph and the tensors of a module that hold it.

    Attributes:
        value: the constant.
        leaves: names in the module; one, unless the constant packs several tensors.
        buffer: buffers rather than parameters.
        layout: "" when the one leaf holds the constant as it is; else a name for how it is laid out.
        unpack: from the constant to the leaves.
        pack: back again.
    """

    value: Value
    leaves: tuple[str, ...]
    buffer: bool = False
    layout: str = ""
    unpack: Unpack = _one
    pack: Pack = _first


@dataclass(frozen=True)
class Form:
    """A module that a node could be.

    Attributes:
        module: the class.
        options: its constructor arguments.
        weights: its parameters and buffers.
        inputs: what it is called with: values, or tuples of values.
        absorbed: further nodes that it stands for.
        extra: state that it has beyond the graph's constants.
        pad: amounts for ``F.pad`` before the call.
        results: values with what picks them out of the module's result; by default the node's output is the result.
    """

    module: Callable[..., nn.Module]
    options: Mapping[str, Any]
    weights: tuple[Weight, ...]
    inputs: tuple[Any, ...]
    absorbed: tuple[Node, ...] = ()
    extra: tuple[str, ...] = ()
    pad: tuple[int, ...] = ()
    results: tuple[tuple[Value, Pick], ...] = ()

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names of all tensors that the graph holds for the module."""
        return tuple(leaf for weight in self.weights for leaf in weight.leaves)

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for two forms that are the same module with the same weights."""
        weights = tuple((id(weight.value), weight.leaves, weight.layout) for weight in self.weights)
        return self.module, tuple(sorted(self.options.items(), key=lambda item: item[0])), weights


Matcher: TypeAlias = Callable[[Node], Iterator[Form]]


def is_weight(value: Value | None, node: Node) -> bool:
    """True for a float constant that lives in the graph of `node`."""
    return (
        value is not None
        and value.is_constant
        and value.data is not None
        and value.dtype.is_float
        and value.graph is node.graph
    )


def shape_of(value: Value) -> tuple[int, ...]:
    """Shape of a constant."""
    assert value.data is not None
    return tuple(value.data.shape)


def only_first_output(node: Node) -> bool:
    """True when nothing reads any output but the first."""
    return not any(value.uses for value in node.outputs[1:])


def plain(leaf: str, value: Value, buffer: bool = False) -> Weight:
    """A weight that the module holds as the graph does."""
    return Weight(value, (leaf,), buffer)


def weight_and_bias(weight: Value, bias: Value | None) -> tuple[Weight, ...]:
    """The two tensors that most layers have."""
    return (plain("weight", weight), *([] if bias is None else [plain("bias", bias)]))


def static_pads(node: Node, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]] | None:
    """Strides, dilations and pads of a convolution; ``None`` when automatic pads depend on sizes that are not known."""
    strides, dilations, pads, auto_pad = window(node, len(kernel))
    if auto_pad == "VALID":
        pads = [0] * 2 * len(kernel)
    if auto_pad.startswith("SAME"):
        extents = (node.operand(0).shape or ())[2:]
        if all(s == 1 for s in strides):
            extents = (1,) * len(kernel)  # the pads of a dense window do not depend on the extent
        if len(extents) != len(kernel) or not all(isinstance(e, int) for e in extents):
            return None
        pads = same_pads([e for e in extents if isinstance(e, int)], kernel, strides, dilations, auto_pad)
    return strides, dilations, pads


def is_filled(value: Value | None, number: float) -> bool:
    """True for a constant whose elements all equal `number`."""
    return value is not None and value.is_constant and value.data is not None and bool((value.data == number).all())


def short(number: float) -> float:
    """The shortest decimal that is the same float32: attributes come from files as float32."""
    return float(f"{number:.7g}")


def covers_trailing(node: Node, size: Sequence[int]) -> bool:
    """True when normalisation from the node's ``axis`` on is over dimensions of extents `size`."""
    axis, rank = attribute(node, "axis"), node.operand(0).rank
    return bool(axis == -len(size) or (rank is not None and axis % rank == rank - len(size)))


_ORDER_KEEPING = frozenset({"Unsqueeze", "Squeeze", "Reshape", "Flatten", "Identity"})


def peel(value: Value) -> Value:
    """What `value` is a row-major view of."""
    while value.producer is not None and not value.producer.domain and value.producer.op in _ORDER_KEEPING:
        value = value.producer.operand(0)
    return value


__all__ = [
    "Form", "Matcher", "Pack", "Pick", "Unpack", "Weight", "covers_trailing", "is_filled", "is_weight",
    "only_first_output", "peel", "plain", "shape_of", "short", "static_pads", "weight_and_bias",
]  # fmt: skip
