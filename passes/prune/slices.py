"""The slices of a training network's parameters that are pruned together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from graphopt.analysis.coupling import ChannelCoupling, Group
from graphopt.backends.torch_plan import Binding
from graphopt.backends.torch_sync import bindings, tensors_of
from graphopt.passes.prune.layers import input_dim


@dataclass(frozen=True)
class _Cut:
    """A factor of a dimension of a weight.

    Attributes:
        dim: the dimension, whose size is ``outer * size * stride``.
        stride: distance between neighbouring indices of the factor.
        components: the component of each index, [size].
        made: the dimension is what a layer puts out, not what it reads.
    """

    dim: int
    stride: int
    components: torch.Tensor
    made: bool

    def sums(self, elements: torch.Tensor) -> torch.Tensor:
        """Sums of a weight's elements for each index, [size]."""
        line = elements.movedim(self.dim, 0).reshape(elements.shape[self.dim], -1).sum(1)
        return line.reshape(-1, len(self.components), self.stride).sum((0, 2))

    def spread(self, values: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Values for each index [size], in a shape that broadcasts against the weight."""
        outer = shape[self.dim] // (len(values) * self.stride)
        line = values[None, :, None].expand(outer, len(values), self.stride).reshape(-1)
        return line.reshape([-1 if dim == self.dim else 1 for dim in range(len(shape))])


@dataclass(frozen=True)
class _Part:
    """A weight of the graph as parameters of the module, and how components cut it."""

    binding: Binding
    parameters: list[torch.Tensor]
    cuts: list[_Cut]


class Slices:
    """What a network's components consist of, on the network's own parameters.

    Args:
        coupling: of the graph that `module` was made from.
        groups: whose components count; the figures of all others mean nothing.
        module: the network.
    """

    def __init__(self, coupling: ChannelCoupling, groups: Sequence[Group], module: nn.Module) -> None:
        self.count = coupling.atoms.components
        self.groups = [torch.from_numpy(np.asarray(group.components, dtype=np.int64)) for group in groups]
        self._parts = list(_parts(coupling, groups, module))
        first = next(module.parameters())
        self._none = torch.zeros(self.count, dtype=first.dtype, device=first.device)
        sizes = self._none.clone()
        for part in self._parts:
            shape = part.binding.pack(part.parameters).shape
            for cut in part.cuts:
                sizes.index_add_(0, cut.components, cut.sums(torch.ones(shape, device=first.device)).to(sizes.dtype))
        #: Elements of each component, [components].
        self.sizes = sizes

    def squares(self, biases: bool = True) -> torch.Tensor:
        """Sum of squares of each component's elements, [components]; differentiable.

        Args:
            biases: count biases and scales too, not only weights of two dimensions and more.
        """
        total = self._none
        for part in self._parts:
            packed = part.binding.pack(part.parameters)
            if not biases and packed.dim() < 2:
                continue
            squares = packed.square()
            for cut in part.cuts:
                total = total.index_add(0, cut.components, cut.sums(squares).to(total.dtype))
        return total

    @torch.no_grad()
    def zero(self, components: torch.Tensor, makers_only: bool = False) -> None:
        """Sets slices of components to zero, in place.

        Args:
            components: their numbers.
            makers_only: leave biases, scales, and the slices of layers that read the components as they are.
        """
        keep = torch.ones_like(self._none)
        keep[components] = 0
        for part in self._parts:
            mask = torch.ones_like(part.binding.pack(part.parameters))
            for cut in part.cuts:
                if makers_only and not (cut.made and mask.dim() >= 2):
                    continue
                mask = mask * cut.spread(keep[cut.components], mask.shape).to(mask.dtype)
            for parameter, own in zip(part.parameters, part.binding.unpack(mask), strict=True):
                parameter.mul_(own.to(parameter.device))


def _parts(coupling: ChannelCoupling, groups: Sequence[Group], module: nn.Module) -> Iterator[_Part]:
    wanted = np.zeros(coupling.atoms.components, dtype=bool)
    for group in groups:
        wanted[group.components] = True
    cuts: dict[int, list[_Cut]] = {}
    for value, dim, factors in coupling.constants():
        for factor in factors:
            components = np.asarray(coupling.atoms.component[factor.first : factor.first + factor.size], dtype=np.int64)
            if wanted[components].any():
                cut = _Cut(dim, factor.stride, torch.from_numpy(components), dim != input_dim(value))
                cuts.setdefault(id(value), []).append(cut)
    tensors = tensors_of(module)
    for prefix, binding in bindings(coupling.graph):
        parameters = [tensors[prefix + key] for key in binding.keys if prefix + key in tensors]
        trainable = len(parameters) == len(binding.keys) and all(p.requires_grad for p in parameters)
        if trainable and id(binding.value) in cuts:
            device = parameters[0].device
            own = [replace(c, components=c.components.to(device)) for c in cuts[id(binding.value)]]
            yield _Part(binding, parameters, own)
