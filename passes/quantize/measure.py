"""measure-error: how far quantization moves every quantized tensor, and the outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch

from graphopt.errors import OptionError
from graphopt.ir import Graph, Node, Value
from graphopt.ops import execute
from graphopt.passes.quantize.calibration import run_float
from graphopt.passes.quantize.pairs import activation_pairs
from graphopt.pipeline import Changes, Context, Contract, Pass, register
from graphopt.runtime import run

#: This many of the worst steps go into the notes.
_SHOWN = 3


@dataclass
class _Noise:
    """Power of a signal and of its error, summed over samples."""

    signal: float = 0.0
    noise: float = 0.0

    def see(self, got: torch.Tensor, want: torch.Tensor) -> None:
        exact = want.double()
        self.signal += float(exact.square().sum())
        self.noise += float((got.double() - exact).square().sum())

    @property
    def sqnr(self) -> float:
        """Signal to noise ratio in dB."""
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 else -math.inf


@register("measure-error")
@dataclass(frozen=True)
class MeasureError(Pass):
    """Compare the graph with Q/DQ pairs to the same graph without them, tensor by tensor, on the run's data.

    Changes nothing. The figures are in the report's details: ``output_sqnr_db`` and, for every quantized activation in
    order, ``tensors`` with ``sqnr_db`` (all quantization up to and including this tensor's) and ``own_sqnr_db`` (its
    own alone). Weights must still be float, so it runs before `pack-weights`.

    Attributes:
        batches: batches to read at most.
        min_sqnr: the report warns when the outputs' signal to noise ratio in dB is lower.
    """

    contract: ClassVar[Contract] = Contract.EXACT
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    looks_for: ClassVar[frozenset[str]] = frozenset({"QuantizeLinear"})

    batches: int = 4
    min_sqnr: float = 20.0

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise OptionError(f"batches is {self.batches}", where="measure-error{batches}", hint="give 1 or more")

    def run(self, graph: Graph, context: Context) -> Changes:
        restored = {pair.dequantize: pair.source for pair in activation_pairs(graph)}
        tensors = {value: (_Noise(), _Noise()) for value in restored.values()}
        outputs = _Noise()
        for batch in islice(context.data, self.batches):
            _compare(graph, batch.inputs, restored, tensors, outputs)
        details = {
            "output_sqnr_db": outputs.sqnr,
            "tensors": {v.name: {"sqnr_db": a.sqnr, "own_sqnr_db": o.sqnr} for v, (a, o) in tensors.items()},
        }
        return Changes(False, notes=self._notes(outputs, tensors), details=details)

    def _notes(self, outputs: _Noise, tensors: dict[Value, tuple[_Noise, _Noise]]) -> tuple[str, ...]:
        notes = [f"output SQNR {outputs.sqnr:.1f} dB against float"]
        worst = sorted(tensors.items(), key=lambda item: item[1][1].sqnr)[:_SHOWN]
        if worst:
            named = ", ".join(f"{value.name} {own.sqnr:.1f} dB" for value, (_, own) in worst)
            notes.append(f"coarsest tensors by themselves: {named}")
        if outputs.sqnr < self.min_sqnr:
            notes.append(
                f"WARNING: below {self.min_sqnr:g} dB; check the accuracy, leave sensitive layers float (ignore=...), "
                "or train through the quantization (insert-qdq,calibrate,finetune,pack-weights)"
            )
        return tuple(notes)


def _compare(
    graph: Graph,
    inputs: tuple[torch.Tensor, ...],
    restored: dict[Node, Value],
    tensors: dict[Value, tuple[_Noise, _Noise]],
    outputs: _Noise,
) -> None:
    exact: dict[Value, torch.Tensor] = {}

    def keep(value: Value, tensor: torch.Tensor) -> None:
        if value in tensors:
            exact[value] = tensor

    def watch(node: Node, results: tuple[Any, ...]) -> tuple[Any, ...]:
        source = restored.get(node)
        if source is not None:
            everything, own = tensors[source]
            want = exact.pop(source)
            everything.see(results[0], want)
            own.see(_fake_quantized(node, want), want)
        return results

    wanted = run_float(graph, inputs, keep)
    for got, want in zip(run(graph, inputs, hook=watch), wanted, strict=True):
        if isinstance(want, torch.Tensor) and want.is_floating_point():
            outputs.see(got, want)


def _fake_quantized(dequantize: Node, tensor: torch.Tensor) -> torch.Tensor:
    quantize = dequantize.operand(0).producer
    assert quantize is not None, "pairs have both"
    stored = execute(quantize, [tensor, quantize.operand(1).data, quantize.operand(2).data])[0]
    result: torch.Tensor = execute(dequantize, [stored, dequantize.operand(1).data, dequantize.operand(2).data])[0]
    return result
