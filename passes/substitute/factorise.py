"""Low-rank factorisation of convolutions and matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Literal

from graphopt.analysis import propagate
from graphopt.errors import PassError
from graphopt.ir import Graph
from graphopt.passes.substitute.factors import Matrix, Method, RowsAndColumns, Stage, Tucker
from graphopt.passes.substitute.layers import Layer, layers, put
from graphopt.pipeline import Changes, Context, Contract, Pass, register

# Halvings of the range of energies; the budget is met to one part in a thousand.
_STEPS = 14
_LEAST_ENERGY = 0.02


@register("factorise")
@dataclass(frozen=True)
class Factorise(Pass):
    """Replace layers by products of smaller ones of lower rank, where that needs fewer multiply-accumulates.

    A matrix product (and a 1x1 convolution) becomes two by singular values. A convolution becomes two (all inputs to a
    few channels, these to the outputs; or columns of the kernel, then rows) or three (Tucker: fewer channels in, the
    kernel, more channels out), whichever is cheapest for the same error. In a module, layer ``path`` becomes
    ``path.0``, ``path.1``, ready to be trained again.

    Attributes:
        energy: share of the squared norm of each weight that is kept.
        macs: budget for the whole graph, as a share of its multiply-accumulates; the energy is then as high as the
            budget allows, the same for all layers.
        methods: which forms to try: svd, tucker, spatial.
        pays: most multiply-accumulates of a replacement, as a share of the layer's.
        ignore: patterns of names of weights that stay.
    """

    contract = Contract.APPROXIMATE
    looks_for = frozenset({"Conv", "Gemm", "MatMul"})
    energy: float = 0.95
    macs: float | None = None
    methods: tuple[Literal["svd", "tucker", "spatial"], ...] = ("svd", "tucker", "spatial")
    pays: float = 0.9
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.energy <= 1:
            raise ValueError(f"energy is {self.energy}; it lies between 0 and 1")
        if self.macs is not None and not 0 < self.macs < 1:
            raise ValueError(f"macs is {self.macs}; it is a share between 0 and 1")

    def run(self, graph: Graph, context: Context) -> Changes:
        propagate(graph)
        candidates = [
            _Candidate(layer, self._methods(layer)) for layer in layers(graph, context.sizes)
            if layer.group == 1 and layer.windows is not None
            and not any(fnmatch(layer.label, pattern) for pattern in self.ignore)
        ]  # fmt: skip
        energy = self.energy if self.macs is None else self._affordable(context.cost().macs, candidates, self.macs)
        counts, details = {"factorised": 0, "left": 0}, []
        for candidate in candidates:
            best = candidate.best(energy, self.pays)
            if best is None:
                counts["left"] += 1
                continue
            stages = best.stages(energy)
            details.append(candidate.facts(stages))
            put(candidate.layer, stages, self.name)
            counts["factorised"] += 1
        left = f"{counts['left']} layers would need as many multiply-accumulates, or nearly so, in factors"
        notes = (f"each weight keeps {energy:.4g} of its energy", *([left] if counts["left"] else []))
        return Changes(bool(counts["factorised"]), counts, notes, details={"energy": energy, "layers": details})

    def _methods(self, layer: Layer) -> list[Method]:
        weight, found = layer.weight, list[Method]()
        has_kernel = weight.dim() > 2 and weight[0, 0].numel() > 1
        if "svd" in self.methods or not has_kernel:
            found.append(Matrix(weight))
        if has_kernel and "tucker" in self.methods:
            found.append(Tucker(weight))
        if has_kernel and "spatial" in self.methods and weight.dim() == 4 and min(weight.shape[2:]) > 1:
            found.append(RowsAndColumns(weight))
        return found

    def _affordable(self, total: int, candidates: Sequence[_Candidate], share: float) -> float:
        """The highest energy with which the whole graph stays within the budget."""
        wanted = share * total

        def cost(energy: float) -> float:
            return total - sum(candidate.saved(energy, self.pays) for candidate in candidates)

        low, high = _LEAST_ENERGY, 1.0
        if cost(low) > wanted:
            raise PassError(
                f"factors of the lowest rank still need {cost(low) / total:.2f} of the multiply-accumulates",
                where=self.name, hint="give a larger macs=, or prune first",
            )  # fmt: skip
        if cost(high) <= wanted:
            return high
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if cost(middle) <= wanted else (low, middle)
        return low


class _Candidate:
    """A layer, and the forms that it may take."""

    def __init__(self, layer: Layer, methods: Sequence[Method]) -> None:
        self.layer = layer
        self.methods = methods
        self.macs = layer.macs([layer.whole()])

    def best(self, energy: float, pays: float) -> Method | None:
        """The method that keeps `energy` with the fewest multiply-accumulates; ``None`` when that does not pay."""
        best = min(self.methods, key=lambda method: self.layer.macs(method.plans(energy)))
        return best if self.layer.macs(best.plans(energy)) <= pays * self.macs else None

    def saved(self, energy: float, pays: float) -> float:
        """Multiply-accumulates that the best form does without."""
        best = self.best(energy, pays)
        return 0.0 if best is None else self.macs - self.layer.macs(best.plans(energy))

    def facts(self, stages: Sequence[Stage]) -> dict[str, Any]:
        """Figures of a replacement, as plain data."""
        plans = [stage.plan for stage in stages]
        shapes = [list(plan.shape) for plan in plans]
        return {"layer": self.layer.label, "shapes": shapes, "macs": [self.macs, self.layer.macs(plans)]}
