"""In-place operators and views, made functional.

Tracing keeps ``relu_`` and ``y[:, 0] = z`` as they were written. An in-place operator gives the tensor that it writes,
and every tensor that shares its memory, a new value: the write goes up from a view to its base (as ``select_scatter``,
``slice_scatter``, an inverse reshape), and views of a base that was written are made anew when they are next read.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import fx

from graphopt.errors import CaptureError
from graphopt.frontends.aten import find_converter, target_name
from graphopt.ir import Value

if TYPE_CHECKING:
    from graphopt.frontends.lowering import Lowering

_NO_WRITE = frozenset({"aten.detach_.default", "aten.requires_grad_.default"})


def functional_name(node: fx.Node) -> str | None:
    """The name of the operator that computes what an in-place one writes; ``None`` for any other node."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    name = target_name(node.target)
    schema = node.target._schema
    first = schema.arguments[0] if schema.arguments else None
    if first is None or first.alias_info is None or not first.alias_info.is_write or name in _NO_WRITE:
        return None
    library, packet, overload = name.rsplit(".", 2)
    return f"{library}.{packet.removesuffix('_')}.{overload}"


class Mutations:
    """Who shares memory with whom, in one fx graph."""

    def __init__(self, lowering: Lowering) -> None:
        self._lowering = lowering
        self._base: dict[fx.Node, fx.Node] = {}
        self._seen: dict[fx.Node, Any] = {}
        self.written = False

    def note_view(self, node: fx.Node) -> None:
        """Remembers the base of `node` when it shares the memory of one of its arguments."""
        base = _base_of(node)
        if base is not None:
            self._base[node] = base
            self._seen[node] = self._lowering._results[base]

    def refresh(self, node: fx.Node) -> None:
        """Makes a view anew when its base was written since."""
        if not self.written or node not in self._base:
            return
        base = self._base[node]
        current = self._lowering.read(base)
        if current is self._seen[node]:
            return
        in_place = functional_name(node) is not None
        self._lowering.write(node, current if in_place else self._lowering.convert(node))
        self._seen[node] = current

    def apply(self, node: fx.Node, value: Value) -> None:
        """Lets `value` be the contents of what the in-place operator `node` writes."""
        self.written = True
        target = node.args[0]
        assert isinstance(target, fx.Node)
        self._write(target, value)
        self._lowering.write(node, value)
        self._base[node] = target
        self._seen[node] = value

    def _write(self, node: fx.Node, value: Any) -> None:
        self._lowering.write(node, value)
        base = self._base.get(node)
        if base is None:
            _check_no_state(node)
            return
        whole = self._put_back(node, base, value)
        self._write(base, whole)
        self._seen[node] = whole

    def _put_back(self, view: fx.Node, base: fx.Node, part: Any) -> Any:
        """The value of `base` after `part` was written to its view."""
        from graphopt.frontends.lowering import location

        if functional_name(view) is not None:
            return part
        lowering = self._lowering
        whole = lowering.read(base)
        if isinstance(whole, tuple):  # split, chunk, unbind: the pieces are views of what was split
            index = view.args[1]
            assert isinstance(index, int)
            return (*whole[:index], part, *whole[index + 1 :])
        inverse = _INVERSES.get(target_name(view.target))
        outer = lowering.origin
        try:
            if isinstance(part, tuple):
                return _join_pieces(lowering, view, part)
            if inverse is not None:
                return inverse(lowering, view, whole, part)
        finally:
            lowering.origin = outer
        raise CaptureError(
            f"writing in place through {target_name(view.target)} is not supported",
            where=location(view),
            hint="compute a new tensor instead",
        )


def _base_of(node: fx.Node) -> fx.Node | None:
    traced = node.meta.get("val")
    if node.target is operator.getitem:
        parent = node.args[0]
        assert isinstance(parent, fx.Node)
        return parent if isinstance(parent.target, torch._ops.OpOverload) and _base_of(parent) else None
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    sample = traced[0] if isinstance(traced, list | tuple) and traced else traced
    if not isinstance(sample, torch.Tensor) or sample.layout is not torch.strided:
        return None
    for argument in node.all_input_nodes:
        other = argument.meta.get("val")
        if isinstance(other, torch.Tensor) and other.layout is torch.strided and _storage(other) == _storage(sample):
            return argument
    return None


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _check_no_state(node: fx.Node) -> None:
    if node.op == "placeholder" and node.meta.get("graphopt_state"):
        raise CaptureError(
            f"forward writes the module's own '{node.meta['graphopt_state']}'",
            hint="a graph keeps no state between calls: take it as an input and return the new one",
        )


# -- inverses of views: (lowering, view, base's value, value written to the view) -> base's new value

_Inverse: TypeAlias = Callable[["Lowering", fx.Node, Value, Value], Any]


def _by(name: str, *rest: int) -> _Inverse:
    """Calls the converter `name` on the base, the part, and the view's own arguments."""

    def inverse(lowering: Lowering, view: fx.Node, whole: Value, part: Value) -> Any:
        converter = find_converter(name)
        assert converter is not None
        args, kwargs = lowering.arguments(view)
        result = converter(lowering, whole, part, *args[1:], **kwargs)
        result.type = whole.type
        return result

    return inverse


def _same(lowering: Lowering, view: fx.Node, whole: Value, part: Value) -> Value:
    return part


def _reshaped(lowering: Lowering, view: fx.Node, whole: Value, part: Value) -> Value:
    shape = whole.shape or ()
    sizes = [lowering.size(whole, i) for i in range(len(shape))]
    result = lowering.reshape_to(part, sizes, shape)
    result.type = whole.type
    return result


def _permuted(lowering: Lowering, view: fx.Node, whole: Value, part: Value) -> Value:
    rank = len(whole.shape or ())
    args, _ = lowering.arguments(view)
    if target_name(view.target) == "aten.permute.default":
        perm = [dim % rank for dim in args[1]]
    else:
        a, b = (args[1] % rank, args[2] % rank) if len(args) == 3 else (rank - 2, rank - 1)
        perm = list(range(rank))
        perm[a], perm[b] = b, a
    inverse = [perm.index(dim) for dim in range(rank)]
    result = lowering.transpose(part, inverse)
    result.type = whole.type
    return result


def _join_pieces(lowering: Lowering, view: fx.Node, pieces: tuple[Value, ...]) -> Value:
    args, kwargs = lowering.arguments(view)
    unbinding = target_name(view.target) == "aten.unbind.int"
    dim = kwargs.get("dim", args[1] if unbinding and len(args) > 1 else args[2] if len(args) > 2 else 0)
    rank = len(args[0].shape or ())
    if unbinding:
        pieces = tuple(lowering.unsqueeze(piece, dim % rank) for piece in pieces)
    result = lowering.emit("Concat", *pieces, axis=dim % rank)
    result.type = args[0].type
    return result


_INVERSES: dict[str, _Inverse] = {
    "aten.select.int": _by("aten.select_scatter.default"),
    "aten.slice.Tensor": _by("aten.slice_scatter.default"),
    "aten.narrow.default": _by("graphopt.narrow_scatter"),
    **dict.fromkeys(
        ("aten.alias.default", "aten.detach.default", "aten.detach_.default", "aten.contiguous.default",
         "aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default",
         "aten.lift_fresh.default", "aten.to.dtype", "aten.to.device", "aten.to.dtype_layout", "aten.type_as.default"),
        _same,
    ),
    **dict.fromkeys(
        ("aten.view.default", "aten.reshape.default", "aten.flatten.using_ints", "aten.unflatten.int",
         "aten.unsqueeze.default", "aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims",
         "aten.view_as.default", "aten.reshape_as.default"),
        _reshaped,
    ),
    **dict.fromkeys(
        ("aten.permute.default", "aten.transpose.int", "aten.t.default", "aten.mT.default", "aten.swapaxes.default",
         "aten.swapdims.default"),
        _permuted,
    ),
}  # fmt: skip
