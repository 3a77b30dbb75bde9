"""Names for the values of a graph that is written: unique, non-empty, the callers' names untouched."""

from __future__ import annotations

from typing import NamedTuple

from graphopt.errors import SaveError
from graphopt.ir import Graph, Value

# A constant that is returned becomes a Constant node up to this many bytes, beyond them an initializer and an Identity.
_INLINE = 1024


class Border(NamedTuple):
    """A second name of a value, given by an Identity at the end of a graph."""

    source: Value
    name: str


class Names:
    """The name of every value in a graph and its bodies.

    Graph inputs and outputs keep their names exactly. Everything else keeps its label where that is free. All names are
    unique over the outermost graph and its bodies together, as ONNX wants them.

    Attributes:
        of: names by value; a value without label and uses has none.
        borders: for each graph the Identity nodes that its outputs need.
        outputs: for each graph the names of its outputs.
        output_names: all of those.
        returned: constants to write as Constant nodes because they are outputs.
    """

    def __init__(self, graph: Graph) -> None:
        self.of: dict[Value, str] = {}
        self.borders: dict[Graph, list[Border]] = {}
        self.outputs: dict[Graph, list[str]] = {}
        self.returned: set[Value] = set()
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._outermost(graph)
        for body in graph.graphs():
            if body is not graph:
                self._body(body)
        self.output_names = {name for names in self.outputs.values() for name in names}
        for each in graph.graphs():
            self._rest(each)

    def unique(self, label: str) -> str:
        """A name that nothing has: `label` itself, or `label` and a number."""
        name = stem = label or "value"
        while name in self._taken:
            number = self._numbers.get(stem, 0)
            self._numbers[stem] = number + 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name

    def name(self, value: Value) -> str:
        """The name of a value, which gets one now if it had neither a label nor uses."""
        if value not in self.of:
            self.of[value] = self.unique(value.name)
        return self.of[value]

    def _outermost(self, graph: Graph) -> None:
        for index, value in enumerate(graph.inputs):
            name = value.name or f"input_{index}"
            if name in self._taken:
                raise SaveError(f"two inputs are called '{name}'", hint="rename one")
            self._taken.add(name)
            self.of[value] = name
        used = set(self._taken)
        self._taken.update(graph.output_names)
        self.borders[graph], self.outputs[graph] = [], list(graph.output_names)
        returned: set[str] = set()
        for value, name in zip(graph.outputs, graph.output_names, strict=True):
            if name in returned:
                raise SaveError(f"two outputs are called '{name}'", hint="rename one")
            returned.add(name)
            if self.of.get(value) == name:
                continue
            if name in used:
                raise SaveError(f"output '{name}' has the name of an input", hint="rename one")
            self._return(graph, value, name)

    def _body(self, body: Graph) -> None:
        for value in body.inputs:
            self.of[value] = self.unique(value.name)
        self.borders[body], names = [], []
        for value, label in zip(body.outputs, body.output_names, strict=True):
            names.append(self.unique(label))
            self._return(body, value, names[-1])
        self.outputs[body] = names

    def _return(self, graph: Graph, value: Value, name: str) -> None:
        """Lets `graph` return `value` under `name`."""
        own = value.graph is graph and value not in self.of and not value.is_input
        if own and value.producer is not None:
            self.of[value] = name
        elif own and value.parameter is None and _size(value) <= _INLINE:
            self.of[value] = name
            self.returned.add(value)
        else:
            self.borders[graph].append(Border(value, name))

    def _rest(self, graph: Graph) -> None:
        for value in graph.values():
            if value not in self.of and (value.name or value.uses or value.is_constant):
                self.of[value] = self.unique(value.name)


def _size(value: Value) -> int:
    if value.data is not None:
        return value.data.numel() * value.data.element_size()
    return 0 if value.strings is None else sum(map(len, value.strings.reshape(-1)))
