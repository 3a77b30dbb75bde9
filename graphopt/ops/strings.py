"""Strings in operators that only move, compare or order elements: numbers stand for them meanwhile.

All strings that an operator reads are sorted and numbered; the operator's own computation runs on the numbers, and
what it returns in the place of strings is looked up again. So every operator whose definition admits strings has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from graphopt.ops.record import find
from graphopt.ops.text import decoded, strings
from graphopt.ops.unsigned import of_outputs

#: What computes with the strings themselves.
NATIVE = frozenset(
    {"Cast", "CastLike", "ConcatFromSequence", "Identity", "Optional", "OptionalGetElement", "OptionalHasElement",
     "RegexFullMatch", "SequenceConstruct", "SequenceInsert", "SplitToSequence", "StringConcat", "StringNormalizer",
     "StringSplit", "TfIdfVectorizer"}
)  # fmt: skip


def any_strings(inputs: Sequence[Any]) -> bool:
    """Whether there is an array of strings among `inputs`."""
    return any(isinstance(x, np.ndarray) for x in inputs)


def coded(op: str, *inputs: Any, **attributes: Any) -> Any:
    """Computes a standard operator with numbers in place of strings; outputs of their type are strings again."""
    given = [x for x in inputs if isinstance(x, np.ndarray)]
    words = sorted({decoded(text) for x in given for text in x.flat} | {""})
    numbers = {word: number for number, word in enumerate(words)}

    def encode(x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        return torch.tensor([numbers[decoded(text)] for text in x.flat], dtype=torch.int64).reshape(x.shape)

    record = find(op)
    assert record is not None and record.compute is not None
    results = record.compute(*map(encode, inputs), **attributes)
    many = isinstance(results, (tuple, list))
    texts = of_outputs(op, [isinstance(x, np.ndarray) for x in inputs])
    back = [
        strings([words[int(number)] for number in result.reshape(-1)], result.shape) if text else result
        for result, text in zip(results if many else (results,), texts, strict=False)
    ]
    return type(results)(back) if many else back[0]


__all__ = ["NATIVE", "any_strings", "coded"]
