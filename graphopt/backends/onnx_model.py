"""ONNX out: graphs as models in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx

from graphopt.backends.lower import lowered
from graphopt.backends.onnx_check import check, complete_outputs
from graphopt.backends.onnx_expand import expanded
from graphopt.backends.onnx_opset import check_opset, possible_opsets
from graphopt.backends.onnx_write import Draft, Weight, draft_model
from graphopt.errors import SaveError, UnsupportedOperatorError
from graphopt.ir import Graph
from graphopt.ir.expect import expect_graph
from graphopt.ir.literals import SparseTensor
from graphopt.ops.collector import paused_gc
from graphopt.ops.protos import pack

if TYPE_CHECKING:
    import onnx_graphsurgeon
    import onnx_ir

#: Protobuf cannot serialize more bytes than this in one message.
PROTOBUF_LIMIT = (1 << 31) - 1


def to_onnx(graph: Graph, opset: int | None = None, *, sparse: bool = False) -> onnx.ModelProto:
    """Writes a graph as a checked ONNX model.

    Input and output names are kept; other names are labels, made unique.

    Args:
        graph: is not changed.
        opset: of the standard operators, from 13 on; operators that it lacks are written out in older ones. By
            default the lowest, from 18 on, that can express the graph as it is.
        sparse: write weights as sparse tensors where that takes fewer bytes: float32 weights with less than a third of
            them left. Constant nodes hold them, which ONNX Runtime makes dense as it loads the file.

    Raises:
        UnsupportedOperatorError: ONNX lacks an operator, or the opset asked for does; names all such operators.
        SaveError: ONNX's checker refuses the result, or it is larger than the 2 GB that one message can hold.
        OptionError: the opset cannot be written.
    """
    with paused_gc():
        draft = checked_draft(graph, opset, sparse)
        if draft_size(draft) > PROTOBUF_LIMIT:
            raise SaveError(
                f"the weights take {draft_size(draft) / 1e9:.1f} GB, one message holds 2 GB",
                hint="use save(graph, path), which puts weights into a file of their own",
            )
        for weight in draft.weights:
            proto = draft.model.graph.initializer.add()
            proto.CopyFrom(weight.proto)
            if weight.data is not None:
                proto.raw_data = pack(weight.data, weight.dtype).tobytes()
        return draft.model


def checked_draft(graph: Graph, opset: int | None, sparse: bool = False) -> Draft:
    """The model of a graph with its weights apart, checked as ONNX's checker would check the whole.

    Torch operators that ONNX lacks, and what the opset asked for does not have, are written out in others where they
    can be.

    Some operators changed their type rules without changing their form, so what the checker refuses at one opset it may
    accept at a later one.
    """
    expect_graph(graph, "to_onnx")
    check_opset(opset)
    graph = lowered(graph)
    if opset is not None:
        graph = expanded(graph, opset)
    refused: SaveError | None = None
    for candidate in possible_opsets(graph, opset):
        draft = draft_model(graph, candidate, sparse)
        complete_outputs(draft)
        try:
            check(draft)
        except SaveError as error:
            refused = refused or error
        else:
            return draft
    assert refused is not None, "possible_opsets raises when there is none"
    if opset is not None:
        _name_a_better(graph, opset, refused)
    raise refused


def _name_a_better(graph: Graph, opset: int, refused: SaveError) -> None:
    """Raises UnsupportedOperatorError when the checker accepts the graph at another opset."""
    for candidate in possible_opsets(graph, None):
        draft = draft_model(graph, candidate)
        complete_outputs(draft)
        try:
            check(draft)
        except SaveError:
            continue
        raise UnsupportedOperatorError(
            f"opset {opset} cannot express the graph: {refused.what}", hint=f"opset {candidate} can"
        )


def weight_size(weight: Weight) -> int:
    """Bytes of a large weight's data in a file; 0 for a small one, whose message holds them."""
    return 0 if weight.data is None else -(-weight.data.numel() * weight.dtype.bits // 8)


def draft_size(draft: Draft) -> int:
    """Bytes of the whole model in one file, to within a few per weight."""
    weights: int = sum(w.proto.ByteSize() + weight_size(w) + 16 for w in draft.weights)
    return int(draft.model.ByteSize()) + weights


def to_graphsurgeon(graph: Graph, opset: int | None = None) -> onnx_graphsurgeon.Graph:
    """The graph as an ``onnx_graphsurgeon.Graph``, by way of `to_onnx` (which says what it raises).

    onnx-graphsurgeon has no place for local functions' opsets and node metadata, and copies constants that a body reads
    from outside into the body.

    Raises:
        SaveError: the graph holds sparse tensors, which onnx-graphsurgeon drops.
    """
    import onnx_graphsurgeon

    expect_graph(graph, "to_graphsurgeon")
    _refuse_sparse(graph, "onnx-graphsurgeon")
    return onnx_graphsurgeon.import_onnx(to_onnx(graph, opset))


def to_onnx_ir(graph: Graph, opset: int | None = None) -> onnx_ir.Model:
    """The graph as an ``onnx_ir.Model``, by way of `to_onnx` (which says what it raises).

    Raises:
        SaveError: the graph holds sparse tensors, which onnx_ir cannot read.
    """
    import onnx_ir

    expect_graph(graph, "to_onnx_ir")
    _refuse_sparse(graph, "onnx_ir")
    converted: Any = onnx_ir.serde.deserialize_model(to_onnx(graph, opset))
    return converted  # type: ignore[no-any-return]  # onnx_ir may be missing, its types too


def _refuse_sparse(graph: Graph, library: str) -> None:
    for node in graph.walk():
        if any(isinstance(attribute, SparseTensor) for attribute in node.attributes.values()):
            raise SaveError(
                f"{library} has no sparse tensors", where=node.describe(), hint="make it dense first, or use to_onnx"
            )


__all__ = ["PROTOBUF_LIMIT", "to_graphsurgeon", "to_onnx", "to_onnx_ir"]
