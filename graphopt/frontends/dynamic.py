"""Which dimensions of the inputs are open: from what the user writes to what torch.export takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.export import Dim
from torch.utils import _pytree as pytree

from graphopt.errors import CaptureError, nearest


@dataclass
class Example:
    """One leaf of the example arguments.

    Attributes:
        name: as the graph input is called: ``"x"``, ``"x.0"``, ``"state.hidden"``.
        path: argument name, then keys and indices inside the argument.
        value: a tensor, or a literal.
        specs: for each open dimension what torch.export is told.
        names: for each open dimension its name, if the user gave one.
    """

    name: str
    path: tuple[Any, ...]
    value: Any
    specs: dict[int, Any] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)


def examples_of(module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Example]:
    """The leaves of the example arguments, in the order of torch's flattening of ``(args, kwargs)``.

    Raises:
        CaptureError: the arguments do not fit ``forward``.
    """
    signature = inspect.signature(module.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise CaptureError(
            f"the example arguments do not fit {type(module).__name__}.forward: {error}",
            hint=f"it takes {signature}",
        ) from None
    leaves, _ = pytree.tree_flatten_with_path((tuple(args), dict(kwargs)))
    names = _positional_names(signature)
    found = []
    for keys, value in leaves:
        plain = [_plain_key(key) for key in keys]
        if plain[0] == 0:
            head = names(plain[1])
            path = (*head, *plain[2:])
        else:
            path = tuple(plain[1:])
        found.append(Example(".".join(map(str, path)), path, value))
    return found


def argument_names(module: torch.nn.Module, count: int) -> tuple[str, ...]:
    """Names of the first `count` positional arguments of ``forward``."""
    names = _positional_names(inspect.signature(module.forward))
    return tuple(".".join(map(str, names(i))) for i in range(count))


def _positional_names(signature: inspect.Signature) -> Any:
    plain = [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_POSITIONAL), "args")

    def name(index: int) -> tuple[Any, ...]:
        return (plain[index],) if index < len(plain) else (rest, index - len(plain))

    return name


def _plain_key(key: Any) -> Any:
    for attribute in ("idx", "key", "name"):
        if hasattr(key, attribute):
            return getattr(key, attribute)
    return str(key)


def resolve(dynamic: Any, examples: Sequence[Example], arguments: Sequence[str]) -> None:
    """Notes on each example which of its dimensions are open.

    Args:
        dynamic: by argument name, position, or leaf name: ``{"x": {0: "batch"}}``; the value for an argument that is a
            list, tuple or dict has the same structure. A dimension is a name, a ``torch.export.Dim``, ``Dim.DYNAMIC``,
            ``Dim.AUTO``, or None. A list or tuple stands for the arguments in order.
        examples: the leaves of the example arguments.
        arguments: names of the positional arguments.

    Raises:
        CaptureError: a name that no input has, a dimension out of range, or an entry of another kind.
    """
    if dynamic is None:
        return
    if isinstance(dynamic, list | tuple):
        dynamic = dict(enumerate(dynamic))
    if not isinstance(dynamic, Mapping):
        raise CaptureError(f"dynamic is a {type(dynamic).__name__}", hint='write it as {"x": {0: "batch"}}')
    for key, spec in dynamic.items():
        head = _argument(key, arguments)
        touched = [example for example in examples if example.path[0] == head or example.name == head]
        if not touched and spec:
            known = sorted({str(e.path[0]) for e in examples} | {e.name for e in examples})
            raise CaptureError(
                f"dynamic names '{key}', which is no input",
                hint=nearest(str(key), known) or f"the inputs are {', '.join(known)}",
            )
        for example in touched:
            depth = 1 if example.path[0] == head else len(example.path)
            _assign(example, _descend(spec, example.path[depth:]))
    _agree(examples)


def _argument(key: Any, arguments: Sequence[str]) -> Any:
    if isinstance(key, int):
        if not 0 <= key < len(arguments):
            raise CaptureError(f"dynamic names input {key}; there are {len(arguments)} positional inputs")
        return arguments[key]
    return key


def _descend(spec: Any, path: Sequence[Any]) -> Any:
    for step in path:
        if isinstance(spec, Mapping):
            spec = spec.get(step, spec.get(str(step)))
        elif isinstance(spec, list | tuple) and isinstance(step, int) and step < len(spec):
            spec = spec[step]
        else:
            return None
    return spec


def _assign(example: Example, spec: Any) -> None:
    if spec is None or not isinstance(example.value, torch.Tensor):
        return
    rank = example.value.dim()
    entries = dict(enumerate(spec)) if isinstance(spec, list | tuple) else spec
    if not isinstance(entries, Mapping) or not all(isinstance(dim, int) for dim in entries):
        raise CaptureError(
            f"dynamic for input '{example.name}' is {spec!r}", hint='write it as {0: "batch"}: dimension to name'
        )
    for dim, size in entries.items():
        if size is None or size is Dim.STATIC or isinstance(size, int):
            continue
        if not -rank <= dim < rank:
            raise CaptureError(
                f"dynamic names dimension {dim} of input '{example.name}', whose shape is {tuple(example.value.shape)}"
            )
        dim %= rank
        if isinstance(size, str):
            example.specs[dim], example.names[dim] = Dim.DYNAMIC, size
            continue
        example.specs[dim] = size
        name = getattr(size, "__name__", None)
        if isinstance(name, str) and name.isidentifier():
            example.names[dim] = name


def _agree(examples: Sequence[Example]) -> None:
    """Dimensions of one name must have one extent, a 1 excepted."""
    seen: dict[str, tuple[int, str]] = {}
    for example in examples:
        for dim, name in example.names.items():
            size = example.value.shape[dim]
            if size <= 1:
                continue
            other, place = seen.setdefault(name, (size, example.name))
            if other != size:
                raise CaptureError(
                    f"the examples disagree about '{name}': {other} in input '{place}', {size} in '{example.name}'",
                    hint="give dimensions that differ different names",
                )


# What stands for open extents of 0 and 1 while tracing, in the order in which they are tried. The first is no neighbour
# of 1 and divisible by what code likes to divide by; the second goes the way of small sizes where code has two.
STAND_INS = (12, 2)


def enlarged(examples: Sequence[Example], stand_in: int = STAND_INS[0]) -> list[Any]:
    """The example values, with open dimensions of extent 0 or 1 as large as `stand_in`: torch takes 0 and 1 for fixed.

    A view becomes a tensor of its own, lest torch give sizes to what it is a view of; so does a tensor that is given
    twice, lest torch take two inputs for one.
    """
    sizes = {
        name: e.value.shape[dim] for e in examples for dim, name in e.names.items() if e.value.shape[dim] > 1
    }  # fmt: skip
    seen: set[int] = set()
    values = []
    for example in examples:
        value = example.value
        if isinstance(value, torch.Tensor) and (value._is_view() or id(value) in seen):
            value = value.detach().clone()
        seen.add(id(example.value))
        values.append(_enlarge(example, value, sizes, stand_in))
    return values


def _enlarge(example: Example, value: Any, sizes: Mapping[str, int], stand_in: int) -> Any:
    small = [dim for dim in example.specs if value.shape[dim] <= 1]
    if not small:
        return value
    shape = list(value.shape)
    for dim in small:
        shape[dim] = sizes.get(example.names.get(dim, ""), stand_in)
    return value.new_empty(shape)  # tracing looks at types and shapes only


def shapes_for_export(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], examples: Sequence[Example]
) -> Any:
    """The ``dynamic_shapes`` of torch.export: the structure of the bound arguments, a dict or None for each leaf.

    Raises:
        CaptureError: there are open dimensions, and arguments that ``forward`` takes as ``**kwargs``.
    """
    if not any(example.specs for example in examples):
        return None
    parameters = inspect.signature(module.forward).parameters
    loose = [name for name in kwargs if name not in parameters]
    if loose:
        raise CaptureError(
            f"torch.export has no open dimensions where forward takes '{loose[0]}' through **arguments",
            hint="list the argument in forward's signature, or leave out dynamic",
        )
    _, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
    leaves = [dict(example.specs) or None for example in examples]
    own_args, own_kwargs = pytree.tree_unflatten(leaves, spec)
    return dict(inspect.signature(module.forward).bind(*own_args, **own_kwargs).arguments)
