"""Sizes in generated code: dimensions as Python integers, read off the graph's inputs where they are symbolic."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from graphopt.ir import Dim, Value
from graphopt.ops.infer import contents

if TYPE_CHECKING:
    import sympy

Call = Callable[..., fx.Node]


class Sizes:
    """Turns dimensions into integers and fx nodes.

    Args:
        graph: the fx graph that nodes go into.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self._sources: dict[str, tuple[fx.Node, int]] = {}
        self._nodes: dict[Any, fx.Node] = {}

    def bind(self, value: Value, node: fx.Node) -> None:
        """Lets `node`, the fx node of `value`, be where the named sizes of its shape are read."""
        for dim, size in enumerate(value.shape or ()):
            if size is not None and not isinstance(size, int) and size.is_Symbol:
                self._sources.setdefault(str(size), (node, dim))

    def dim(self, size: Dim) -> int | fx.Node | None:
        """One dimension; ``None`` when it depends on something that no input tells."""
        if size is None or isinstance(size, int):
            return size
        if not all(str(symbol) in self._sources for symbol in size.free_symbols):
            return None
        return self._lower(size)

    def dims(self, sizes: Iterable[Dim]) -> list[int | fx.Node] | None:
        """Several dimensions; ``None`` when one of them is."""
        found = [self.dim(size) for size in sizes]
        whole = [size for size in found if size is not None]
        return whole if len(whole) == len(found) else None

    def shape(self, sizes: Sequence[Dim] | None) -> list[int | fx.Node] | None:
        """A shape to reshape to: at most one dimension that cannot be told becomes -1."""
        if sizes is None:
            return None
        simple = [size if size is None or isinstance(size, int) or size.is_Symbol else None for size in sizes]
        if simple.count(None) == 1 and 0 not in simple:
            found: list[int | fx.Node | None] = [-1 if size is None else self.dim(size) for size in simple]
        else:
            found = [self.dim(size) for size in sizes]
        if found.count(None) == 1 and 0 not in found and -1 not in found:
            found[found.index(None)] = -1
        whole = [size for size in found if size is not None]
        return whole if len(whole) == len(found) else None

    def contents(self, value: Value | None) -> list[int | fx.Node] | None:
        """The elements of a small integer tensor, flat; ``None`` when they are not all known."""
        known = contents(value)
        return None if known is None else self.dims(known.flat)

    # -- expressions

    def _lower(self, expr: sympy.Expr) -> int | fx.Node | None:
        if expr.is_Integer:
            return int(expr)
        if expr not in self._nodes:
            node = self._compute(expr)
            if node is None or isinstance(node, int):
                return node
            self._nodes[expr] = node
        return self._nodes[expr]

    def _compute(self, expr: sympy.Expr) -> int | fx.Node | None:
        import sympy

        if expr.is_Symbol:
            return self._read(str(expr))
        whole, over = sympy.fraction(sympy.together(expr))
        if over != 1:
            return self._quotient(whole, over)
        if isinstance(expr, sympy.floor):
            return self._quotient(*sympy.fraction(sympy.together(expr.args[0])))
        if isinstance(expr, sympy.ceiling):
            above, below = sympy.fraction(sympy.together(expr.args[0]))
            return self._quotient(above + below - 1, below)
        if isinstance(expr, sympy.Pow):
            return self._fold(operator.mul, [expr.base] * int(expr.exp)) if expr.exp.is_Integer else None
        if isinstance(expr, sympy.Add):
            # n - 1 rather than -1 + n
            terms = sorted(expr.args, key=lambda term: bool(term.is_number or term.could_extract_minus_sign()))
            return self._fold(operator.add, terms)
        functions = {
            sympy.Mul: operator.mul,
            sympy.Mod: operator.mod,
            sympy.Max: torch.sym_max,
            sympy.Min: torch.sym_min,
        }
        return self._fold(functions[expr.func], expr.args) if expr.func in functions else None

    def _quotient(self, above: sympy.Expr, below: sympy.Expr) -> int | fx.Node | None:
        return self._fold(operator.floordiv, [above, below])

    def _fold(self, function: Callable[..., Any], parts: Sequence[sympy.Expr]) -> int | fx.Node | None:
        total: int | fx.Node | None = None
        for index, part in enumerate(parts):
            subtract = index > 0 and function is operator.add and part.could_extract_minus_sign()
            lowered = self._lower(-part if subtract else part)
            if lowered is None:
                return None
            if index == 0:
                total = lowered
                continue
            total = self.graph.call_function(operator.sub if subtract else function, (total, lowered))
        return total

    def _read(self, name: str) -> fx.Node:
        source, dim = self._sources[name]
        with self.graph.inserting_after(self.after_inputs(source)):
            return self.graph.create_node(
                "call_method", "size", (source, dim), name=name if name.isidentifier() else None
            )

    def after_inputs(self, source: fx.Node) -> fx.Node:
        """The last placeholder when `source` is one: sizes are read at the top."""
        while source.op == "placeholder" and source.next.op == "placeholder":
            source = source.next
        return source


__all__ = ["Sizes"]
