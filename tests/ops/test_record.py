"""Operator records: what is read off a computation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graphopt.ops.record import REQUIRED, Operator, find, hands_on


def scaled(x: torch.Tensor, *, factor: float = 2.0, steps: int, outputs: int = 1) -> torch.Tensor:
    """A computation with attributes, one of them without a default, and a keyword that is none."""
    return x * factor * steps


def test_a_computation_that_hands_on_has_the_attributes_of_the_other_and_its_own() -> None:
    @hands_on(scaled)
    def shifted(x: torch.Tensor, *, by: float = 1.0, **attributes: Any) -> torch.Tensor:
        return scaled(x, **attributes) + by

    operator = Operator("Shifted", compute=shifted)
    assert operator.attributes == {"by": 1.0, "factor": 2.0, "steps": REQUIRED}
    assert shifted(torch.ones(1), steps=3).item() == 7


def test_own_attributes_win_and_others_may_be_left_out() -> None:
    @hands_on(scaled, without=("steps",))
    def tripled(x: torch.Tensor, *, factor: float = 3.0, **attributes: Any) -> torch.Tensor:
        return scaled(x, factor=factor, steps=1, **attributes)

    assert Operator("Tripled", compute=tripled).attributes == {"factor": 3.0}


@pytest.mark.parametrize(
    ("name", "domain", "like", "missing"),
    [
        ("FusedConv", "com.microsoft", "Conv", set()),
        ("FusedGemm", "com.microsoft", "Gemm", set()),
        ("QLinearAveragePool", "com.microsoft", "AveragePool", {"dilations"}),
        ("DynamicQuantizeLSTM", "com.microsoft", "LSTM", {"layout"}),
        ("ConvInteger", "", "Conv", set()),
        ("QLinearConv", "", "Conv", set()),
    ],
)
def test_fused_and_quantized_operators_have_the_attributes_of_the_plain_one(
    name: str, domain: str, like: str, missing: set[str]
) -> None:
    record, plain = find(name, domain), find(like)
    assert record is not None
    assert plain is not None
    assert plain.attributes.keys() - record.attributes.keys() == missing
    shared = plain.attributes.keys() & record.attributes.keys()
    assert {key: record.attributes[key] for key in shared} == {key: plain.attributes[key] for key in shared}
