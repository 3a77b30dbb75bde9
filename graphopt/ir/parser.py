"""The text form, read: see `graphopt.ir.text` for what it looks like. Nothing is ever evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from graphopt.errors import nearest
from graphopt.ir.graph import Graph
from graphopt.ir.lexer import Lexer
from graphopt.ir.literal_parser import LiteralParser, without_number
from graphopt.ir.node import Node, Origin
from graphopt.ir.printer import VERSION
from graphopt.ir.signature import Leaf, ModelInfo, Signature
from graphopt.ir.types import UNKNOWN, ValueType
from graphopt.ir.value import Parameter, Value

_NOTHING: tuple[str, ...] = ()
_CLAUSES = ("name", "in", "from", "by", "doc", "meta")


class Parser:
    """Reads one text.

    Args:
        lexer: over the text.
        weights: the tensors that the text names; ``None`` puts meta tensors in their places.
    """

    def __init__(self, lexer: Lexer, weights: Mapping[str, torch.Tensor] | None) -> None:
        self._lexer = lexer
        self._literals = LiteralParser(lexer, weights, self.graph)
        self._visible: dict[str, Value] = {}

    def document(self) -> Graph:
        """Reads the text of an outermost graph, to its end."""
        lexer = self._lexer
        lexer.expect("graphopt")
        start, version = lexer.start, lexer.take("number", "the version of the text form")
        if version != str(VERSION):
            lexer.fail(f"version {version} of the text form is not known, only {VERSION}", start)
        graph = self.graph()
        if lexer.kind != "end":
            lexer.fail(f"expected the end of the text, found {lexer.found}")
        return graph

    def graph(self) -> Graph:
        """Reads a graph or a body."""
        lexer = self._lexer
        lexer.expect("graph")
        graph = Graph(lexer.string())
        while not lexer.accept("("):
            self._graph_clause(graph)
        local: list[str] = []
        while not lexer.accept(")"):
            self._input(graph, local)
            if not lexer.accept(",") and not lexer.sees(")"):
                lexer.expect(",")
        lexer.expect("{")
        while not lexer.accept("return"):
            self._statement(graph, local)
        self._outputs(graph)
        lexer.expect("}")
        for name in local:
            del self._visible[name]
        return graph

    def _graph_clause(self, graph: Graph) -> None:
        lexer = self._lexer
        if lexer.accept("model"):
            start, fields = lexer.start, self._literals.record()
            graph.model = self._build(lambda: ModelInfo(**fields), "model", start)
        elif lexer.accept("signature"):
            start, fields = lexer.start, self._literals.record()
            graph.signature = self._build(lambda: _signature(fields), "signature", start)
        elif lexer.sees("doc") or lexer.sees("meta"):
            self._notes(graph)
        else:
            lexer.fail(f"expected the inputs in parentheses, found {lexer.found}")

    def _build(self, make: Callable[[], Any], what: str, start: int) -> Any:
        try:
            return make()
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError) as error:
            self._lexer.fail(f"malformed {what}: {error}", start)

    def _notes(self, item: Graph | Value) -> None:
        lexer = self._lexer
        while True:
            if lexer.accept("doc"):
                item.doc = lexer.string()
            elif lexer.accept("meta"):
                item.metadata = self._strings_by_name()
            else:
                return

    def _strings_by_name(self) -> dict[str, str]:
        start, items = self._lexer.start, self._literals.mapping()
        if not all(isinstance(item, str) for item in items.values()):
            self._lexer.fail("metadata are strings", start)
        return items

    # -- values

    def _define(self, value: Value, token: str, start: int, local: list[str]) -> None:
        if token in self._visible:
            self._lexer.fail(f"{token} is defined twice", start)
        self._visible[token] = value
        local.append(token)

    def _read(self) -> Value:
        start, token = self._lexer.start, self._lexer.take("value", "a value such as %x")
        value = self._visible.get(token)
        if value is None:
            hint = nearest(token, self._visible)
            self._lexer.fail(f"{token} is not defined before this{': ' + hint if hint else ''}", start)
        return value

    def _name_of(self, token: str, start: int) -> str:
        name = without_number(token[1:])
        return self._lexer.unquoted(name, start + 1) if name.startswith('"') else name

    def _type(self) -> ValueType:
        return self._literals.type() if self._lexer.accept(":") else UNKNOWN

    def _input(self, graph: Graph, local: list[str]) -> None:
        lexer = self._lexer
        start, token = lexer.start, lexer.take("value", "an input such as %x")
        value = graph.add_input(self._name_of(token, start), self._type())
        self._define(value, token, start, local)
        self._notes(value)
        if lexer.accept("="):
            value.data = self._literals.dense(value.type)
        value.parameter = self._parameter()

    def _parameter(self) -> Parameter | None:
        lexer = self._lexer
        buffer = lexer.sees("buffer")
        if not lexer.accept("buffer") and not lexer.accept("parameter"):
            return None
        name = lexer.string()
        aliases = self._literals.strings() if lexer.accept("aliases") else ()
        places = self._literals.integers() if lexer.accept("places") else ()
        persistent = not lexer.accept("transient")
        return Parameter(name, aliases, buffer, persistent, not lexer.accept("frozen"), places)

    # -- statements

    def _statement(self, graph: Graph, local: list[str]) -> None:
        lexer = self._lexer
        results: list[tuple[Value, str, int]] = []
        if lexer.accept("("):
            lexer.expect(")")
        else:
            results.append(self._result())
            while lexer.accept(","):
                results.append(self._result())
        lexer.expect("=")
        if len(results) == 1 and lexer.sees("dense"):
            [(value, token, start)] = results
            value.data = self._literals.dense(value.type)
            value.parameter = self._parameter()
            graph.add_constant(value)
        else:
            graph.append(self._node([value for value, _, _ in results]))
        for value, token, start in results:
            if token != "_":
                self._define(value, token, start, local)

    def _result(self) -> tuple[Value, str, int]:
        lexer = self._lexer
        start = lexer.start
        if lexer.accept("_"):
            token, name = "_", ""
        else:
            token = lexer.take("value", "a statement such as %y = Relu(%x), or return")
            name = self._name_of(token, start)
        value = Value(self._type(), name)
        self._notes(value)
        return value, token, start

    def _part(self) -> str:
        lexer = self._lexer
        return lexer.string() if lexer.kind == "string" else lexer.take("word", "an operator")

    def _node(self, outputs: list[Value]) -> Node:
        lexer = self._lexer
        domain, op, overload = "", self._part(), ""
        if lexer.accept("::"):
            domain, op = op, self._part()
        if lexer.accept("@"):
            overload = self._part()
        lexer.expect("(")
        inputs: list[Value | None] = []
        while not lexer.accept(")"):
            inputs.append(None if lexer.accept("none") else self._read())
            if not lexer.accept(",") and not lexer.sees(")"):
                lexer.expect(",")
        attributes = self._literals.record() if lexer.sees("{") else {}
        node = Node(op, inputs, attributes, outputs, domain=domain, overload=overload)
        self._node_clauses(node)
        return node

    def _node_clauses(self, node: Node) -> None:
        lexer = self._lexer
        module, sources, passes = "", _NOTHING, _NOTHING
        while lexer.kind == "word" and lexer.text in _CLAUSES:
            clause = lexer.advance()
            if clause == "name":
                node.name = lexer.string()
            elif clause == "in":
                module = lexer.string()
            elif clause == "from":
                sources = self._literals.strings()
            elif clause == "by":
                passes = self._literals.strings()
            elif clause == "doc":
                node.doc = lexer.string()
            else:
                node.metadata = self._strings_by_name()
        node.origin = Origin(module, sources, passes)

    def _outputs(self, graph: Graph) -> None:
        lexer = self._lexer
        while lexer.kind == "value":
            start, token = lexer.start, lexer.text
            value = self._read()
            graph.add_output(value, lexer.string() if lexer.accept("as") else self._name_of(token, start))
            if not lexer.accept(","):
                break


def _signature(fields: dict[str, Any]) -> Signature:
    from torch.utils import _pytree as pytree

    for name in ("in_tree", "out_tree"):
        fields[name] = pytree.treespec_loads(fields[name])
    for name in ("inputs", "outputs"):
        fields[name] = tuple(leaf if isinstance(leaf, Leaf) else Leaf(int(leaf)) for leaf in fields[name])
    return Signature(**fields)
