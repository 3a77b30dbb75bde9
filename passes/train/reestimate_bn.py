"""reestimate-bn: statistics of batch normalisations measured anew."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from graphopt.backends import to_torch, update_from
from graphopt.errors import DataError, OptionError
from graphopt.ir import Graph
from graphopt.pipeline import Changes, Context, Contract, Pass, register
from graphopt.runtime.calls import call_flat


@register("reestimate-bn")
@dataclass(frozen=True)
class ReestimateBatchNorm(Pass):
    """Measure the means and variances of batch normalisations anew, on the run's data, without training.

    After weights were pruned or quantized the old statistics fit no longer; new ones win back much of the accuracy for
    a few passes over unlabelled data (Sun et al. 2019, arXiv:1911.05617). Statistics are averages over the batches,
    which should be large. Runs before `fuse`, which folds them into the weights.

    Attributes:
        batches: batches to read at most; 0 reads all.
    """

    contract: ClassVar[Contract] = Contract.TRAINED
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    looks_for: ClassVar[frozenset[str]] = frozenset({"BatchNormalization"})

    batches: int = 0

    def __post_init__(self) -> None:
        if self.batches < 0:
            raise OptionError(f"batches is {self.batches}", where="reestimate-bn{batches}", hint="give 0 or more")

    def run(self, graph: Graph, context: Context) -> Changes:
        module = to_torch(graph)
        module.eval()
        norms = [each for each in module.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
        if not norms:
            return Changes(False, notes=("no batch normalisation keeps statistics",))
        counters = [norm.num_batches_tracked for norm in norms]  # an ONNX model has none
        for norm in norms:
            norm.num_batches_tracked = torch.tensor(0)
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for a plain average over all batches
            norm.train()
        count = self._measure(module, graph, context)
        for norm, counter in zip(norms, counters, strict=True):
            norm.num_batches_tracked = counter
        module.eval()
        update_from(graph, module)
        return Changes(True, counts={"statistics": len(norms)}, notes=(f"from {count} batches",))

    def _measure(self, module: nn.Module, graph: Graph, context: Context) -> int:
        count = 0
        batches = islice(context.data, self.batches or None)
        with torch.no_grad():
            for batch in context.progress(batches, "measuring statistics", self.batches or None):
                try:
                    call_flat(module, graph, batch.inputs)
                except ValueError as error:  # torch: "Expected more than 1 value per channel when training"
                    raise DataError(
                        f"a batch gives no statistics: {error}", where=self.name, hint="give batches of several samples"
                    ) from error
                count += 1
        return count
