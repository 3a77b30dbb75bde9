"""Linear layers: convolutions and matrix products whose weights are constants, seen alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from graphopt.ir import Node, Value
from graphopt.ops import attribute
from graphopt.ops.builder import Builder
from graphopt.passes.fuse.affine import Affine, channel_vector
from graphopt.passes.fuse.constants import FoldingRule
from graphopt.rewrite import Failure, Match, Pattern, Patterns, Var


def convolution(op: Patterns, x: Any, w: Var, b: Any) -> Pattern:
    """Pattern of a Conv or ConvTranspose with constant weight and, at most, bias."""
    return op("Conv|ConvTranspose", x, op.constant(w), op.optional(op.constant(b))).named("linear")


def product(op: Patterns, x: Any, w: Var, b: Any, name: str = "linear") -> Pattern:
    """Pattern of a Gemm, or a MatMul with or without a bias added. Weight (or its transpose) and bias are constant."""
    weight = op.any(op.constant(w), op.Transpose(op.constant(w), perm=(1, 0)).named(f"{name}.view"))
    return op.any(
        op.Gemm(x, op.constant(w), op.optional(op.constant(b)), transA=0).named(name),
        op.Add(op.MatMul(x, weight).named(name), op.constant(b)),
        op.MatMul(x, weight).when(lambda node: not _has_bias(node)).named(name),
    )


def is_add(node: Node) -> bool:
    """True for ONNX's Add, as opposed to another domain's."""
    return node.op == "Add" and not node.domain


def _has_bias(matmul: Node) -> bool:
    """True when all that happens to a product is that a constant per feature is added: it is to be taken with that."""
    shape, users = matmul.output.shape, matmul.output.users
    if not shape or not isinstance(shape[-1], int) or len(users) != 1 or not is_add(users[0]):
        return False
    others = [value for value in users[0].inputs if value is not None and value is not matmul.output]
    return any(v.is_constant and channel_vector(v, len(shape), len(shape) - 1, shape[-1]) is not None for v in others)


def is_linear_output(value: Value) -> bool:
    """True for what comes out of a convolution or product, bias included, whose constant weight is its own."""
    node = value.producer
    if node is not None and is_add(node):
        factors = [each for each in node.inputs if each is not None and not each.is_constant]
        node = factors[0].producer if len(factors) == 1 and len(factors[0].uses) == 1 else None
        if node is None or node.op != "MatMul" or node.domain or not _has_bias(node):
            return False
    if node is None or node.domain or node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return False
    weight = node.operand(1)
    if weight.producer is not None and weight.producer.op == "Transpose" and not weight.producer.domain:
        weight = weight.producer.operand(0)
    return weight.is_constant and len(weight.uses) == 1


@dataclass(frozen=True)
class Linear:
    """A linear layer in a match.

    Attributes:
        node: the convolution or matrix product.
        weight: its constant weight, as stored.
        bias: its constant bias.
        transposed: a matrix that is stored as [out, in].
        view: the weight reaches the node through a Transpose.
    """

    node: Node
    weight: Value
    bias: Value | None
    transposed: bool = False
    view: bool = False

    @classmethod
    def of(cls, m: Match, w: str = "w", b: str = "b", name: str = "linear") -> Linear | Failure:
        """The layer `name` of a match with its weight and bias; a failure when it cannot be folded into."""
        node, weight, bias = m.node(name), m[w], m.get(b)
        view = m.has(f"{name}.view")
        if not weight.dtype.is_float or weight.data is None or node.output.rank is None:
            return m.fail("the weight is not made of floats, or the rank is not known")
        transposed = view or (node.op == "Gemm" and bool(attribute(node, "transB")))
        layer = cls(node, weight, bias, transposed, view)
        if not layer.is_convolution and weight.rank != 2:
            return m.fail("the weight is no matrix")
        if bias is not None and layer.bias_vector() is None:
            return m.fail("the bias is no number per channel")
        return layer

    @property
    def is_convolution(self) -> bool:
        return self.node.op in ("Conv", "ConvTranspose")

    @property
    def group(self) -> int:
        return int(attribute(self.node, "group"))

    @property
    def axis(self) -> int:
        """Dimension of the channels, going in and coming out, from the front."""
        return 1 if self.is_convolution else (self.node.output.rank or 0) - 1

    @property
    def channels_in(self) -> int:
        size = self._weight.shape
        if self.node.op == "Conv":
            return size[1] * self.group
        return size[1 if self.transposed else 0]

    @property
    def channels_out(self) -> int:
        size = self._weight.shape
        if self.node.op == "ConvTranspose":
            return size[1] * self.group
        return size[0 if self.transposed or self.node.op == "Conv" else 1]

    @property
    def _weight(self) -> torch.Tensor:
        data = self.weight.data
        assert data is not None, "Linear.of takes constants only"
        return data

    def numbers(self) -> torch.Tensor:
        """The weight in float64, as stored; of a Gemm, multiplied by alpha."""
        alpha = attribute(self.node, "alpha") if self.node.op == "Gemm" else 1.0
        numbers = self._weight.detach().to(torch.float64)
        return numbers if alpha == 1 else numbers * alpha

    def bias_vector(self) -> torch.Tensor | None:
        """The bias as float64 [out], of a Gemm multiplied by beta; ``None`` when it is no vector of channels."""
        if self.bias is None:
            return torch.zeros(self.channels_out, dtype=torch.float64)
        rank = 1 if self.is_convolution else self.node.output.rank
        vector = channel_vector(self.bias, rank, 0 if self.is_convolution else self.axis, self.channels_out)
        if vector is None or self.node.op != "Gemm":
            return vector
        return vector * float(attribute(self.node, "beta"))

    def spread_out(self, vector: torch.Tensor) -> torch.Tensor:
        """Numbers per output channel [out], shaped so that they broadcast against the weight."""
        weight = self._weight
        if self.node.op == "ConvTranspose":
            per_row = vector.reshape(self.group, 1, -1).expand(-1, weight.shape[0] // self.group, -1)
            return per_row.reshape(*weight.shape[:2], *[1] * (weight.dim() - 2))
        if self.is_convolution or self.transposed:
            return vector.reshape(-1, *[1] * (weight.dim() - 1))
        return vector

    def scaled_out(self, vector: torch.Tensor) -> torch.Tensor:
        """The weight in float64, as stored, with each output channel multiplied by its number in float64 [out]."""
        if self.node.op == "Gemm":
            vector = vector * float(attribute(self.node, "alpha"))
        return self._weight.detach() * self.spread_out(vector)

    def spread_in(self, vector: torch.Tensor) -> torch.Tensor:
        """Numbers per input channel [in], shaped so that they broadcast against the weight."""
        weight = self._weight
        if self.node.op == "Conv":
            per_row = vector.reshape(self.group, 1, -1).expand(-1, weight.shape[0] // self.group, -1)
            return per_row.reshape(*weight.shape[:2], *[1] * (weight.dim() - 2))
        if self.node.op == "Gemm" or self.node.op == "MatMul":
            return vector if self.transposed else vector[:, None]
        return vector.reshape(-1, *[1] * (weight.dim() - 1))

    def sum_over_inputs(self, products: torch.Tensor) -> torch.Tensor:
        """Sums a tensor shaped as the weight over all but the output channels: [out]. Not for ConvTranspose."""
        if self.is_convolution:
            return products.flatten(1).sum(1)
        return products.sum(1 if self.transposed else 0)

    @property
    def pads_nothing(self) -> bool:
        """A convolution that reads no zeros from beyond its input."""
        auto = self.node.attributes.get("auto_pad") or "NOTSET"
        return auto == "VALID" or (auto == "NOTSET" and not any(self.node.attributes.get("pads") or ()))


class LinearRule(FoldingRule):
    """A rule that changes the weight and the bias of a linear layer."""

    def rebuild(
        self, op: Builder, m: Match, layer: Linear, x: Value, weight: torch.Tensor | None, bias: torch.Tensor | None,
        **attributes: Any,
    ) -> Value | Failure:  # fmt: skip
        """The layer with new numbers.

        Args:
            op: builder; the nodes it makes belong to the layer's module from now on.
            m: the match.
            layer: the layer as it is.
            x: what it is applied to.
            weight: new weight in float64, shaped as the stored one; ``None`` leaves it.
            bias: new bias in float64, [out]; ``None`` leaves it.
            attributes: of the convolution, in place of those it has.
        """
        op.in_module(layer.node.origin.module)
        w: Value | Failure = layer.weight if weight is None else self.refold(op, m, layer.weight, weight)
        b: Value | Failure | None = layer.bias if bias is None else self._bias(op, m, layer, bias)
        if isinstance(w, Failure) or isinstance(b, Failure):
            return w if isinstance(w, Failure) else b if isinstance(b, Failure) else m.fail("")
        if layer.node.op == "MatMul":
            y = op.MatMul(x, op.Transpose(w, perm=(1, 0)) if layer.view else w)
            return y if b is None else op.Add(y, b)
        changed = attributes
        if layer.node.op == "Gemm":
            changed = {**({} if weight is None else {"alpha": None}), **({} if bias is None else {"beta": None})}
        return op.like(layer.node, x, w, b, **changed)

    def _bias(self, op: Builder, m: Match, layer: Linear, bias: torch.Tensor) -> Value | Failure | None:
        if layer.bias is None:
            return self.new_bias(op, m, layer.weight, bias) if bool(bias.any()) else None
        return self.refold(op, m, layer.bias, bias)

    def after(self, op: Builder, m: Match, layer: Linear, affine: Affine) -> Value | Failure:
        """The layer with `affine` applied to what comes out of it."""
        bias = layer.bias_vector()
        assert bias is not None, "Linear.of makes sure of that"
        weight = None if affine.scale is None else layer.scaled_out(affine.scale)
        scaled = bias if affine.scale is None else bias * affine.scale
        shifted = scaled if affine.shift is None else scaled + affine.shift
        return self.rebuild(op, m, layer, m["x"], weight, shifted)

    def before(self, op: Builder, m: Match, layer: Linear, affine: Affine) -> Value | Failure:
        """The layer with `affine` applied to what goes into it."""
        shifts = affine.shift is not None and bool(affine.shift.any())
        if shifts and layer.node.op == "ConvTranspose":
            return m.fail("the shift reaches the elements of a transposed convolution unevenly")
        if shifts and layer.is_convolution and not layer.pads_nothing:
            return m.fail("the convolution pads with zeros, which the shift does not reach")
        weight = layer.numbers()
        bias = layer.bias_vector()
        assert bias is not None, "Linear.of makes sure of that"
        if affine.shift is not None and shifts:
            bias = bias + layer.sum_over_inputs(weight * layer.spread_in(affine.shift))
        scaled = None if affine.scale is None else weight * layer.spread_in(affine.scale)
        return self.rebuild(op, m, layer, m["x"], scaled, bias if shifts else None)
