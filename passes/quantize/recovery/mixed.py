"""insert-mixed-qdq: as many bits for each weight as the outputs need, within a budget of size."""

from __future__ import annotations

import glob
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp

from graphopt.errors import OptionError, PassError
from graphopt.ir import Graph, Value
from graphopt.ir.names import unique_names
from graphopt.passes.quantize.fit import Search, storage
from graphopt.passes.quantize.placement import WeightSite
from graphopt.passes.quantize.recovery.effects import noise_ratio, powers
from graphopt.passes.quantize.recovery.fake import fake_quantized
from graphopt.passes.quantize.sites import Granularity, gather_weights, weight_sites
from graphopt.passes.quantize.weights import InsertWeightQDQ
from graphopt.pipeline import Changes, Context, Contract, Pass, register
from graphopt.runtime import run
from graphopt.targets import Scheme, load_target

_FLOAT = 32
#: (weight, bits) -> noise of the outputs, and size in bits.
_Table: TypeAlias = dict[Value, dict[int, tuple[float, int]]]


@register("insert-mixed-qdq")
@dataclass(frozen=True)
class InsertMixedQDQ(Pass):
    """Quantize weights with bits of their own each, chosen for the least noise of the outputs within a size.

    What each choice for each weight does to the outputs alone is measured on the run's data. Noises add up where they
    are small, so the best choice is an integer programme (as in HAWQ-V3, Yao et al. 2020, arXiv:2011.10680), which is
    solved exactly. Like `insert-weight-qdq` it leaves the weights float behind their pairs for `gptq`, `finetune` or
    `pack-weights`.

    Attributes:
        size: bytes of the weights afterwards, scales included, as a part of what they are in float.
        choices: bits to choose from, 2 to 16; 32 leaves a weight float.
        granularity: what has a scale, as in `insert-weight-qdq`.
        block: elements per block, which makes granularity "block".
        symmetric: no zero points.
        search: how ranges are found, as in `insert-weight-qdq`.
        batches: batches to measure on.
        ignore: patterns of node, module or tensor names that stay float, and do not count.
        operators: the operators whose weights to quantize; all that the target names when empty.
        target: name of a target, or the path of a TOML file.
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE
    needs: ClassVar[frozenset[str]] = frozenset({"data"})

    size: float = 0.2
    choices: tuple[int, ...] = (4, 8, 16, 32)
    granularity: Granularity = "channel"
    block: int = 0
    symmetric: bool = True
    search: Search = "mse"
    batches: int = 1
    ignore: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    target: str = "generic"

    def __post_init__(self) -> None:
        load_target(self.target)
        for name, good, hint in (
            ("size", 0 < self.size <= 1, "more than 0 and at most 1"),
            ("choices", bool(self.choices) and all(_is_width(b) for b in self.choices), "2 to 16, or 32 for float"),
            ("granularity", self.granularity != "global", "tensor, channel, block or element"),
            ("block", self.block >= 0, "0 or more"),
            ("batches", self.batches >= 1, "1 or more"),
        ):
            if not good:
                shown = getattr(self, name)
                raise OptionError(f"{name} is {shown}", where=f"insert-mixed-qdq{{{name}}}", hint=f"give {hint}")

    def run(self, graph: Graph, context: Context) -> Changes:
        target = load_target(self.target)
        gather_weights(graph, target)
        unique_names(graph)
        shared: Granularity = "block" if self.block else self.granularity
        sites = {s.value: s for s in weight_sites(graph, target, shared, self.block or 32, self.ignore, self.operators)}
        if not sites:
            raise PassError(
                "there is no float32 weight to quantize", where=self.name,
                hint="is the model quantized already, or everything on the ignore list?",
            )  # fmt: skip
        table = self._measure(graph, context, list(sites.values()))
        whole = sum(_data(value).numel() * _FLOAT for value in sites)
        bits = self._choose(table, self.size * whole)
        used = sum(table[value][b][1] for value, b in bits.items())
        for width in sorted({b for b in bits.values() if b != _FLOAT}):
            self._insert(graph, context, width, [value.name for value, b in bits.items() if b != width])
        shown = ", ".join(f"{list(bits.values()).count(b)} of {b} bits" for b in sorted(set(bits.values())))
        details = {"bits": {value.name: b for value, b in bits.items()}, "bytes": used / 8, "float_bytes": whole / 8}
        note = f"{shown}; {used / whole:.3f} of the bytes"
        return Changes(set(bits.values()) != {_FLOAT}, counts={"weights": len(bits)}, notes=(note,), details=details)

    def _insert(self, graph: Graph, context: Context, width: int, others: Sequence[str]) -> None:
        left = (*self.ignore, *(glob.escape(name) for name in others))
        InsertWeightQDQ(
            bits=width, granularity=self.granularity, block=self.block, symmetric=self.symmetric, search=self.search,
            ignore=left, operators=self.operators, target=self.target,
        ).run(graph, context)  # fmt: skip

    def _measure(self, graph: Graph, context: Context, sites: Sequence[WeightSite]) -> _Table:
        samples = [batch.inputs for batch in islice(context.data, self.batches)]
        exact = [run(graph, inputs) for inputs in samples]
        table: _Table = {}
        for site in context.progress(sites, "weighing weights", len(sites)):
            weight = _data(site.value)
            table[site.value] = {}
            for width in self.choices:
                if width == _FLOAT:
                    table[site.value][width] = (0.0, weight.numel() * _FLOAT)
                    continue
                scheme = Scheme(storage(width, self.symmetric), self.symmetric, bits=width)
                rounded = fake_quantized(weight, site, scheme, self.search)
                noise = noise_ratio(
                    powers(run(graph, inputs, constants={site.value: rounded.to(weight.dtype)}), want)
                    for inputs, want in zip(samples, exact, strict=True)
                )
                scales = math.prod(site.parameter_shape(weight.shape)) * (_FLOAT if self.symmetric else _FLOAT + 8)
                table[site.value][width] = (noise, weight.numel() * scheme.dtype.bits + scales)
        return table

    def _choose(self, table: _Table, room: float) -> dict[Value, int]:
        """The widths with the least noise in all whose sizes fit into `room` bits, by integer programming."""
        choices = [(value, width) for value, widths in table.items() for width in widths]
        noise = np.array([table[value][width][0] for value, width in choices])
        bits = np.array([float(table[value][width][1]) for value, width in choices])
        least = sum(min(size for _, size in widths.values()) for widths in table.values())
        if least > room:
            whole = room / self.size
            raise PassError(
                f"the weights cannot be smaller than {least / whole:.3f} of their float size with these choices",
                where=self.name, hint=f"give size={np.ceil(1000 * least / whole) / 1000:.3f} or more, or fewer bits",
            )  # fmt: skip
        one_each = np.array([[float(value is each) for value, _ in choices] for each in table])
        solved = milp(
            noise / max(float(noise.max()), 1e-300),
            constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(bits[None] / room, -np.inf, 1)],
            integrality=np.ones(len(choices), np.int64), bounds=Bounds(0, 1),
        )  # fmt: skip
        assert solved.x is not None, "the smallest choices fit, so there is a solution"
        return {value: width for (value, width), taken in zip(choices, solved.x, strict=True) if taken > 0.5}


def _is_width(bits: int) -> bool:
    return 2 <= bits <= 16 or bits == _FLOAT


def _data(value: Value) -> torch.Tensor:
    assert value.data is not None, "weights are constants"
    return value.data
