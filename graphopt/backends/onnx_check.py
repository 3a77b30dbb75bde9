"""ONNX's own checker and shape inference over what is about to be written."""

from __future__ import annotations

import onnx

from graphopt.backends.onnx_write import Draft
from graphopt.errors import SaveError

# A domain that no checker knows, for a node that stands for whatever feeds an input of unknown rank.
_ANYWHERE = "graphopt.anywhere"


def complete_outputs(draft: Draft) -> None:
    """Gives outputs without a known type the one that ONNX's shape inference finds, if it finds one."""
    outputs = draft.model.graph.output
    if all(_is_typed(info) for info in outputs):
        return
    try:
        inferred = onnx.shape_inference.infer_shapes(_skeleton(draft, keep_outputs=True), data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return  # the checker says better what is wrong
    for info, found in zip(outputs, inferred.graph.output, strict=True):
        if not _is_typed(info) and found.HasField("type"):
            info.type.CopyFrom(found.type)
            _forget_made_up_names(info.type.tensor_type.shape)


def _forget_made_up_names(shape: onnx.TensorShapeProto) -> None:
    # Shape inference calls sizes that it knows nothing about unk__0, unk__1, ...
    for dim in shape.dim:
        if dim.dim_param.startswith("unk__"):
            dim.ClearField("dim_param")


def check(draft: Draft) -> None:
    """Runs the full checker, which includes strict shape inference with data propagation.

    Weights take part with their types only, so that their size does not matter; an input or output of unknown rank,
    which the checker refuses though the format allows it, takes part as a value from nowhere.

    Raises:
        SaveError: the checker refuses the model, or infers other types than the graph has.
    """
    try:
        onnx.checker.check_model(_skeleton(draft).SerializeToString(), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise SaveError(
            f"ONNX's checker refuses the graph: {_first_lines(str(error))}",
            hint="a pass left wrong types or attributes; verify the graph after each pass to find which",
        ) from None


def _skeleton(draft: Draft, keep_outputs: bool = False) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(draft.model)
    graph = model.graph
    given = {info.name for info in graph.input}
    for weight in draft.weights:
        proto = weight.proto
        if weight.data is None:
            graph.initializer.append(proto)
        elif proto.name not in given:
            info = onnx.helper.make_tensor_value_info(proto.name, proto.data_type, list(proto.dims))
            graph.input.append(info)
    loose = [info for info in graph.input if not _is_typed(info)]
    if loose:
        sources = [
            onnx.NodeProto(op_type="Any", domain=_ANYWHERE, output=[info.name]) for info in loose
        ]  # fmt: skip
        nodes = [*sources, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
        kept = [info for info in graph.input if _is_typed(info)]
        del graph.input[:]
        graph.input.extend(kept)
        model.opset_import.add(domain=_ANYWHERE, version=1)
    if not keep_outputs and not all(map(_is_typed, graph.output)):
        kept = [info for info in graph.output if _is_typed(info)]
        del graph.output[:]
        graph.output.extend(kept)
    return model


def _is_typed(info: onnx.ValueInfoProto) -> bool:
    kind = info.type
    if kind.HasField("tensor_type"):
        return kind.tensor_type.elem_type != 0 and kind.tensor_type.HasField("shape")
    if kind.HasField("sparse_tensor_type"):
        return kind.sparse_tensor_type.elem_type != 0 and kind.sparse_tensor_type.HasField("shape")
    return kind.WhichOneof("value") is not None


def _first_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:2])[:400]
