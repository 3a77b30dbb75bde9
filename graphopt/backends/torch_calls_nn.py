"""Call forms of layers: functions of ``torch.nn.functional``, for weights that are no module's own, and pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from graphopt.backends.torch_form import covers_trailing, is_filled, only_first_output, short, static_pads
from graphopt.ir import DType, Node, Value
from graphopt.ir import dims as D
from graphopt.ops import attribute
from graphopt.ops.windows import window

if TYPE_CHECKING:
    from graphopt.backends.torch_emit import Emitter

_CONV = (F.conv1d, F.conv2d, F.conv3d)
_MAX_POOL = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_AVG_POOL = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_ADAPTIVE = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)


def _short(values: Sequence[int]) -> Any:
    """One number where all are the same."""
    return values[0] if len(set(values)) == 1 else tuple(values)


def _conv(e: Emitter, node: Node) -> Any:
    shape = node.operand(1).shape
    if shape is None or len(shape) not in (3, 4, 5):
        return None
    kernel = [size for size in shape[2:] if isinstance(size, int)]
    geometry = static_pads(node, kernel) if len(kernel) == len(shape) - 2 else None
    if geometry is None:
        return None
    strides, dilations, pads = geometry
    begins, ends = pads[: len(kernel)], pads[len(kernel) :]
    x, weight, bias = (*e.operands(node), None)[:3]
    if begins != ends or min(pads) < 0:
        x = e.call(F.pad, x, [p for pair in zip(reversed(begins), reversed(ends), strict=True) for p in pair])
        begins = [0] * len(kernel)
    geometry_args = (_short(strides), _short(begins), _short(dilations), attribute(node, "group"))
    return e.call(_CONV[len(kernel) - 1], x, weight, bias, *geometry_args)


def _gemm(e: Emitter, node: Node) -> Any:
    bias = node.input(2)
    plain = not attribute(node, "transA") and attribute(node, "transB") and attribute(node, "alpha") == 1
    if not plain or (bias is not None and (attribute(node, "beta") != 1 or bias.rank != 1)):
        return None
    if bias is not None and bias.shape is not None and bias.shape[0] == 1 and node.output.shape != (None, 1):
        return None  # a bias that is broadcast, which linear does not do
    return e.call(F.linear, *e.operands(node))


def _matmul(e: Emitter, node: Node) -> Any:
    return e.call(torch.matmul, *e.operands(node))


def _layer_norm(e: Emitter, node: Node) -> Any:
    scale, bias = node.operand(1), node.input(2)
    size = scale.shape
    if not only_first_output(node) or size is None or not covers_trailing(node, [0] * len(size)):
        return None
    numbers = [d for d in size if isinstance(d, int)]
    if len(numbers) != len(size) or (bias is not None and bias.shape != size):
        return None
    if scale.dtype is not node.operand(0).dtype:
        return None
    eps = short(attribute(node, "epsilon"))
    plain = scale not in e.plan.keys and is_filled(scale, 1) and (bias is None or is_filled(bias, 0))
    if plain and (bias is None or bias not in e.plan.keys):
        return e.call(F.layer_norm, e.tensor(node.operand(0)), numbers, eps=eps)
    x, weight, shift = (*e.operands(node), None)[:3]
    return e.call(F.layer_norm, x, numbers, weight, shift, eps)


def _pool_geometry(node: Node) -> tuple[list[int], list[int], list[int], list[int]] | None:
    """Kernel, strides, padding and dilations that torch's pools take; ``None`` where it takes none like it."""
    kernel = list(attribute(node, "kernel_shape"))
    rank = len(kernel)
    strides, dilations, pads, auto_pad = window(node, rank)
    if auto_pad == "VALID":
        pads = [0] * 2 * rank
    if auto_pad.startswith("SAME") or rank not in (1, 2, 3) or not only_first_output(node):
        return None
    begins, ends = pads[:rank], pads[rank:]
    if begins != ends or any(p < 0 or 2 * p > k for p, k in zip(begins, kernel, strict=True)):
        return None
    return (kernel, strides, begins, dilations) if node.operand(0).dtype.is_float else None


def _max_pool(e: Emitter, node: Node) -> Any:
    geometry = _pool_geometry(node)
    if geometry is None:
        return None
    kernel, strides, pads, dilations = geometry
    options: dict[str, Any] = {"padding": _short(pads)} if any(pads) else {}
    if set(dilations) != {1}:
        options["dilation"] = _short(dilations)
    if attribute(node, "ceil_mode") and attribute(node, "auto_pad") != "VALID":
        options["ceil_mode"] = True
    function = _MAX_POOL[len(kernel) - 1]
    return e.call(function, e.tensor(node.operand(0)), _short(kernel), _short(strides), **options)


def _average_pool(e: Emitter, node: Node) -> Any:
    geometry = _pool_geometry(node)
    if geometry is None or set(geometry[3]) != {1}:
        return None
    kernel, strides, pads, _ = geometry
    sizes = (node.operand(0).shape or ())[2:]
    covered = all(isinstance(size, int) and size >= k for size, k in zip(sizes, kernel, strict=True))
    if len(kernel) == 3 and any(pads) and not covered:
        return None  # torch's avg_pool3d wants an image as large as the window, without its pads
    counted = bool(attribute(node, "count_include_pad")) or not any(pads)
    if attribute(node, "ceil_mode"):
        return None  # torch and ONNX differ in what a window that reaches beyond the end counts
    options: dict[str, Any] = {"padding": _short(pads)} if any(pads) else {}
    if not counted:
        options["count_include_pad"] = False
    function = _AVG_POOL[len(kernel) - 1]
    return e.call(function, e.tensor(node.operand(0)), _short(kernel), _short(strides), **options)


def _global_average_pool(e: Emitter, node: Node) -> Any:
    rank = node.operand(0).rank
    if rank not in (3, 4, 5):
        return None
    return e.call(_ADAPTIVE[rank - 3], e.tensor(node.operand(0)), 1)


def _attention(e: Emitter, node: Node) -> Any:
    q, k, mask = node.operand(0), node.operand(1), node.input(3)
    if q.rank != 4 or k.shape is None or q.shape is None or not only_first_output(node):
        return None
    beyond = [node.input(i) for i in (4, 5, 6)]
    special = ("softcap", "softmax_precision", "q_num_heads")
    windowed = attribute(node, "left_window_size") >= 0 or attribute(node, "right_window_size") >= 0
    if windowed or any(beyond) or any(attribute(node, name) for name in special):
        return None
    causal = bool(attribute(node, "is_causal"))
    if causal and mask is not None:
        return None
    if mask is not None and (mask.rank is None or mask.rank < 2 or not _covers(mask, k)):
        return None
    options: dict[str, Any] = {}
    if causal:
        options["is_causal"] = True
    if attribute(node, "scale") is not None:
        options["scale"] = attribute(node, "scale")
    if q.shape[1] != k.shape[1]:
        options["enable_gqa"] = True
    operands = [e.tensor(node.operand(i)) for i in range(3)]
    return e.call(F.scaled_dot_product_attention, *operands, *([] if mask is None else [e.tensor(mask)]), **options)


def _covers(mask: Value, key: Value) -> bool:
    """True when a mask has an entry for every key."""
    assert mask.shape is not None and key.shape is not None
    if mask.dtype is not DType.BOOL and mask.dtype is not key.dtype:
        return False
    return mask.shape[-1] == 1 or D.same(mask.shape[-1], key.shape[2])


# Mode of F.interpolate by ONNX's mode, coordinates and rounding.
_SMOOTH = {("linear", 3): "linear", ("linear", 4): "bilinear", ("linear", 5): "trilinear", ("cubic", 4): "bicubic"}
_NEAREST = {("asymmetric", "floor"): "nearest", ("half_pixel", "round_prefer_ceil"): "nearest-exact"}


def _interpolation(node: Node, rank: int) -> dict[str, Any] | None:
    """The options of F.interpolate that are the same filter; ``None`` where it has none like it."""
    mode, where = attribute(node, "mode"), attribute(node, "coordinate_transformation_mode")
    antialias = bool(attribute(node, "antialias"))
    # torch's antialiasing leaves out what lies outside, its other filters repeat the border.
    if attribute(node, "exclude_outside") != antialias or attribute(node, "keep_aspect_ratio_policy") != "stretch":
        return None
    if mode == "nearest":
        found = _NEAREST.get((where, attribute(node, "nearest_mode")))
        return None if found is None or antialias else {"mode": found}
    smooth = _SMOOTH.get((mode, rank))
    if smooth is None or where not in ("half_pixel", "align_corners"):
        return None
    if mode == "cubic" and abs(attribute(node, "cubic_coeff_a") - (-0.5 if antialias else -0.75)) > 1e-6:
        return None
    options: dict[str, Any] = {"mode": smooth, "align_corners": where == "align_corners"}
    if antialias:
        if rank != 4:
            return None
        options["antialias"] = True
    return options


def _resize(e: Emitter, node: Node) -> Any:
    x, y, scales = node.operand(0), node.output, node.input(2)
    if x.shape is None or y.shape is None or x.rank not in (3, 4, 5) or attribute(node, "axes"):
        return None
    options = _interpolation(node, x.rank)
    if options is None or not all(D.same(a, b) for a, b in zip(x.shape[:2], y.shape[:2], strict=True)):
        return None
    if scales is not None and scales.shape != (0,):
        if not scales.is_constant or scales.data is None:
            return None
        factors = [float(f) for f in scales.data.tolist()]
        whole = factors[:2] == [1.0, 1.0] and all(f == int(f) for f in factors)
        return e.call(F.interpolate, e.tensor(x), scale_factor=factors[2:], **options) if whole else None
    sizes = e.sizes.dims(y.shape[2:])
    return None if sizes is None else e.call(F.interpolate, e.tensor(x), size=sizes, **options)


LAYERS = {
    "Attention": _attention,
    "AveragePool": _average_pool,
    "Conv": _conv,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Resize": _resize,
}

__all__ = ["LAYERS"]
