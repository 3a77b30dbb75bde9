"""Reading targets from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from graphopt.errors import OptionError, nearest
from graphopt.ir import DType
from graphopt.targets.rules import TERMS, CostPair, InputRole, OperatorRule, Role, Scheme, Target

_FOLDER = Path(__file__).parent
_KEYS = (
    "name", "doc", "absorb", "activation", "weight", "bias", "borders", "operators", "passthrough_follows_readers",
)  # fmt: skip


def available() -> list[str]:
    """Names of the targets that come with graphopt."""
    return sorted(file.stem for file in _FOLDER.glob("*.toml"))


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
        return _target(tomllib.loads(path.read_text(encoding="utf8")))
    except KeyError as error:
        problem = f"{error.args[0]} is missing"
    except (ValueError, TypeError, AttributeError, UnicodeDecodeError) as error:  # TOMLDecodeError is a ValueError
        problem = str(error)
    raise OptionError(
        f"target file {path.name} is not valid: {problem}", where="target", hint="see graphopt/targets/ort-cpu.toml"
    )


def _target(raw: Mapping[str, Any]) -> Target:
    _known(raw, _KEYS, "")
    bias = raw.get("bias", {}).get("dtype", "float32")
    borders = raw.get("borders", {})
    _known(borders, ("quantize", "dequantize"), "borders.")
    return Target(
        name=raw["name"],
        doc=raw["doc"],
        activation=_scheme(raw["activation"], "activation."),
        weight=_scheme(raw["weight"], "weight."),
        bias=None if bias == "float32" else _dtype(bias, "bias."),
        operators={op: _rule(op, table) for op, table in raw["operators"].items()},
        absorb=frozenset(raw.get("absorb", ())),
        quantize=_terms(borders.get("quantize", {}), "borders.quantize."),
        dequantize=_terms(borders.get("dequantize", {}), "borders.dequantize."),
        passthrough_follows_readers=bool(raw.get("passthrough_follows_readers", False)),
    )


def _known(raw: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    for key in raw:
        if key not in keys:
            raise ValueError(f"{where}{key} is not a key; {nearest(key, keys) or 'the keys are: ' + ', '.join(keys)}")


def _dtype(name: str, where: str) -> DType:
    try:
        return DType.parse(name)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{where}dtype is '{name}', which is not an element type") from error


def _scheme(raw: Mapping[str, Any], where: str) -> Scheme:
    _known(raw, [field.name for field in fields(Scheme)], where)
    if "dtype" not in raw:
        raise KeyError(f"{where}dtype")
    scheme = Scheme(**{**raw, "dtype": _dtype(raw["dtype"], where)})
    if scheme.bits and not 2 <= scheme.bits <= scheme.dtype.bits:
        raise ValueError(f"{where}bits is {scheme.bits}; {scheme.dtype} has 2 to {scheme.dtype.bits}")
    return scheme


def _rule(op: str, raw: Mapping[str, Any]) -> OperatorRule:
    where = f"operators.{op}."
    _known(raw, [field.name for field in fields(OperatorRule) if field.name != "op"], where)
    for key in ("role", "inputs"):
        if key not in raw:
            raise KeyError(f"{where}{key}")
    _one_of(raw["role"], get_args(Role), f"{where}role")
    for role in raw["inputs"]:
        _one_of(role, get_args(InputRole), f"{where}inputs")
    pairs = {key: _cost(raw[key], f"{where}{key}.") for key in ("cost", "depthwise", "grouped") if key in raw}
    lists = {key: tuple(raw[key]) for key in ("inputs", "float_output_unless") if key in raw}
    return OperatorRule(op=op, **{**raw, **pairs, **lists})


def _one_of(value: str, allowed: Iterable[str], where: str) -> None:
    if value not in allowed:
        raise ValueError(f"{where} has '{value}', not one of {', '.join(allowed)}")


def _cost(raw: Mapping[str, Any], where: str) -> CostPair:
    keys = [field.name for field in fields(CostPair)]
    _known(raw, keys, where)
    return CostPair(*(_terms(raw.get(key, {}), f"{where}{key}.") for key in keys))


def _terms(raw: Mapping[str, Any], where: str) -> dict[str, float]:
    _known(raw, TERMS, where)
    return {term: float(value) for term, value in raw.items()}
