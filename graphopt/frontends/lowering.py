"""From torch's exported graph to canonical nodes: converts what has a converter, decomposes or carries the rest."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from graphopt.errors import CaptureError
from graphopt.frontends.aten import Builder, NoConversion, find_converter, target_name
from graphopt.frontends.mutation import Mutations, functional_name
from graphopt.frontends.symbols import Symbols
from graphopt.ir import DType, Graph, Node, Origin, TensorType, Value
from graphopt.ir import dims as D
from graphopt.ops import aten

# What torch.compile calls the module.
_SELF = re.compile(r"^L\['\w+'\]\.?")
# Checks that tracing leaves behind: they compute nothing.
_CHECKS = ("aten._assert_", "aten.sym_constrain_range", "aten._assert_async", "aten._functional_assert")


class Lowering(Builder):
    """Converts the calls of an fx graph one after the other.

    Attributes:
        symbols: the names of symbolic sizes.
        node: the fx node that is being converted.
    """

    def __init__(self, graph: Graph, symbols: Symbols) -> None:
        super().__init__(graph)
        self.symbols = symbols
        self.node: fx.Node | None = None
        self._module: fx.GraphModule | None = None
        self._decomposing = 0
        self._results: dict[fx.Node, Any] = {}
        self._mutations = Mutations(self)

    # -- walking

    def run(self, module: fx.GraphModule, arguments: Mapping[fx.Node, Any]) -> Any:
        """Converts all calls of `module`; returns what it returns, with values in the place of fx nodes.

        Args:
            module: the traced graph.
            arguments: for each placeholder the value that it stands for.
        """
        outer = (self._module, self.node, self._results, self._mutations, self.origin)
        self._module, self._results, self._mutations = module, dict(arguments), Mutations(self)
        try:
            live = _live(module.graph)
            for node in module.graph.nodes:
                if node in live and node.op in ("call_function", "get_attr"):
                    self._step(node)
            return fx.map_arg(module.graph.output_node().args[0], self.read)
        finally:
            self._module, self.node, self._results, self._mutations, self.origin = outer

    def inline(self, module: fx.GraphModule, arguments: Sequence[Any]) -> Any:
        """Converts the calls of a nested graph in place."""
        placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
        return self.run(module, dict(zip(placeholders, arguments, strict=True)))

    def body(self, module: fx.GraphModule, name: str) -> tuple[Lowering, fx.GraphModule]:
        """A lowering into a new graph for a branch or loop body, which may read the values of this one."""
        inner = Lowering(Graph(name), self.symbols)
        inner.origin, inner.sizes = self.origin, self.sizes
        return inner, module

    def where(self) -> str | None:
        """Where in the user's source the call stands that is being converted."""
        return location(self.node) if self.node is not None else None

    def read(self, node: fx.Node) -> Any:
        """The value that an fx node stands for now: in-place operators change what earlier nodes stand for."""
        self._mutations.refresh(node)
        return self._results[node]

    def write(self, node: fx.Node, result: Any) -> None:
        """Lets `node` stand for `result`."""
        self._results[node] = result

    def convert(self, node: fx.Node) -> Any:
        """Emits what `node` computes, without noting it as the node's result."""
        outer = (self.node, self.results, self.origin)
        self.node = node
        self.origin = _origin(node, self.origin)
        self.results = self._types(node)
        try:
            if node.op == "get_attr":
                return self._attribute(node)
            result = self._call(node)
            self._settle(node, result)
            return result
        finally:
            self.node, self.results, self.origin = outer

    def _step(self, node: fx.Node) -> None:
        if node.op == "call_function" and target_name(node.target).startswith(_CHECKS):
            return
        written = functional_name(node)
        if written is not None:
            self._mutations.apply(node, self._converted(node, written))
            return
        self.write(node, self.convert(node))
        self._mutations.note_view(node)

    def _converted(self, node: fx.Node, name: str) -> Any:
        """The new contents that an in-place operator computes, by the converter of its functional form."""
        outer = (self.node, self.results, self.origin)
        self.node, self.origin, self.results = node, _origin(node, self.origin), self._types(node)
        try:
            result = self._by_converter(name, node)
            if result is NotImplemented:
                raise CaptureError(
                    f"the in-place operator {target_name(node.target)} has no functional form here",
                    where=location(node),
                    hint="use the out-of-place operator in the module",
                )
            self._settle(node, result)
            return result
        finally:
            self.node, self.results, self.origin = outer

    # -- calls

    def _call(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            return self.arguments(node)[0][0][node.args[1]]
        name = target_name(node.target)
        result = self._by_converter(name, node)
        if result is NotImplemented:
            result = self._by_decomposition(node)
        if result is NotImplemented:
            result = self._carried(node)
        return result

    def arguments(self, node: fx.Node) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call, with values in the place of fx nodes."""
        args = fx.map_arg(list(node.args), self.read)
        return _plain(args), {name: _plain(item) for name, item in fx.map_arg(dict(node.kwargs), self.read).items()}

    def _by_converter(self, name: str, node: fx.Node) -> Any:
        converter = find_converter(name)
        if converter is None:
            return NotImplemented
        args, kwargs = self.arguments(node)
        return self._attempt(lambda: converter(self, *args, **kwargs))

    def _attempt(self, convert: Callable[[], Any]) -> Any:
        """What `convert` gives; NotImplemented, and nothing emitted, when it finds no canonical form."""
        constants = dict(self.constants)
        try:
            with self.graph.transaction():
                return convert()
        except (NoConversion, CaptureError) as error:
            if isinstance(error, CaptureError) and not self._decomposing:
                raise
            self.constants = constants
            return NotImplemented

    def _by_decomposition(self, node: fx.Node) -> Any:
        from graphopt.frontends.decompose import decompose

        for module, operands in decompose(node):
            values = [self.read(operand) for operand in operands]
            self._decomposing += 1
            try:
                result = self._attempt(lambda: _single(self.inline(module, values)))  # noqa: B023 - called right here
            finally:
                self._decomposing -= 1
            if result is not NotImplemented:
                return result
        return NotImplemented

    def _carried(self, node: fx.Node) -> Any:
        if self._decomposing:
            raise NoConversion(f"{target_name(node.target)}, which it decomposes to, has no canonical form")
        if not isinstance(node.target, torch._ops.OpOverload):
            raise CaptureError(
                f"{target_name(node.target)} has no form in a graph",
                where=location(node),
                hint="capture a submodule without it",
            )
        traced = node.meta.get("val")
        if isinstance(traced, list | tuple) and any(isinstance(item, list | tuple) for item in traced):
            raise CaptureError(
                f"{target_name(node.target)} gives lists of tensors among its results, which no node can",
                where=location(node), hint="capture a submodule without it",
            )  # fmt: skip
        args, kwargs = self.arguments(node)
        try:
            operands, text = aten.pack(args, kwargs, lambda a: isinstance(a, Value), lambda a: a in self.sizes)
        except TypeError as error:
            raise CaptureError(f"{target_name(node.target)}: {error}", where=location(node)) from error
        name, overload = aten.name_of(node.target)
        count = max(len(self.results), 1)
        carried = Node(name, operands, {"args": text}, count, domain=aten.DOMAIN, overload=overload, origin=self.origin)
        outputs = self.graph.append(carried).outputs
        return tuple(outputs) if isinstance(node.meta.get("val"), list | tuple) else outputs[0]

    def _attribute(self, node: fx.Node) -> Any:
        found: Any = self._module
        for part in str(node.target).split("."):
            found = getattr(found, part)
        return self.constant(found.detach()) if isinstance(found, torch.Tensor) else found

    # -- types

    def _types(self, node: fx.Node) -> list[TensorType | None]:
        traced = node.meta.get("val")
        items = traced if isinstance(traced, list | tuple) else [traced]
        return [self.symbols.type_of(item) for item in items]

    def _settle(self, node: fx.Node, result: Any) -> None:
        """Gives the results the types that tracing found, and labels."""
        values = result if isinstance(result, list | tuple) else [result]
        for index, (value, kind) in enumerate(zip(values, self.results, strict=False)):
            if not isinstance(value, Value) or value.producer is None or kind is None:
                continue
            if value.type != kind and (value.shape is None or not value.name):
                value.type = _merge(value.tensor_type, kind)
            if not value.name:
                value.name = node.name if len(values) == 1 else f"{node.name}.{index}"
        traced = node.meta.get("val")
        if isinstance(traced, torch.SymInt | torch.SymFloat | torch.SymBool) and isinstance(result, Value):
            self.sizes.add(result)
            dim = self.symbols.dim(traced) if isinstance(traced, torch.SymInt) else None
            if dim is not None and result.dtype == DType.INT64 and result.producer is not None:
                known = np.empty((), dtype=object)
                known[()] = dim
                result.known = known


def _merge(ours: TensorType, traced: TensorType) -> TensorType:
    """The traced type, with dimensions that a converter knew better."""
    if ours.shape is None or traced.shape is None or len(ours.shape) != len(traced.shape):
        return traced
    dims = [
        a if isinstance(a, int) and not isinstance(b, int) else b for a, b in zip(ours.shape, traced.shape, strict=True)
    ]
    return traced.with_shape(dims)


def _single(result: Any) -> Any:
    return result[0] if isinstance(result, list | tuple) and len(result) == 1 else result


def _plain(item: Any) -> Any:
    """Fx's immutable lists and dicts as ordinary ones."""
    if isinstance(item, list):
        return [_plain(each) for each in item]
    if isinstance(item, tuple):
        return tuple(_plain(each) for each in item)
    return item


def _live(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that the output depends on, and whatever writes in place."""
    roots = [node for node in graph.nodes if node.op == "output" or functional_name(node) is not None]
    live = set(roots)
    while roots:
        for node in roots.pop().all_input_nodes:
            if node not in live:
                live.add(node)
                roots.append(node)
    return live


def _origin(node: fx.Node, outer: Origin) -> Origin:
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return Origin(outer.module, (node.name,)) if not outer.sources else outer
    path = list(stack.values())[-1][0]
    path = "" if path.startswith("_empty_nn_module_stack") else path
    return Origin(_undo_suffix(path), (node.name,))


def _undo_suffix(path: str) -> str:
    """Torch marks the second call of one module as ``name@1``."""
    return _SELF.sub("", path.split("@")[0])


def location(node: fx.Node) -> str | None:
    """Where in the user's source a call was made: ``file:line``, with the module's path."""
    from graphopt.frontends.source import user_line

    place = user_line(node.meta.get("stack_trace") or "")
    path = _origin(node, Origin()).module
    return f"{place} in '{path}'" if place and path else place or path or None


__all__ = ["D", "Lowering", "location"]
