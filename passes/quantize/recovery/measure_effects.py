"""measure-effects: what each layer's quantization does to the outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

from graphopt.errors import OptionError
from graphopt.ir import Graph
from graphopt.passes.quantize.recovery.effects import Effect, effects, output_noise
from graphopt.pipeline import Changes, Context, Contract, Pass, register

#: This many layers go into the notes.
_SHOWN = 5


@register("measure-effects")
@dataclass(frozen=True)
class MeasureEffects(Pass):
    """Report the outputs' signal to noise ratio with only one layer quantized, and with all but that one.

    Changes nothing. The report's details have, for every quantized node in order, ``alone_db`` and ``without_db``, and
    ``all_db`` for all of them together. Two runs for each node and batch; runs between `calibrate` and `pack-weights`.

    Attributes:
        batches: batches to read at most.
    """

    contract: ClassVar[Contract] = Contract.EXACT
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    looks_for: ClassVar[frozenset[str]] = frozenset({"QuantizeLinear"})

    batches: int = 1

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise OptionError(f"batches is {self.batches}", where="measure-effects{batches}", hint="give 1 or more")

    def run(self, graph: Graph, context: Context) -> Changes:
        samples = [batch.inputs for batch in islice(context.data, self.batches)]
        found = effects(graph, samples, context.progress)
        together = _db(output_noise(graph, samples))
        layers = {_name(effect): {"alone_db": _db(effect.alone), "without_db": _db(effect.without)} for effect in found}
        worst = sorted(found, key=lambda effect: -effect.alone)[:_SHOWN]
        shown = ", ".join(
            f"{_name(effect)} {_db(effect.alone):.1f} dB alone, {_db(effect.without):.1f} dB without"
            for effect in worst
        )
        note = f"output SQNR {together:.1f} dB; most harm: {shown}" if worst else "no layer reads quantized numbers"
        return Changes(False, notes=(note,), details={"all_db": together, "layers": layers})


def _name(effect: Effect) -> str:
    return effect.node.name or effect.node.outputs[0].name


def _db(noise: float) -> float:
    if noise == 0:
        return math.inf
    return -10 * math.log10(noise) if math.isfinite(noise) else -math.inf
