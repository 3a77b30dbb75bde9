"""Texts of ONNX files are UTF-8; protobuf gives bytes for one that is not, where the rest of the file is sound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import onnx

from graphopt.errors import LoadError
from graphopt.ir import Graph, ModelInfo, Node, Value


def read_metadata(entries: Iterable[onnx.StringStringEntryProto]) -> dict[str, str]:
    """The entries of ``metadata_props``. Raises LoadError for one that is no text."""
    metadata = {entry.key: entry.value for entry in entries}
    if metadata:
        require_text("metadata", [*metadata, *metadata.values()])
    return metadata


def require_text(what: str, texts: Iterable[Any]) -> None:
    """Raises LoadError when one of `texts` is bytes; `what` names them."""
    for text in texts:
        if not isinstance(text, str):
            raise LoadError(
                f"{what} has the text {bytes(text)[:40]!r}, which is not UTF-8",
                hint="the file is malformed; fetch or export it again",
            )


def require_texts(graph: Graph) -> None:
    """Raises LoadError when a name or other text of a graph that was read, or of its model, is not UTF-8."""
    try:
        "".join(_texts(graph))
    except TypeError:
        for what, texts in _places(graph):
            require_text(what, texts)


def _texts(graph: Graph) -> Iterator[str]:
    for _, texts in _places(graph):
        yield from texts


def _places(graph: Graph) -> Iterator[tuple[str, Iterable[str]]]:
    yield "the model", _of_model(graph.model)
    for each in graph.graphs():
        yield "a graph", (each.name, each.doc, *each.output_names)
        for value in (*each.inputs, *each.constants):
            yield "a value", _of_value(value)
        for node in each.nodes:
            yield "a node", _of_node(node)


def _of_model(info: ModelInfo) -> Iterable[str]:
    return info.producer_name, info.producer_version, info.domain, info.doc, *info.domains


def _of_value(value: Value) -> Iterable[str]:
    return value.name, value.doc


def _of_node(node: Node) -> Iterator[str]:
    yield from (node.op, node.domain, node.overload, node.name, node.doc)
    attributes: Mapping[str, Any] = node.attributes
    yield from attributes
    for value in node.outputs:
        yield value.name
        yield value.doc


__all__ = ["read_metadata", "require_text", "require_texts"]
