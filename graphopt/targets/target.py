"""Reading targets from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from graphopt.errors import OptionError, nearest
from graphopt.ir import DType, Node
from graphopt.ops import attribute

_FOLDER = Path(__file__).parent
_ROLES = ("compute", "join", "passthrough")
_INPUTS = ("activation", "weight", "bias", "float")


@dataclass(frozen=True)
class Scheme:
    """How one kind of tensor is quantized.

    Attributes:
        dtype: of the stored integers.
        symmetric: zero point at 0 (signed types).
        per_channel: a scale per index of the weight's axis; otherwise one for the tensor.
        bits: bits in use; fewer than the type has on processors whose int8 products saturate.
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
class OperatorRule:
    """What a target does with one operator; see ort-cpu.toml for the meaning of the fields."""

    op: str
    role: str
    inputs: tuple[str, ...]
    axis: int | Mapping[str, Any] = 0
    float_output: bool = False

    def input_role(self, index: int) -> str:
        """Role of input `index`; inputs beyond the list are as the last one where all are activations."""
        if index < len(self.inputs):
            return self.inputs[index]
        return "activation" if self.role == "join" else "float"

    def weight_axis(self, node: Node, rank: int) -> int:
        """The dimension of the node's weight that is quantized per index."""
        axis = self.axis
        if not isinstance(axis, int):
            axis = int(axis[str(attribute(node, axis["attribute"]))])
        return axis % rank


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
    """

    name: str
    doc: str
    activation: Scheme
    weight: Scheme
    bias: DType | None
    operators: Mapping[str, OperatorRule] = field(default_factory=dict)
    absorb: frozenset[str] = frozenset()


def available() -> list[str]:
    """Names of the targets that come with graphopt."""
    return sorted(file.stem for file in _FOLDER.glob("*.toml"))


@cache
def load_target(name: str) -> Target:
    """Reads a target: a name from `available`, or the path of a TOML file.

    Raises:
        OptionError: no such target, or a file that is not as it should be, with the key that is wrong.
    """
    path = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    if not path.is_file():
        hint = nearest(name, available()) or f"one of: {', '.join(available())}, or a .toml file"
        raise OptionError(f"there is no target '{name}'", where="target", hint=hint)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf8"))
        return _target(raw)
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise OptionError(
            f"target file {path.name} is not valid: {type(error).__name__}: {error}", where="target",
            hint="see graphopt/targets/ort-cpu.toml",
        ) from error  # fmt: skip


def _target(raw: Mapping[str, Any]) -> Target:
    bias = raw.get("bias", {}).get("dtype", "float32")
    return Target(
        name=raw["name"],
        doc=raw["doc"],
        activation=_scheme(raw["activation"]),
        weight=_scheme(raw["weight"]),
        bias=None if bias == "float32" else DType.parse(bias),
        operators={op: _rule(op, table) for op, table in raw["operators"].items()},
        absorb=frozenset(raw.get("absorb", ())),
    )


def _scheme(raw: Mapping[str, Any]) -> Scheme:
    return Scheme(**{**raw, "dtype": DType.parse(raw["dtype"])})


def _rule(op: str, raw: Mapping[str, Any]) -> OperatorRule:
    rule = OperatorRule(op=op, **{**raw, "inputs": tuple(raw["inputs"])})
    if rule.role not in _ROLES:
        raise ValueError(f"operators.{op}.role is '{rule.role}', not one of {', '.join(_ROLES)}")
    unknown = [role for role in rule.inputs if role not in _INPUTS]
    if unknown:
        raise ValueError(f"operators.{op}.inputs has '{unknown[0]}', not one of {', '.join(_INPUTS)}")
    return rule
