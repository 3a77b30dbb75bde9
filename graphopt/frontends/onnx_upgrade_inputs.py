"""Upgrades of operators whose attributes became inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.frontends.onnx_upgrade import Upgrade, rebuild, step, unsupported, upgrade
from graphopt.ir import DType, Node, Value


def _axes(up: Upgrade, node: Node) -> Sequence[Node]:
    axes = node.attributes.pop("axes", None)
    if axes:
        node.set_inputs([node.operand(0), up.constant(axes)])
    return [node]


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
upgrade(18, *(f"Reduce{kind}" for kind in _REDUCTIONS))(_axes)
upgrade(13, "ReduceSum", "Squeeze", "Unsqueeze")(_axes)


@upgrade(13, "Split")
def _split_sizes(up: Upgrade, node: Node) -> Sequence[Node]:
    sizes = node.attributes.pop("split", None)
    if sizes:
        node.set_inputs([node.operand(0), up.constant(sizes)])
    return [node]


@upgrade(18, "Split")
def _split_count(up: Upgrade, node: Node) -> Sequence[Node]:
    if node.input(1) is None:
        node.attributes["num_outputs"] = len(node.outputs)
    return [node]


@upgrade(11, "Pad")
def _pad(up: Upgrade, node: Node) -> Sequence[Node]:
    x = node.operand(0)
    pads, fill = node.attributes.pop("pads", ()), node.attributes.pop("value", 0.0)
    inputs = [x, up.constant(pads)]
    if fill:
        inputs.append(up.constant(fill, up.torch_dtype(x)))
    node.set_inputs(inputs)
    return [node]


@upgrade(11, "Clip")
def _clip(up: Upgrade, node: Node) -> Sequence[Node]:
    x = node.operand(0)
    bounds: list[Value | None] = []
    for name in ("min", "max"):
        bound = node.attributes.pop(name, None)
        bounds.append(None if bound is None else up.constant(bound, up.torch_dtype(x)))
    node.set_inputs([x, *bounds])
    return [node]


@upgrade(10, "Slice")
def _slice(up: Upgrade, node: Node) -> Sequence[Node]:
    starts, ends = node.attributes.pop("starts"), node.attributes.pop("ends")
    axes = node.attributes.pop("axes", None)
    inputs = [node.operand(0), up.constant(starts), up.constant(ends)]
    node.set_inputs([*inputs, up.constant(axes)] if axes else inputs)
    return [node]


@upgrade(10, "TopK")
def _top_k(up: Upgrade, node: Node) -> Sequence[Node]:
    node.set_inputs([node.operand(0), up.constant([node.attributes.pop("k")])])
    return [node]


@upgrade(12, "Dropout")
def _dropout(up: Upgrade, node: Node) -> Sequence[Node]:
    # These versions say how the file is to be run (for inference) and leave training to a flag that was never kept.
    ratio = node.attributes.pop("ratio", 0.5)
    inputs = [node.operand(0), up.constant(ratio, torch.float32)]
    if up.opset >= 10 or len(node.outputs) < 2:
        node.set_inputs(inputs)
        return [node]
    y, mask = node.outputs
    flags = Value()
    dropout = rebuild(node, "Dropout", inputs, outputs=[y, flags])
    kind = up.type(node.operand(0)).dtype or DType.FLOAT32
    return [dropout, Node("Cast", [flags], {"to": int(kind)}, [mask], origin=node.origin)]


@upgrade(20, "DFT")
def _dft(up: Upgrade, node: Node) -> Sequence[Node]:
    axis = up.constant(node.attributes.pop("axis", 1))
    node.set_inputs([node.operand(0), node.input(1), axis])
    return [node]


@upgrade(10, "Upsample")
def _upsample(up: Upgrade, node: Node) -> Sequence[Node]:
    scales = node.attributes.get("scales")
    given = node.input(1) if scales is None else up.constant(scales, torch.float32)
    if given is None:
        raise unsupported(node, "Upsample has no scales")
    return [_resize(node, given)]


@upgrade(11, "Resize")
def _resize_10(up: Upgrade, node: Node) -> Sequence[Node]:
    return [_resize(node, node.operand(1))]


def _resize(node: Node, scales: Value) -> Node:
    """Resize in the form of opset 11, which names the coordinates and the rounding that were the only ones before."""
    mode = node.attributes.get("mode", "nearest")
    attributes = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    if mode == "nearest":
        # Nobody said what "nearest" rounds to; implementations round down when they enlarge, up when they shrink.
        known = scales.data.tolist() if scales.is_constant and scales.data is not None else []
        shrinks = bool(known) and min(known) < 1 and max(known) <= 1
        attributes["nearest_mode"] = "ceil" if shrinks else "floor"
    else:
        attributes["mode"] = "linear"
    return rebuild(node, "Resize", [node.operand(0), None, scales], attributes)


@upgrade(1 << 30, "MeanVarianceNormalization")
def _mean_variance(up: Upgrade, node: Node) -> Sequence[Node]:
    # Written out because our writer has to (see onnx_forms), so that what is saved reads back the same.
    node.attributes.setdefault("axes", (0, 2, 3))
    return [node]


@upgrade(16, "RoiAlign")
def _roi_align(up: Upgrade, node: Node) -> Sequence[Node]:
    node.attributes["coordinate_transformation_mode"] = "output_half_pixel"
    return [node]


_NEW_MODES = {"bilinear": "linear", "bicubic": "cubic"}


@upgrade(20, "GridSample")
def _grid_sample(up: Upgrade, node: Node) -> Sequence[Node]:
    mode = node.attributes.get("mode")
    if mode in _NEW_MODES:
        node.attributes["mode"] = _NEW_MODES[mode]
    return [node]


@upgrade(7, "PRelu")
def _prelu(up: Upgrade, node: Node) -> Sequence[Node]:
    """A slope per channel used to stand for itself; now it broadcasts from the last dimension."""
    x, slope = node.operand(0), node.operand(1)
    shape, slopes = up.shape(x), up.shape(slope)
    if shape is None or slopes is None:
        raise unsupported(node, "PRelu of opset 6 needs the ranks of its operands, which are unknown")
    if len(slopes) != 1 or slopes[0] == 1 or len(shape) <= 2:
        return [node]
    column = step(node, "Unsqueeze", slope, up.constant([*range(1, len(shape) - 1)]))
    return [column, rebuild(node, "PRelu", [x, column.output])]


@upgrade(11, "Scatter")
def _scatter(up: Upgrade, node: Node) -> Sequence[Node]:
    return [rebuild(node, "ScatterElements", node.inputs, dict(node.attributes))]


@upgrade(13, "Softmax", "LogSoftmax", "Hardmax")
def _softmax(up: Upgrade, node: Node) -> Sequence[Node]:
    """These used to run over all dimensions from `axis` on, taken as one."""
    x, axis = node.operand(0), node.attributes.get("axis", 1)
    shape = up.shape(x)
    if shape is not None:
        axis = axis + len(shape) if axis < 0 else axis
        wide = [i for i in range(axis, len(shape)) if shape[i] != 1]
        if len(wide) <= 1 and axis < len(shape):
            node.attributes["axis"] = wide[0] if wide else axis
            return [node]
    elif axis == -1:
        return [node]
    flat = step(node, "Flatten", x, axis=axis)
    core = step(node, node.op, flat.output, axis=-1)
    size = step(node, "Shape", x)
    return [flat, core, size, rebuild(node, "Reshape", [core.output, size.output])]
