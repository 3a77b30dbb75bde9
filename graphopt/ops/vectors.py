"""Integer vectors that steer an operator (shapes, sizes, starts, ...): reading, bounding and rewriting them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch

from graphopt.ir import Dim, Node, Value
from graphopt.ir import dims as D
from graphopt.ops.infer import MAX_KNOWN, contents, integers, object_array
from graphopt.ops.relation import Shrinkage

#: What a compute function takes for a steering input: the tensor, or the numbers where they are known beforehand.
IntVector: TypeAlias = torch.Tensor | Sequence[int]

# Dimensions that a torch tensor can have.
MAX_RANK = 64
# Differences with more Max and Min than this take sympy seconds to judge.
_MAX_EXTREMES = 2


def ints(vector: IntVector) -> list[int]:
    """The elements of a steering input as Python integers."""
    if isinstance(vector, torch.Tensor):
        return [int(item) for item in vector.reshape(-1).tolist()]
    return list(vector)


def scalar(value: torch.Tensor | float) -> Any:
    """The single element of a tensor as a Python number."""
    return value.item() if isinstance(value, torch.Tensor) else value


def vector_length(value: Value | None) -> int | None:
    """The number of elements of a vector input, when it is known and no more than a tensor can have dimensions."""
    shape = None if value is None else value.shape
    length = shape[0] if shape is not None and len(shape) == 1 else None
    return length if isinstance(length, int) and length <= MAX_RANK else None


def partial_contents(value: Value | None) -> np.ndarray | None:
    """`contents`; an array of unknowns for a small integer tensor of which only the shape is known."""
    known = contents(value)
    if known is not None or value is None:
        return known
    shape = [d for d in value.shape or () if isinstance(d, int)]
    if value.shape is None or len(shape) != len(value.shape) or not value.dtype.is_integer:
        return None
    if math.prod(shape) > MAX_KNOWN:
        return None
    return np.full(shape, None, dtype=object)


def at_least(a: Dim, b: Dim) -> bool:
    """True when ``a >= b`` for all sizes. Named sizes are taken to be at least one."""
    if a is None or b is None:
        return False
    if isinstance(a, int) and isinstance(b, int):
        return a >= b
    return _at_least(a, b)


@lru_cache(maxsize=1 << 14)
def _at_least(a: Any, b: Any) -> bool:
    import sympy

    # What one extreme bounds needs no algebra, which takes long where extremes are nested.
    if a == b:
        return True
    if isinstance(b, sympy.Max):
        return all(at_least(a, each) for each in _parts(b))
    if isinstance(a, sympy.Min):
        return all(at_least(each, b) for each in _parts(a))
    if isinstance(a, sympy.Max) and any(at_least(each, b) for each in _parts(a)):
        return True
    if isinstance(b, sympy.Min) and any(at_least(a, each) for each in _parts(b)):
        return True
    gap = a - b
    if isinstance(gap, int) or not gap.free_symbols:
        return bool(gap >= 0)
    if len(gap.atoms(sympy.Max, sympy.Min)) > _MAX_EXTREMES:
        return False
    return bool(gap.subs({s: s + 1 for s in gap.free_symbols}).expand().is_nonnegative)


def _parts(extreme: Any) -> list[Dim]:
    return [D.normalise(each) for each in extreme.args]


def minimum(a: Dim, b: Dim) -> Dim:
    """The smaller of two dimensions; ``Min(a, b)`` when that depends on named sizes."""
    if a is None or b is None:
        return None
    if at_least(a, b):
        return b
    if at_least(b, a):
        return a
    import sympy

    return _extreme(sympy.Min, a, b)


def maximum(a: Dim, b: Dim) -> Dim:
    """The larger of two dimensions; ``Max(a, b)`` when that depends on named sizes."""
    if a is None or b is None:
        return None
    if at_least(a, b):
        return a
    if at_least(b, a):
        return b
    import sympy

    return _extreme(sympy.Max, a, b)


def _extreme(kind: Any, *dims: Any) -> Dim:
    """The extreme of dimensions neither of which is known to be the larger: sympy need not compare them again."""
    import sympy

    terms = [term for dim in map(sympy.sympify, dims) for term in (dim.args if isinstance(dim, kind) else (dim,))]
    return D.normalise(kind(*terms, evaluate=False))


def quotient(dims: Sequence[Dim], by: Sequence[Dim]) -> Dim:
    """The product of `dims` over that of `by`; factors that both have are cancelled first.

    Returns ``None`` when it is not known or when `by` has a zero.
    """
    rest, divisors = list(dims), []
    for dim in by:
        match = next((i for i, other in enumerate(rest) if D.same(dim, other)), None)
        if match is None or dim == 0:
            divisors.append(dim)
        else:
            del rest[match]
    divisor = D.product(divisors)
    return None if divisor == 0 else D.floor_div(D.product(rest), divisor)


def rewritable(value: Value | None, element: int) -> bool:
    """True when `rewrite` can replace this element of a vector input: it is a known number."""
    known = integers(value)
    return known is not None and element < len(known) and isinstance(known[element], int)


def rewrite(node: Node, index: int, edit: Shrinkage, elements: Mapping[int, int]) -> None:
    """Gives elements of vector input `index` new numbers; the others keep what they hold when the graph runs.

    A vector that is known as a whole becomes a constant. Otherwise the differences are added to it: vectors in shape
    arithmetic keep their values when channels go (see `graphopt.ops.shape`), so that the sum is right at run time.

    Args:
        node: the node whose input it is.
        index: the input.
        edit: the shrinkage under way.
        elements: new numbers by position; each must be `rewritable`.
    """
    value = node.operand(index)
    old, known = integers(value), contents(value)
    if old is None or known is None:
        raise ValueError(f"contents of input {index} of {node.describe()} are not known")
    new = [elements.get(i, item) for i, item in enumerate(old)]
    if all(D.same(a, b) or a is b for a, b in zip(old, new, strict=True)):
        return
    dtype = value.dtype.torch
    if all(isinstance(item, int) for item in new):
        edit.set_constant(node, index, torch.tensor(new, dtype=dtype).reshape(known.shape))
        return
    delta = [elements[i] - item if i in elements and isinstance(item, int) else 0 for i, item in enumerate(old)]
    offset(node, index, torch.tensor(delta, dtype=dtype))
    node.operand(index).known = object_array(new).reshape(known.shape)


def offset(node: Node, index: int, delta: torch.Tensor) -> None:
    """Adds a constant to input `index` of a node, by an Add of its own in front of it."""
    value, graph = node.operand(index), node.graph
    if graph is None:
        raise ValueError(f"{node.describe()} is not linked into a graph")
    add = Node("Add", [value, graph.add_constant(delta)], origin=node.origin)
    add.output.type = value.type
    graph.insert_before(node, add)
    node.set_input(index, add.output)


__all__ = [
    "IntVector", "at_least", "ints", "maximum", "minimum", "offset", "partial_contents", "quotient", "rewritable",
    "rewrite", "scalar", "vector_length",
]  # fmt: skip
