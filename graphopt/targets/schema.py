"""What a target's table may hold: checks and conversion of parsed TOML. docs/quantization.md explains the fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, get_args

from graphopt.errors import nearest
from graphopt.ir import DType
from graphopt.ops import find
from graphopt.targets.rules import (
    TERMS,
    CostPair,
    Fixed,
    InputRole,
    OperatorRule,
    Role,
    Scheme,
    Sharing,
    Target,
    WeightOnly,
)  # fmt: skip

#: The keys of a file; `extends` and `without` are gone when a target is made.
KEYS = (
    "name", "doc", "extends", "without", "absorb", "activation", "weight", "bias", "borders", "operators",
    "passthrough_follows_readers", "opset", "weight_only", "dynamic_lstm", "fused",
)  # fmt: skip

_RULE_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "role": str, "inputs": list, "axis": (int, Mapping), "cost": Mapping, "depthwise": Mapping, "grouped": Mapping,
    "float_output": bool, "float_output_unless": list, "share_scale": str, "full_rank_bias": bool, "residual": bool,
    "per_channel": bool, "min_inputs": int, "min_outputs": int, "sums_over": int, "absorb": list, "output": Mapping,
    "float_absorb": Mapping,
}  # fmt: skip
_SCHEME_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "dtype": str, "symmetric": bool, "per_channel": bool, "bits": int, "block": int,
}  # fmt: skip
_TOP_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "name": str, "doc": str, "absorb": list, "opset": int, "operators": Mapping, "passthrough_follows_readers": bool,
    "weight_only": str, "dynamic_lstm": bool, "fused": list, "bias": Mapping, "borders": Mapping,
}  # fmt: skip
_WORDS = {str: "text", list: "a list", int: "a whole number", bool: "true or false", Mapping: "a table"}


def known(raw: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    """Raises ValueError for a key that is not among `keys`, with the nearest one."""
    for key in raw:
        if key not in keys:
            raise ValueError(f"{where}{key} is not a key; {nearest(key, keys) or 'the keys are: ' + ', '.join(keys)}")


def target_of(raw: Mapping[str, Any]) -> Target:
    """The target that a complete table describes.

    Raises:
        KeyError: a key is missing.
        ValueError: a key that does not exist, or a value that is not allowed.
        TypeError: a value of another type than the key's.
    """
    _complete(raw, ("name", "doc", "activation", "weight", "operators"), "")
    _typed(raw, _TOP_TYPES, "")
    borders = raw.get("borders", {})
    known(borders, ("quantize", "dequantize"), "borders.")
    _one_of(raw.get("weight_only", "DequantizeLinear"), get_args(WeightOnly), "weight_only")
    target = Target(
        name=raw["name"],
        doc=raw["doc"],
        activation=_scheme(raw["activation"], "activation."),
        weight=_scheme(raw["weight"], "weight."),
        bias=_bias(raw.get("bias", {})),
        operators={op: _rule(op, table) for op, table in raw["operators"].items()},
        absorb=_operators(raw.get("absorb", ()), "absorb"),
        quantize=_terms(borders.get("quantize", {}), "borders.quantize."),
        dequantize=_terms(borders.get("dequantize", {}), "borders.dequantize."),
        passthrough_follows_readers=raw.get("passthrough_follows_readers", False),
        opset=raw.get("opset", 0),
        weight_only=raw.get("weight_only", "DequantizeLinear"),
        dynamic_lstm=raw.get("dynamic_lstm", False),
        fused=frozenset(raw.get("fused", ())),
    )
    _check_schemes(target)
    return target


def _check_schemes(target: Target) -> None:
    for name, scheme in (("activation", target.activation), ("weight", target.weight)):
        if target.opset and scheme.opset > target.opset:
            raise ValueError(
                f"{name} needs opset {scheme.opset} ({scheme.dtype}{', blocks' if scheme.block else ''}), "
                f"and opset is {target.opset}"
            )
    if target.activation.per_channel or target.activation.block:
        raise ValueError("activation has one scale for a tensor: per_channel and block are for weight")


def _bias(raw: Mapping[str, Any]) -> DType | None:
    known(raw, ("dtype",), "bias.")
    name = raw.get("dtype", "float32")
    _one_of(name, ("float32", "int32"), "bias.dtype")
    return None if name == "float32" else DType.INT32


def _scheme(raw: Mapping[str, Any], where: str) -> Scheme:
    _typed({where[:-1]: raw}, {where[:-1]: Mapping}, "")
    known(raw, _SCHEME_TYPES, where)
    _typed(raw, _SCHEME_TYPES, where)
    _complete(raw, ("dtype",), where)
    scheme = Scheme(**{**raw, "dtype": _dtype(raw["dtype"], where)})
    if scheme.bits and not 2 <= scheme.bits <= scheme.dtype.bits:
        raise ValueError(f"{where}bits is {scheme.bits}; {scheme.dtype} has 2 to {scheme.dtype.bits}")
    if scheme.block < 0 or (scheme.block and scheme.per_channel):
        raise ValueError(f"{where}block is {scheme.block}; give 1 or more, and leave out per_channel")
    if scheme.symmetric and scheme.dtype.name.startswith("UINT"):
        raise ValueError(f"{where}symmetric is for signed types, and dtype is {scheme.dtype}")
    if scheme.dtype.is_float and not scheme.symmetric:
        raise ValueError(f"{where}symmetric must be true: {scheme.dtype} has no zero point")
    return scheme


def _dtype(name: str, where: str) -> DType:
    try:
        dtype = DType.parse(name)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{where}dtype is '{name}', which is not an element type") from error
    if dtype.bits > 16 or (dtype.is_float and dtype.bits != 8) or not (dtype.is_float or dtype.is_integer):
        raise ValueError(f"{where}dtype is '{name}'; numbers are quantized to integers of 2 to 16 bits, or to float8")
    return dtype


def _rule(op: str, raw: Mapping[str, Any]) -> OperatorRule:
    where = f"operators.{op}."
    _operators([op], "operators")
    _typed({f"operators.{op}": raw}, {f"operators.{op}": Mapping}, "")
    known(raw, _RULE_TYPES, where)
    _typed(raw, _RULE_TYPES, where)
    _complete(raw, ("role", "inputs"), where)
    _one_of(raw["role"], get_args(Role), f"{where}role")
    _one_of(raw.get("share_scale", "no"), get_args(Sharing), f"{where}share_scale")
    for role in raw["inputs"]:
        _one_of(role, get_args(InputRole), f"{where}inputs")
    made: dict[str, Any] = {
        key: _cost(raw[key], f"{where}{key}.") for key in ("cost", "depthwise", "grouped") if key in raw
    }
    made |= {key: tuple(raw[key]) for key in ("inputs", "float_output_unless") if key in raw}
    if "absorb" in raw:
        made["absorb"] = _operators(raw["absorb"], f"{where}absorb")
    if "float_absorb" in raw:
        _operators(raw["float_absorb"], f"{where}float_absorb")
        made["float_absorb"] = {
            name: _terms(terms, f"{where}float_absorb.{name}.") for name, terms in raw["float_absorb"].items()
        }
    if "axis" in raw and not isinstance(raw["axis"], int):
        _complete(raw["axis"], ("attribute",), f"{where}axis.")
    if "output" in raw:
        made["output"] = _fixed(raw["output"], f"{where}output.")
    return OperatorRule(op=op, **{**raw, **made})


def _fixed(raw: Mapping[str, Any], where: str) -> Fixed:
    known(raw, [field.name for field in fields(Fixed)], where)
    _complete(raw, ("scale",), where)
    fixed = Fixed(float(raw["scale"]), int(raw.get("zero_point", 0)))
    if not fixed.scale > 0:
        raise ValueError(f"{where}scale is {fixed.scale:g}, not above 0")
    return fixed


def _operators(names: Iterable[Any], where: str) -> frozenset[str]:
    for name in names:
        if not isinstance(name, str) or find(name) is None:
            raise ValueError(f"{where} has '{name}', which is not an operator of ONNX")
    return frozenset(names)


def _one_of(value: str, allowed: Iterable[str], where: str) -> None:
    if value not in allowed:
        raise ValueError(f"{where} has '{value}', not one of {', '.join(allowed)}")


def _complete(raw: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    for key in keys:
        if key not in raw:
            raise KeyError(f"{where}{key}")


def _typed(raw: Mapping[str, Any], types: Mapping[str, type | tuple[type, ...]], where: str) -> None:
    for key, value in raw.items():
        allowed = types.get(key, object)
        allowed = allowed if isinstance(allowed, tuple) else (allowed,)
        # bool is an int to Python, and not to those who write files
        if not isinstance(value, allowed) or (isinstance(value, bool) and not {bool, object} & {*allowed}):
            words = " or ".join(_WORDS[each] for each in allowed)
            raise TypeError(f"{where}{key} is {value!r}, and has to be {words}")


def _cost(raw: Mapping[str, Any], where: str) -> CostPair:
    keys = [field.name for field in fields(CostPair)]
    known(raw, keys, where)
    return CostPair(*(_terms(raw.get(key, {}), f"{where}{key}.") for key in keys))


def _terms(raw: Mapping[str, Any], where: str) -> dict[str, float]:
    known(raw, TERMS, where)
    return {term: float(value) for term, value in raw.items()}
