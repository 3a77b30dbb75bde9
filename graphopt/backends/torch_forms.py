"""Matchers: which nodes are an ``nn.Module`` with weights, as a table from operators to functions.

A matcher looks at one node and yields the modules that it could be, the most telling first. Whether a form can be used
depends on the names of its weights, which `graphopt.backends.torch_plan` decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from graphopt.backends.torch_form import (
    Form,
    Matcher,
    Weight,
    covers_trailing,
    is_filled,
    is_weight,
    only_first_output,
    peel,
    plain,
    shape_of,
    short,
    static_pads,
    weight_and_bias,
)  # fmt: skip
from graphopt.backends.torch_recurrent import recurrent
from graphopt.ir import Node, Value
from graphopt.ops import attribute
from graphopt.ops.windows import window

# -- convolutions


def _conv(node: Node) -> Iterator[Form]:
    weight, bias = node.operand(1), node.input(2)
    if not is_weight(weight, node) or (bias is not None and not is_weight(bias, node)):
        return
    shape, group = shape_of(weight), attribute(node, "group")
    rank = len(shape) - 2
    geometry = static_pads(node, shape[2:]) if rank in (1, 2, 3) else None
    if geometry is None:
        return
    strides, dilations, pads = geometry
    begins, ends = pads[:rank], pads[rank:]
    amounts: tuple[int, ...] = ()
    if begins != ends or min(pads) < 0:
        amounts = tuple(p for pair in zip(reversed(begins), reversed(ends), strict=True) for p in pair)
        begins = [0] * rank
    options = {
        "in_channels": shape[1] * group, "out_channels": shape[0], "kernel_size": tuple(shape[2:]),
        "stride": tuple(strides), "padding": tuple(begins), "dilation": tuple(dilations), "groups": group,
        "bias": bias is not None,
    }  # fmt: skip
    module = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    yield Form(module, options, weight_and_bias(weight, bias), (node.operand(0),), pad=amounts)


def _conv_transpose(node: Node) -> Iterator[Form]:
    weight, bias = node.operand(1), node.input(2)
    if not is_weight(weight, node) or (bias is not None and not is_weight(bias, node)):
        return
    shape, group = shape_of(weight), attribute(node, "group")
    rank = len(shape) - 2
    if rank not in (1, 2, 3) or attribute(node, "output_shape"):
        return
    strides, dilations, pads, auto_pad = window(node, rank)
    if auto_pad not in ("NOTSET", "VALID") or pads[:rank] != pads[rank:]:
        return
    extra = list(attribute(node, "output_padding") or [0] * rank)
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        return
    options = {
        "in_channels": shape[0], "out_channels": shape[1] * group, "kernel_size": tuple(shape[2:]),
        "stride": tuple(strides), "padding": tuple(pads[:rank]), "output_padding": tuple(extra),
        "groups": group, "bias": bias is not None, "dilation": tuple(dilations),
    }  # fmt: skip
    module = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 1]
    yield Form(module, options, weight_and_bias(weight, bias), (node.operand(0),))


# -- linear


def _transposed(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    return (tensor.t().contiguous(),)


def _transposed_back(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return tensors[0].t().contiguous()


def _linear(x: Value, weight: Weight, bias: Value | None, size: Sequence[int], absorbed: tuple[Node, ...]) -> Form:
    weights = (weight, *([] if bias is None else [plain("bias", bias)]))
    options = {"in_features": size[1], "out_features": size[0], "bias": bias is not None}
    return Form(nn.Linear, options, weights, (x,), absorbed)


def _gemm(node: Node) -> Iterator[Form]:
    weight, bias = node.operand(1), node.input(2)
    if attribute(node, "transA") or attribute(node, "alpha") != 1 or (bias and attribute(node, "beta") != 1):
        return
    found = _matrix(node, weight, transposed=bool(attribute(node, "transB")))
    if found is None:
        return
    matrix, size = found
    if bias is None or (is_weight(bias, node) and shape_of(bias) == size[:1]):
        yield _linear(node.operand(0), matrix, bias, size, ())


def _matrix(node: Node, value: Value, transposed: bool) -> tuple[Weight, tuple[int, ...]] | None:
    """The weight of a linear layer, and its size [out, in]."""
    producer = value.producer
    if producer is not None and producer.op == "Transpose" and not producer.domain:
        if tuple(attribute(producer, "perm") or (1, 0)) != (1, 0):
            return None
        value, transposed = producer.operand(0), not transposed
    if not is_weight(value, node) or len(shape_of(value)) != 2:
        return None
    if transposed:
        return plain("weight", value), shape_of(value)
    weight = Weight(value, ("weight",), layout="transposed", unpack=_transposed, pack=_transposed_back)
    return weight, tuple(reversed(shape_of(value)))


def _matmul(node: Node) -> Iterator[Form]:
    found = _matrix(node, node.operand(1), transposed=False)
    rank = node.operand(0).rank
    if found is not None and rank is not None and rank >= 1:
        yield _linear(node.operand(0), found[0], None, found[1], ())


def _add(node: Node) -> Iterator[Form]:
    for left, bias in ((node.operand(0), node.operand(1)), (node.operand(1), node.operand(0))):
        product = left.producer
        if product is None or product.op != "MatMul" or product.domain or len(left.uses) != 1:
            continue
        rank = product.operand(0).rank
        if product.graph is not node.graph or not is_weight(bias, node) or rank is None:
            continue
        found = _matrix(node, product.operand(1), transposed=False)
        if found is not None and shape_of(bias) == found[1][:1]:
            yield _linear(product.operand(0), found[0], bias, found[1], (product,))


# -- normalisation


def _batch_norm(node: Node) -> Iterator[Form]:
    x, scale, bias, mean, var = (node.operand(i) for i in range(5))
    if x.rank not in (2, 3, 4, 5) or attribute(node, "training_mode") or not only_first_output(node):
        return
    if not all(is_weight(value, node) for value in (scale, bias, mean, var)):
        return
    options = {
        "num_features": shape_of(mean)[0], "eps": short(attribute(node, "epsilon")),
        "momentum": round(1 - attribute(node, "momentum"), 6),
    }  # fmt: skip
    module = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[x.rank]
    statistics = (plain("running_mean", mean, True), plain("running_var", var, True))
    counter = ("num_batches_tracked",)
    yield Form(module, options, (*weight_and_bias(scale, bias), *statistics), (x,), extra=counter)
    if is_filled(scale, 1) and is_filled(bias, 0):
        yield Form(module, {**options, "affine": False}, statistics, (x,), extra=counter)


def _layer_norm(node: Node) -> Iterator[Form]:
    x, scale, bias = node.operand(0), node.operand(1), node.input(2)
    if not is_weight(scale, node) or (bias is not None and not is_weight(bias, node)) or not only_first_output(node):
        return
    size = shape_of(scale)
    if not covers_trailing(node, size) or (bias is not None and shape_of(bias) != size):
        return
    options = {"normalized_shape": size, "eps": short(attribute(node, "epsilon"))}
    yield Form(nn.LayerNorm, {**options, "bias": bias is not None}, weight_and_bias(scale, bias), (x,))
    if is_filled(bias, 0):
        yield Form(nn.LayerNorm, {**options, "bias": False}, weight_and_bias(scale, None), (x,))


def _rms_norm(node: Node) -> Iterator[Form]:
    scale = node.operand(1)
    if is_weight(scale, node) and covers_trailing(node, shape_of(scale)):
        options = {"normalized_shape": shape_of(scale), "eps": short(attribute(node, "epsilon"))}
        yield Form(nn.RMSNorm, options, (plain("weight", scale),), (node.operand(0),))


def _is_single(x: Value, groups: int) -> bool:
    """Whether groups have one element: torch's layers refuse to take statistics of that, ONNX's operators do not."""
    sizes = (x.shape or ())[1:]
    return math.prod(size if isinstance(size, int) else 0 for size in sizes) == groups


def _group_norm(node: Node) -> Iterator[Form]:
    x, scale, bias = (node.operand(i) for i in range(3))
    single = _is_single(x, attribute(node, "num_groups"))
    if is_weight(scale, node) and is_weight(bias, node) and not single:
        options = {
            "num_groups": attribute(node, "num_groups"), "num_channels": shape_of(scale)[0],
            "eps": short(attribute(node, "epsilon")),
        }  # fmt: skip
        yield Form(nn.GroupNorm, options, weight_and_bias(scale, bias), (x,))


def _instance_norm(node: Node) -> Iterator[Form]:
    x, scale, bias = (node.operand(i) for i in range(3))
    weights = is_weight(scale, node) and is_weight(bias, node)
    if x.rank in (3, 4, 5) and weights and not _is_single(x, shape_of(scale)[0]):
        module = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[x.rank - 3]
        options = {
            "num_features": shape_of(scale)[0],
            "eps": short(attribute(node, "epsilon")),
            "affine": True,
        }
        yield Form(module, options, weight_and_bias(scale, bias), (x,))


# -- others


def _embedding(node: Node) -> Iterator[Form]:
    weight, ids = node.operand(0), node.operand(1)
    if attribute(node, "axis") != 0 or not is_weight(weight, node) or len(shape_of(weight)) != 2:
        return
    # Gather counts negative indices from the end, Embedding refuses them: only what is named like one is taken for one.
    name = weight.parameter.name if weight.parameter else weight.name
    if ids.is_constant or not (weight.parameter or name.endswith(".weight")):
        return
    rows, columns = shape_of(weight)
    options = {"num_embeddings": rows, "embedding_dim": columns}
    yield Form(nn.Embedding, options, (plain("weight", weight),), (ids,))


def _prelu(node: Node) -> Iterator[Form]:
    x, slope = node.operand(0), node.operand(1)
    base, shape, rank = peel(slope), slope.shape, x.rank
    if not is_weight(base, node) or shape is None or rank is None:
        return
    count = math.prod(shape_of(base))
    per_channel = len(shape) == rank - 1 and shape[:1] == (count,) and all(d == 1 for d in shape[1:])
    if count != 1 and not per_channel:
        return
    size = shape_of(base)
    weight = plain("weight", base)
    if len(size) != 1:
        weight = Weight(
            base, ("weight",), layout="flat",
            unpack=lambda tensor: (tensor.reshape(-1),), pack=lambda tensors: tensors[0].reshape(size),
        )  # fmt: skip
    yield Form(nn.PReLU, {"num_parameters": count}, (weight,), (x,))


# Capture notes the kind of a dropout that is not the plain one in the node's metadata, under this key.
_DROPOUT_KIND = "torch.dropout"
_RANKS = range(1, 9)
_DROPOUTS: Mapping[str, Mapping[int, type[nn.Module]]] = {
    "feature_dropout": {2: nn.Dropout1d, 3: nn.Dropout1d, 4: nn.Dropout2d, 5: nn.Dropout3d},
    "alpha_dropout": dict.fromkeys(_RANKS, nn.AlphaDropout),
    "feature_alpha_dropout": dict.fromkeys(_RANKS, nn.FeatureAlphaDropout),
}


def _dropout(node: Node) -> Iterator[Form]:
    ratio, mode, graph = node.input(1), node.input(2), node.graph
    if not only_first_output(node) or not all(v is None or v.is_constant for v in (ratio, mode)):
        return
    probability = 0.5 if ratio is None or ratio.data is None else float(ratio.data)
    always = mode is not None and mode.data is not None and bool(mode.data)
    signature = None if graph is None else graph.root.signature
    # Captured in training mode, a Dropout is on because the module was; otherwise somebody wants it to be on always.
    if not always or (signature is not None and signature.training):
        kind = _DROPOUTS.get(node.metadata.get(_DROPOUT_KIND, ""), {}).get(node.operand(0).rank or 0, nn.Dropout)
        yield Form(kind, {"p": short(probability)}, (), (node.operand(0),))


#: Operator -> matcher. Add a line to teach the backend another module.
FORMS: dict[str, Matcher] = {
    "Add": _add,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Dropout": _dropout,
    "GRU": recurrent,
    "Gather": _embedding,
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LSTM": recurrent,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "PRelu": _prelu,
    "RNN": recurrent,
    "RMSNormalization": _rms_norm,
}

#: Inputs that are trained when they are float constants, even where no form fits.
TRAINED: dict[str, Mapping[int, str]] = {
    "BatchNormalization": {1: "weight", 2: "bias"},
    "Conv": {1: "weight", 2: "bias"},
    "ConvTranspose": {1: "weight", 2: "bias"},
    "DeformConv": {1: "weight", 3: "bias"},
    "Gemm": {1: "weight", 2: "bias"},
    "GRU": {1: "weight", 2: "recurrence", 3: "bias"},
    "GroupNormalization": {1: "weight", 2: "bias"},
    "InstanceNormalization": {1: "weight", 2: "bias"},
    "LSTM": {1: "weight", 2: "recurrence", 3: "bias", 7: "peephole"},
    "LayerNormalization": {1: "weight", 2: "bias"},
    "MatMul": {1: "weight"},
    "PRelu": {1: "weight"},
    "RMSNormalization": {1: "weight"},
    "RNN": {1: "weight", 2: "recurrence", 3: "bias"},
}

__all__ = ["FORMS", "TRAINED"]
