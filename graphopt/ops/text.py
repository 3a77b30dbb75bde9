"""Operators on strings, which are object arrays: StringConcat, StringSplit, StringNormalizer, RegexFullMatch, TfIdf."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from graphopt.errors import OptionError
from graphopt.ir import Dim, DType, Node, TensorType, ValueType
from graphopt.ops.broadcast import infer_broadcast
from graphopt.ops.infer import input_type
from graphopt.ops.record import Operator, attribute, register


def decoded(text: Any) -> str:
    """A string of a file as text; what is not UTF-8 keeps its bytes in surrogates."""
    return text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else str(text)


def strings(values: Sequence[Any], shape: Sequence[int]) -> np.ndarray:
    """An object array of `shape` over `values`."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(tuple(shape))


def string_concat(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """ONNX StringConcat, with numpy broadcasting."""
    a, b = np.broadcast_arrays(x, y)
    return strings([decoded(p) + decoded(q) for p, q in zip(a.flat, b.flat, strict=True)], a.shape)


def string_split(x: np.ndarray, *, delimiter: str = "", maxsplit: int = -1) -> tuple[np.ndarray, torch.Tensor]:
    """ONNX StringSplit: the pieces along a new last axis, filled up with "", and their numbers (int64)."""
    pieces = [decoded(text).split(delimiter or None, maxsplit) for text in x.flat]
    width = max(map(len, pieces), default=0)
    flat = [piece for row in pieces for piece in [*row, *[""] * (width - len(row))]]
    counts = torch.tensor([len(row) for row in pieces], dtype=torch.int64).reshape(x.shape)
    return strings(flat, (*x.shape, width)), counts


def infer_string_split(node: Node) -> list[ValueType]:
    """Type rule of StringSplit: how many pieces there are is not known."""
    shape = input_type(node, 0).shape
    return [TensorType(DType.STRING, None if shape is None else (*shape, None)), TensorType(DType.INT64, shape)]


_CASES: dict[str, Callable[[str], str]] = {"NONE": str, "LOWER": str.lower, "UPPER": str.upper}


def string_normalizer(
    x: np.ndarray,
    *,
    case_change_action: str = "NONE",
    is_case_sensitive: int = 0,
    locale: str = "",
    stopwords: Sequence[str] = (),
) -> np.ndarray:
    """ONNX StringNormalizer: x [C] or [1, C] without stop words, in another case; one "" where nothing is left.

    Raises:
        OptionError: `case_change_action` is none of NONE, LOWER and UPPER.
    """
    if case_change_action not in _CASES:
        raise OptionError(
            f"StringNormalizer has no case_change_action '{case_change_action}'", hint="use NONE, LOWER or UPPER"
        )
    key = str if is_case_sensitive else str.lower
    stopped = {key(decoded(word)) for word in stopwords}
    kept = [_CASES[case_change_action](word) for word in map(decoded, x.flat) if key(word) not in stopped] or [""]
    return strings(kept, (*[1] * (x.ndim - 1), len(kept)))


def infer_string_normalizer(node: Node) -> list[ValueType]:
    """Type rule of StringNormalizer: how many words stay is not known, unless there are no stop words."""
    shape = input_type(node, 0).shape
    if shape is None or not attribute(node, "stopwords"):
        return [TensorType(DType.STRING, shape)]
    return [TensorType(DType.STRING, (*shape[:-1], None))]


def regex_full_match(x: np.ndarray, *, pattern: str) -> torch.Tensor:
    """ONNX RegexFullMatch: whether the whole string matches; patterns as in RE2, which Python's are a superset of.

    Raises:
        OptionError: `pattern` is no regular expression.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise OptionError(f"'{pattern}' is no regular expression: {error}") from None
    found = [expression.fullmatch(decoded(text)) is not None for text in x.flat]
    return torch.tensor(found, dtype=torch.bool).reshape(x.shape)


# -- TfIdfVectorizer


def tf_idf_vectorizer(
    x: torch.Tensor | np.ndarray,
    *,
    max_gram_length: int,
    max_skip_count: int,
    min_gram_length: int,
    mode: str,
    ngram_counts: Sequence[int],
    ngram_indexes: Sequence[int],
    pool_int64s: Sequence[int] = (),
    pool_strings: Sequence[str] = (),
    weights: Sequence[float] = (),
) -> torch.Tensor:
    """ONNX TfIdfVectorizer: how often each n-gram of the pool occurs in x [C] or in each row of x [N, C]; float32.

    Raises:
        OptionError: `mode` is none of TF, IDF and TFIDF.
    """
    if mode not in ("TF", "IDF", "TFIDF"):
        raise OptionError(f"TfIdfVectorizer has no mode '{mode}'", hint="use TF, IDF or TFIDF")
    pool = list(_pooled([*pool_int64s] or [decoded(word) for word in pool_strings], ngram_counts))
    places = {gram: index for index, gram in enumerate(pool) if min_gram_length <= len(gram) <= max_gram_length}
    rows = x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1)
    found = torch.zeros(len(rows), max(ngram_indexes, default=-1) + 1)
    for row, line in enumerate(rows.tolist()):
        words = [word if isinstance(word, int) else decoded(word) for word in line]
        for gram in _grams(words, min_gram_length, max_gram_length, max_skip_count):
            place = places.get(gram)
            if place is not None:
                found[row, ngram_indexes[place]] += 1
    if mode == "IDF":
        found = found.clamp(max=1)
    if mode != "TF" and weights:
        scale = torch.ones(found.shape[1])
        scale[torch.tensor(ngram_indexes)] = torch.tensor(weights)
        found = found * scale
    return found.reshape(*x.shape[:-1], -1)


def _pooled(pool: Sequence[Any], counts: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """The n-grams of a pool, in its order."""
    for length, (begin, end) in enumerate(itertools.pairwise([*counts, len(pool)]), 1):
        for start in range(begin, end, length):
            yield tuple(pool[start : start + length])


def _grams(words: Sequence[Any], shortest: int, longest: int, skips: int) -> Iterator[tuple[Any, ...]]:
    """The n-grams of a line. Single words cannot be apart: they are counted once, not once for each distance."""
    for apart in range(1, skips + 2):
        for length in range(shortest if apart == 1 else max(shortest, 2), longest + 1):
            for start in range(len(words) - apart * (length - 1)):
                yield tuple(words[start : start + apart * (length - 1) + 1 : apart])


def infer_tf_idf(node: Node) -> list[ValueType]:
    """Type rule of TfIdfVectorizer: one number for each place that an n-gram of the pool is counted at."""
    shape = input_type(node, 0).shape
    width: Dim = max(attribute(node, "ngram_indexes"), default=-1) + 1
    return [TensorType(DType.FLOAT32, None if shape is None else (*shape[:-1], width))]


register(
    Operator("StringConcat", infer_broadcast(), string_concat),
    Operator("StringSplit", infer_string_split, string_split),
    Operator("StringNormalizer", infer_string_normalizer, string_normalizer),
    Operator("RegexFullMatch", lambda n: [TensorType(DType.BOOL, input_type(n, 0).shape)], regex_full_match),
    Operator("TfIdfVectorizer", infer_tf_idf, tf_idf_vectorizer),
)

__all__ = ["decoded", "strings", "tf_idf_vectorizer"]
