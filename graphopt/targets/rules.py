"""What a target says: schemes of numbers, rules of operators, costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from graphopt.ir import DType, Node
from graphopt.ops import attribute

Role: TypeAlias = Literal["compute", "join", "passthrough"]
InputRole: TypeAlias = Literal["activation", "weight", "bias", "float"]

#: What a cost may be made of; see ort-cpu.toml.
TERMS = ("call", "mac", "element", "input", "tap", "window", "weight")


@dataclass(frozen=True)
class Scheme:
    """How one kind of tensor is quantized.

    Attributes:
        dtype: of the stored integers.
        symmetric: zero point at 0 (signed types).
        per_channel: a scale per index of the weight's axis; otherwise one for the tensor.
        bits: bits in use; 0 uses all that the type has. Fewer on processors whose integer products saturate. Scales are
            made for so many; what lies outside the range still saturates where the type does (ONNX has no way to say
            otherwise), so fewer bits than the type's are for weights, which are never outside.
    """

    dtype: DType
    symmetric: bool = False
    per_channel: bool = False
    bits: int = 0

    @property
    def limits(self) -> tuple[int, int]:
        """The least and greatest integer in use; symmetric schemes leave out the least of a signed type."""
        bits = self.bits or self.dtype.bits
        if self.dtype.name.startswith("UINT"):
            return 0, 2**bits - 1
        top = 2 ** (bits - 1) - 1
        return (-top if self.symmetric else -top - 1), top


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


@dataclass(frozen=True)
class OperatorRule:
    """What a target does with one operator; see ort-cpu.toml for the meaning of the fields.

    Attributes:
        op: operator.
        role: "compute", "join" or "passthrough".
        inputs: roles of the inputs.
        axis: of the weight, or a table that gives it by an attribute.
        cost: of a node.
        depthwise: cost of a convolution with one input channel per group.
        grouped: cost of a convolution with more than one group.
        float_output: the integer kernel can write floats.
        float_output_unless: readers that prevent that.
        share_scale: inputs and outputs have one scale.
        full_rank_bias: constants added to the float output get its rank.
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
    share_scale: bool = False
    full_rank_bias: bool = False

    def input_role(self, index: int) -> InputRole:
        """Role of input `index`; inputs beyond the list are activations for a join."""
        if index < len(self.inputs):
            return self.inputs[index]
        return "activation" if self.role == "join" else "float"

    def weight_axis(self, node: Node, rank: int) -> int:
        """The dimension of the node's weight that is quantized per index."""
        axis = self.axis
        if not isinstance(axis, int):
            axis = int(axis[str(attribute(node, axis["attribute"]))])
        return axis % rank

    def writes_floats(self, node: Node) -> bool:
        """True when the integer kernel can leave this node's output float."""
        return self.float_output and not any(user.op in self.float_output_unless for user in node.output.users)

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

    def rule(self, node: Node) -> OperatorRule | None:
        """The rule for a node, if the target has one."""
        return self.operators.get(node.op) if not node.domain else None
