"""Means and deviations of channels that are known without data: from batch normalizations, in place or folded."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import numpy as np
import torch

from graphopt.errors import PassError
from graphopt.ir import Graph, Node, Value

#: `Node.metadata` key: mean and deviation of each channel of the node's output, little-endian float32 in base64. A rule
#: that folds the node hands its metadata on to what then makes the same numbers.
KEY = "graphopt.statistics"


@dataclass(frozen=True)
class Statistics:
    """What a batch normalization says of its channels: normal numbers of this mean and deviation.

    Attributes:
        mean: [C], float64.
        deviation: [C], float64, not negative.
    """

    mean: torch.Tensor
    deviation: torch.Tensor


def statistics_of(value: Value) -> Statistics | None:
    """The statistics of the channels of a value, dimension 1; ``None`` when nothing is known.

    Raises:
        PassError: what is noted cannot be read.
    """
    node = value.producer
    if node is None or len(node.outputs) != 1:  # of several outputs a note would not tell which it means
        return None
    found = _normalized(node) or _noted(node)
    channels = value.shape[1] if value.shape is not None and len(value.shape) > 1 else None
    return found if found is not None and channels == len(found.mean) else None


def note(node: Node, statistics: Statistics) -> bool:
    """Writes statistics to what makes the channels. Returns whether others were there, or none."""
    stored = torch.cat([statistics.mean, statistics.deviation]).numpy().astype("<f4")
    text = base64.b64encode(stored.tobytes()).decode()
    if node.metadata.get(KEY) == text:
        return False
    node.metadata[KEY] = text
    return True


def move(value: Value, shift: torch.Tensor, factor: torch.Tensor) -> None:
    """Keeps the note of a value true, when there is one, of which each channel is now ``factor * x + shift``: [C]."""
    node = value.producer
    noted = None if node is None else _noted(node)
    if node is not None and noted is not None and len(noted.mean) == len(shift):
        note(node, Statistics(noted.mean * factor + shift, noted.deviation * factor.abs()))


def forget(graph: Graph) -> int:
    """Takes all notes out of a graph. Returns how many there were."""
    noted = [node for node in graph.nodes if KEY in node.metadata]
    for node in noted:
        del node.metadata[KEY]
    return len(noted)


def _noted(node: Node) -> Statistics | None:
    if KEY not in node.metadata:
        return None
    try:
        stored = np.frombuffer(base64.b64decode(node.metadata[KEY], validate=True), "<f4").astype(np.float64)
        mean, deviation = torch.from_numpy(stored).reshape(2, -1)
    except (binascii.Error, ValueError, RuntimeError) as error:
        raise PassError(
            f"metadata '{KEY}' cannot be read ({error})", where=node.describe(),
            hint="remove that metadata, or run keep-statistics on the model before its normalizations are folded",
        ) from error  # fmt: skip
    return Statistics(mean, deviation)


def _normalized(node: Node) -> Statistics | None:
    """The shift and scale of a BatchNormalization at inference."""
    if node.op != "BatchNormalization" or node.domain or node.attributes.get("training_mode"):
        return None
    scale, shift = node.operand(1).data, node.operand(2).data
    if scale is None or shift is None or node.operand(2).is_input or node.operand(1).is_input:
        return None
    return Statistics(shift.detach().double(), scale.detach().double().abs())
