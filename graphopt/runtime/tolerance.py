"""How far apart results may be that are to be equal."""

from __future__ import annotations

import torch

from graphopt.ir import DType, Graph, TensorType

#: Of what is computed in float32 and float64.
TOLERANCE = 1e-4
#: Roundings of a coarser type that add up in a network before a result counts as another.
_ROUNDINGS = 8

_HALF = (DType.FLOAT16, DType.BFLOAT16)


def tolerance_of(graph: Graph) -> float:
    """The largest difference, relative to the largest output, that reordering and rounding explain.

    1e-4; for a graph that computes in float16 or bfloat16 eight times the distance of 1 to the next number of that type
    (0.0078 and 0.0625): a weight that something is folded into is already rounded anew.
    """
    values = (value for node in graph.walk() for value in node.outputs)
    types = {value.dtype for value in values if isinstance(value.type, TensorType)}
    return max([TOLERANCE, *(_ROUNDINGS * torch.finfo(each.torch).eps for each in _HALF if each in types)])
