"""Evidence: what criteria may ask beside the weights, gathered from the run's data when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from graphopt.backends import to_torch
from graphopt.backends.torch_sync import bindings, tensors_of
from graphopt.errors import DataError, PassError
from graphopt.ir import Graph, Node, Value
from graphopt.ops import record_of
from graphopt.passes.prune.criteria.curvature import diagonal
from graphopt.passes.train.losses import classification
from graphopt.pipeline import Batch, Context
from graphopt.runtime.calls import call_flat
from graphopt.runtime.executor import run

#: Random vectors that an estimate of the Hessian's diagonal averages over, at least.
PROBES = 32


@dataclass
class Flow:
    """Statistics of one dimension of a value over all samples, per index.

    Attributes:
        magnitude: sum of absolute values.
        squares: sum of squares.
        zeros: number of elements that are exactly zero.
        count: elements per index.
    """

    magnitude: torch.Tensor
    squares: torch.Tensor
    zeros: torch.Tensor
    count: int = 0


class Evidence:
    """What a criterion may ask: gradients, curvatures, activations, the run's seed.

    Args:
        context: the run, with its data; ``loss=`` (a function of output 0 and labels) replaces cross entropy.
        graph: the graph to be pruned.
        batches: batches of the data that are read, at most; 0 reads all.
    """

    def __init__(self, context: Context, graph: Graph, batches: int = 16) -> None:
        self.context = context
        self.graph = graph
        self.batches = batches
        self.seed = context.seed

    @cached_property
    def gradients(self) -> Mapping[Value, torch.Tensor]:
        """For each float weight the mean of ``|dL/dw|`` over batches. Raises DataError without labels."""
        return self._mean("taylor", lambda loss, leaves, _: [_abs(g) for g in _grad(loss, leaves)])

    @cached_property
    def squared_gradients(self) -> Mapping[Value, torch.Tensor]:
        """For each float weight the mean of ``(dL/dw)^2`` over batches. Raises DataError without labels."""
        return self._mean("obd-c", lambda loss, leaves, _: [_square(g) for g in _grad(loss, leaves)])

    @cached_property
    def curvatures(self) -> Mapping[Value, torch.Tensor]:
        """For each float weight an estimate of ``d2L/dw2``. Raises DataError without labels.

        Hutchinson's estimator (see `graphopt.passes.prune.criteria.curvature`): one backward pass per batch, and at
        least `PROBES` passes through that one, spread over the batches.
        """
        generator = torch.Generator().manual_seed(self.seed)

        def measure(loss: torch.Tensor, leaves: Sequence[torch.Tensor], count: int) -> list[torch.Tensor | None]:
            return diagonal(loss, leaves, -(-PROBES // count), generator)

        return self._mean("hessian", measure)

    @cached_property
    def activations(self) -> Mapping[tuple[Value, int], Flow]:
        """Statistics of every dimension of every value that an operator with multiply-accumulates reads."""
        if not self.context.has_data:
            raise DataError(
                "criteria from activations need data and the run was given none", where="criterion",
                hint="pass data=..., or --data FILE.npz; or take l1, l2, fpgm",
            )  # fmt: skip
        wanted = self._read_by_layers()
        flows: dict[tuple[Value, int], Flow] = {}

        def note(node: Node, results: tuple[Any, ...]) -> tuple[Any, ...]:
            for value, tensor in zip(node.outputs, results, strict=False):
                if value in wanted:
                    _gather(flows, value, tensor)
            return results

        for batch in islice(self.context.data, self.batches or None):
            for value, tensor in zip(self.graph.inputs, batch.inputs, strict=True):
                if value in wanted:
                    _gather(flows, value, tensor)
            run(self.graph, batch.inputs, hook=note)
        return flows

    def _read_by_layers(self) -> set[Value]:
        wanted: set[Value] = set()
        for node in self.graph.nodes:
            record = record_of(node)
            if record is not None and record.macs is not None:
                wanted.update(value for value in node.inputs if value is not None and not value.is_constant)
        return wanted

    # -- gradients

    def _mean(
        self, name: str, measure: Callable[[torch.Tensor, Sequence[torch.Tensor], int], list[torch.Tensor | None]]
    ) -> dict[Value, torch.Tensor]:
        batches = self._labelled(name)
        module = to_torch(self.graph).eval()
        tensors = {name: t for name, t in tensors_of(module).items() if t.is_floating_point() and _has_gradient(t)}
        leaves = list({id(tensor): tensor for tensor in tensors.values()}.values())
        for leaf in leaves:
            leaf.requires_grad_()
        sums: list[torch.Tensor] = [torch.zeros_like(leaf) for leaf in leaves]
        with torch.enable_grad(), torch.random.fork_rng(devices=[]), _plain_attention():
            torch.manual_seed(self.seed)
            for batch in batches:
                found = measure(self._loss(module, batch), leaves, len(batches))
                for total, each in zip(sums, found, strict=True):
                    if each is not None:
                        total.add_(each.detach(), alpha=1 / len(batches))
        by_tensor = {id(leaf): total for leaf, total in zip(leaves, sums, strict=True)}
        return dict(_by_value(self.graph, {name: by_tensor[id(tensor)] for name, tensor in tensors.items()}))

    def _labelled(self, name: str) -> list[Batch]:
        has_loss = "loss" in self.context.options
        if not self.context.has_data:
            raise DataError(
                f"criterion {name} needs data with labels and the run was given none", where="criterion",
                hint="pass data=[(inputs, labels), ...]; or take l1, l2, fpgm",
            )  # fmt: skip
        batches = list(islice(self.context.data, self.batches or None))
        if not has_loss and any(batch.labels is None for batch in batches):
            raise DataError(
                f"criterion {name} needs labels", where="criterion",
                hint="give (inputs, labels), or loss=function of output and labels; activation and wanda need none",
            )  # fmt: skip
        return batches

    def _loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        rule = self.context.options.get("loss", classification)
        loss: torch.Tensor = rule(call_flat(module, self.graph, batch.inputs)[0], batch.labels)
        if not bool(torch.isfinite(loss)):
            raise PassError(f"the loss is {float(loss.detach())}", where="criterion", hint="check weights and data")
        return loss


def weight_data(weight: Value) -> torch.Tensor:
    """A weight's tensor as floats. Raises DataError when it has none."""
    if weight.data is None:
        raise DataError(f"weight '{weight.name}' has no data", where=weight.name)
    return weight.data.detach().float()


def _has_gradient(tensor: torch.Tensor) -> bool:
    # Running statistics are buffers of one dimension; torch knows no derivative for them.
    return isinstance(tensor, nn.Parameter) or tensor.dim() >= 2


def _by_value(graph: Graph, found: Mapping[str, torch.Tensor]) -> Iterator[tuple[Value, torch.Tensor]]:
    """Gradients of a module's tensors as gradients of the graph's constants."""
    for prefix, binding in bindings(graph):
        keys = [prefix + key for key in binding.keys]
        data = binding.value.data
        if data is None or not data.is_floating_point() or any(key not in found for key in keys):
            continue
        packed = binding.pack([found[key] for key in keys])
        if packed.shape == data.shape:
            yield binding.value, packed.float()


def _grad(loss: torch.Tensor, leaves: Sequence[torch.Tensor]) -> tuple[torch.Tensor | None, ...]:
    return torch.autograd.grad(loss, leaves, allow_unused=True)


def _abs(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.abs()


def _square(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.square()


def _plain_attention() -> AbstractContextManager[None]:
    """The one implementation of attention that can be differentiated twice."""
    manager: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return manager


def _gather(flows: dict[tuple[Value, int], Flow], value: Value, tensor: torch.Tensor) -> None:
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        return
    tensor = tensor.detach().float()
    for dim in range(tensor.dim()):
        size = tensor.shape[dim]
        others = [d for d in range(tensor.dim()) if d != dim]
        if not isinstance((value.shape or ())[dim], int) or not others:
            continue
        if (value, dim) not in flows:
            magnitude, squares, zeros = torch.zeros(3, size, dtype=torch.float64)
            flows[value, dim] = Flow(magnitude, squares, zeros)
        flow = flows[value, dim]
        flow.magnitude += tensor.abs().sum(others)
        flow.squares += tensor.square().sum(others)
        flow.zeros += (tensor == 0).sum(others)
        flow.count += tensor.numel() // max(size, 1)
