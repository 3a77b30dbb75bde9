"""Residual chains of any length: the graphs that scaling is measured on."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

CHANNELS = 8


def residual_chain(nodes: int, seed: int = 0) -> onnx.ModelProto:
    """An ONNX model of about `nodes` nodes: blocks of Conv, BatchNormalization, Relu, Identity and a residual Add.

    Args:
        nodes: number of nodes wanted; the model has the next multiple of 5.
        seed: of the weights, which are shared by all blocks to keep the file small but for the batch norms.
    """
    rng = np.random.default_rng(seed)
    weights, made, previous = [], [], "x"

    def weight(name: str, array: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    for block in range(-(-nodes // 5)):
        w = weight(f"w{block}", rng.standard_normal((CHANNELS, CHANNELS, 1, 1)) * 0.1)
        norm = [
            weight(f"scale{block}", rng.uniform(0.5, 1.5, CHANNELS)),
            weight(f"bias{block}", rng.standard_normal(CHANNELS) * 0.1),
            weight(f"mean{block}", rng.standard_normal(CHANNELS) * 0.1),
            weight(f"var{block}", rng.uniform(0.5, 1.5, CHANNELS)),
        ]
        made += [
            helper.make_node("Conv", [previous, w], [f"c{block}"], name=f"conv{block}"),
            helper.make_node("BatchNormalization", [f"c{block}", *norm], [f"b{block}"], name=f"bn{block}"),
            helper.make_node("Relu", [f"b{block}"], [f"r{block}"], name=f"relu{block}"),
            helper.make_node("Identity", [f"r{block}"], [f"i{block}"], name=f"identity{block}"),
            helper.make_node("Add", [f"i{block}", previous], [f"a{block}"], name=f"add{block}"),
        ]
        previous = f"a{block}"
    shape = ["batch", CHANNELS, 4, 4]
    graph = helper.make_graph(
        made, "chain",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(previous, onnx.TensorProto.FLOAT, shape)],
        weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
