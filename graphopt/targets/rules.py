"""What a target says: schemes of numbers, rules of operators, costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch

from graphopt.ir import DType, Node, Value
from graphopt.ops import attribute

Role: TypeAlias = Literal["compute", "join", "passthrough", "stored"]
InputRole: TypeAlias = Literal["activation", "weight", "operand", "bias", "float"]
Sharing: TypeAlias = Literal["no", "alike", "always"]
WeightOnly: TypeAlias = Literal["DequantizeLinear", "MatMulNBits"]

#: What a cost may be made of; see ort-cpu.toml.
TERMS = ("call", "mac", "element", "input", "tap", "window", "weight")


@dataclass(frozen=True)
class Scheme:
    """How one kind of tensor is quantized.

    Attributes:
        dtype: of the stored integers.
        symmetric: zero point at 0 (signed types).
        per_channel: a scale per index of the weight's axis; otherwise one for the tensor.
        block: elements along the dimension that products sum over that share a scale; 0 for no blocks. For weights.
        bits: bits in use; 0 uses all that the type has. Fewer on processors whose integer products saturate. Scales are
            made for so many; what lies outside the range still saturates where the type does (ONNX has no way to say
            otherwise), so fewer bits than the type's are for weights, which are never outside.
    """

    dtype: DType
    symmetric: bool = False
    per_channel: bool = False
    bits: int = 0
    block: int = 0

    @property
    def limits(self) -> tuple[int, int]:
        """The least and greatest number in use; symmetric schemes leave out the least of a signed integer type."""
        if self.dtype.is_float:
            greatest = int(torch.finfo(self.dtype.torch).max)
            return -greatest, greatest
        bits = self.bits or self.dtype.bits
        if self.dtype.name.startswith("UINT"):
            return 0, 2**bits - 1
        top = 2 ** (bits - 1) - 1
        return (-top if self.symmetric else -top - 1), top

    @property
    def opset(self) -> int:
        """The first opset of ONNX whose QuantizeLinear and DequantizeLinear know the scheme."""
        if self.block or self.dtype.bits not in (8, 32):
            return 25 if self.dtype.bits == 2 else 21
        return 19 if self.dtype.is_float else 13


@dataclass(frozen=True)
class Fixed:
    """The quantization that a kernel insists on for its output, whatever the data.

    Attributes:
        scale: of the output.
        zero_point: of the output.
    """

    scale: float
    zero_point: int = 0


@dataclass(frozen=True)
class CostPair:
    """Nanoseconds per unit of each term.

    Attributes:
        floats: of the float kernel.
        integers: of the integer kernel.
        entering: further ones of the integer kernel when its input comes from float.
    """

    floats: Mapping[str, float] = field(default_factory=dict)
    integers: Mapping[str, float] = field(default_factory=dict)
    entering: Mapping[str, float] = field(default_factory=dict)


def constant_source(value: Value) -> tuple[Value, list[Node]] | None:
    """The constant that `value` is, or is a transposition of, and the nodes in between (from the constant on)."""
    chain: list[Node] = []
    while value.producer is not None and value.producer.op == "Transpose" and len(value.uses) == 1:
        chain.append(value.producer)
        value = value.producer.operand(0)
    return (value, chain[::-1]) if value.is_constant else None


@dataclass(frozen=True)
class OperatorRule:
    """What a target does with one operator; see ort-cpu.toml for the meaning of the fields.

    Attributes:
        op: operator.
        role: "compute", "join", "passthrough", or "stored": computes floats, and its weights can be stored as integers.
        inputs: roles of the inputs.
        axis: of the weight, or a table that gives it by an attribute.
        cost: of a node.
        depthwise: cost of a convolution with one input channel per group.
        grouped: cost of a convolution with more than one group.
        float_output: the integer kernel can write floats.
        float_output_unless: readers that prevent that.
        share_scale: inputs and outputs have one scale: "always", or where they are "alike".
        full_rank_bias: constants added to the float output get its rank.
        residual: the kernel in front of it computes it on the way out: the input from there stays float.
        per_channel: overrides the weight scheme's.
        min_inputs: the node stays float when its weight sums over fewer channels.
        min_outputs: the node stays float when its weight has fewer output channels.
        sums_over: dimension of the weight that is summed over; by default the one beside `axis`.
        absorb: what its kernel computes on the way out, in place of the target's.
        float_absorb: what only the float kernel computes on the way out, with what it costs apart.
        output: the quantization of its output, when the kernel insists on one.
    """

    op: str
    role: Role
    inputs: tuple[InputRole, ...]
    axis: int | Mapping[str, Any] = 0
    cost: CostPair = CostPair()
    depthwise: CostPair | None = None
    grouped: CostPair | None = None
    float_output: bool = False
    float_output_unless: tuple[str, ...] = ()
    share_scale: Sharing = "no"
    full_rank_bias: bool = False
    residual: bool = False
    per_channel: bool | None = None
    min_inputs: int = 0
    min_outputs: int = 0
    sums_over: int | None = None
    absorb: frozenset[str] | None = None
    float_absorb: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    output: Fixed | None = None

    def input_role(self, index: int, value: Value | None = None) -> InputRole:
        """Role of input `index`; inputs beyond the list are activations for a join.

        An "operand" is a weight where `value` is a constant (or made of one), and an activation otherwise.
        """
        if index >= len(self.inputs):
            return "activation" if self.role == "join" else "float"
        role = self.inputs[index]
        if role == "operand" and value is not None:
            return "activation" if constant_source(value) is None else "weight"
        return role

    def weight_axis(self, node: Node, rank: int) -> int:
        """The dimension of the node's weight that is quantized per index."""
        axis = self.axis
        if not isinstance(axis, int):
            axis = int(axis[str(attribute(node, axis["attribute"]))])
        return axis % rank

    def reduced_axis(self, axis: int) -> int:
        """The dimension of a weight that products sum over, when `axis` is the one of its outputs."""
        if self.sums_over is not None:
            return self.sums_over
        return 1 - axis if axis in (0, 1) else axis - 1

    def writes_floats(self, node: Node) -> bool:
        """True when the integer kernel can leave this node's output float."""
        return self.float_output and not any(user.op in self.float_output_unless for user in node.output.users)

    def apart(self, node: Node) -> Mapping[str, float]:
        """The cost, by term of the node, of what its float kernel alone computes on the way out."""
        users = node.output.users
        alone = len(users) == 1 and isinstance(users[0], Node) and not users[0].domain
        return self.float_absorb.get(users[0].op, {}) if alone else {}

    def cost_of(self, node: Node) -> CostPair:
        """The cost table that fits the node."""
        groups = node.attributes.get("group", 1)
        if groups == 1:
            return self.cost
        shape = node.operand(1).shape
        if self.depthwise is not None and shape is not None and shape[1] == 1:
            return self.depthwise
        return self.grouped or self.cost


@dataclass(frozen=True)
class Target:
    """A deployment backend.

    Attributes:
        name: as in ``quantize{target=...}``.
        doc: one line.
        activation: scheme of activations.
        weight: scheme of weights.
        bias: type of stored biases; ``None`` leaves them float.
        operators: rules by operator.
        absorb: operators that a kernel computes on the way out.
        quantize: cost of getting from floats to integers.
        dequantize: cost of getting from integers to floats.
        passthrough_follows_readers: the backend puts passthroughs on integers where all readers are.
        opset: the newest opset that the backend reads; 0 for any.
        weight_only: how it wants weights stored whose products are in float: behind "DequantizeLinear", or in ONNX
            Runtime's "MatMulNBits".
        dynamic_lstm: it has ONNX Runtime's DynamicQuantizeLSTM.
        fused: operators of its own, of domain com.microsoft, that stand for several standard ones.
    """

    name: str
    doc: str
    activation: Scheme
    weight: Scheme
    bias: DType | None
    operators: Mapping[str, OperatorRule] = field(default_factory=dict)
    absorb: frozenset[str] = frozenset()
    quantize: Mapping[str, float] = field(default_factory=dict)
    dequantize: Mapping[str, float] = field(default_factory=dict)
    passthrough_follows_readers: bool = False
    opset: int = 0
    weight_only: WeightOnly = "DequantizeLinear"
    dynamic_lstm: bool = False
    fused: frozenset[str] = frozenset()

    @property
    def costed(self) -> bool:
        """True when the target knows what nodes cost; without, all that it can quantize is quantized."""
        return any(rule.cost.floats for rule in self.operators.values())

    def per_channel(self, rule: OperatorRule) -> bool:
        """Whether the rule's weights have a scale per index of their axis."""
        return self.weight.per_channel if rule.per_channel is None else rule.per_channel

    def absorbed_by(self, rule: OperatorRule) -> frozenset[str]:
        """Operators that the rule's kernel computes on the way out."""
        return self.absorb if rule.absorb is None else rule.absorb

    def rule(self, node: Node) -> OperatorRule | None:
        """The rule for a node, if the target has one."""
        return self.operators.get(node.op) if not node.domain else None
