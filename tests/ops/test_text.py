"""Operators on strings against onnx.reference and ONNX Runtime."""

import numpy as np
import onnxruntime
import pytest
import torch

from graphopt.errors import OptionError
from graphopt.ir import DType, TensorType
from graphopt.ops import execute, record_of
from graphopt.ops.text import decoded
from tests.ops.values import check, model_of, node_of, words

TEXT = TensorType.make(DType.STRING, ("n",))


def ort(op, inputs, outputs=1, **attributes):
    """What ONNX Runtime makes of a node."""
    model = model_of(op, inputs, outputs, **attributes)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {f"x{i}": each for i, each in enumerate(inputs)})


def test_concat():
    check("StringConcat", [words("a", "b", "ü"), words("x", "", "z")])
    check("StringConcat", [words("a", "b", shape=(2, 1)), words("x", "y", "z")])


@pytest.mark.parametrize(
    "attributes",
    [{}, {"delimiter": ","}, {"delimiter": ""}, {"delimiter": ",", "maxsplit": 1}, {"maxsplit": 2},
     {"delimiter": "::"}],
)  # fmt: skip
def test_split(attributes):
    x = words("a,b,,c", " to be  or ", "", "x::y::z", ",", "one", shape=(3, 2))
    check("StringSplit", [x], 2, **attributes)


@pytest.mark.parametrize("action", ["NONE", "LOWER", "UPPER"])
@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize("stopwords", [["monday"], ["Tuesday", "MONDAY"], [], ["Monday", "tuesday", "Wednesday"]])
def test_normalizer(action, case, stopwords):
    x = words("Monday", "tuesday", "Wednesday", "monday")
    attributes = {
        "case_change_action": action,
        "is_case_sensitive": case,
        **({"stopwords": stopwords} if stopwords else {}),
    }
    want = None
    if action == "NONE" and not case:  # where onnx.reference compares as if case mattered; ONNX Runtime does not
        stopped = {word.lower() for word in stopwords}
        want = [words(*([word for word in x if word.lower() not in stopped] or [""]))]
    check("StringNormalizer", [x], want=want, **attributes)
    check("StringNormalizer", [x.reshape(1, 4)], want=want and [want[0].reshape(1, -1)], **attributes)


def test_normalizer_refuses_other_cases():
    with pytest.raises(OptionError, match="NONE, LOWER or UPPER"):
        execute(node_of("StringNormalizer", TEXT, case_change_action="TITLE"), [words("a")])


def test_regex():
    x = words("www.google.com", "account@gmail.com", "a\nb", "", shape=(2, 2))
    for pattern in (r"www\.[\w.-]+\.\bcom\b", r"(\W|^)[\w.\-]{0,25}@(yahoo|gmail)\.com(\W|$)", "", "a.b"):
        check("RegexFullMatch", [x], pattern=pattern)
    with pytest.raises(OptionError, match="no regular expression"):
        execute(node_of("RegexFullMatch", TEXT, pattern="("), [words("a")])


POOL = {"ngram_counts": [0, 4], "ngram_indexes": [0, 1, 2, 3, 4, 5, 6], "pool_int64s": [2, 3, 5, 4, 5, 6, 7, 8, 6, 7]}


@pytest.mark.parametrize("skips", [0, 1, 5])
@pytest.mark.parametrize("lengths", [(1, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
def test_tf_idf(skips, lengths, mode):
    rows = np.array([[1, 1, 3, 3, 3, 7], [8, 6, 7, 5, 6, 8]], dtype=np.int64)
    attributes = {
        **POOL, "mode": mode, "max_skip_count": skips, "min_gram_length": lengths[0], "max_gram_length": lengths[1],
        "weights": [0.5, 1, 2, 3, 0.25, 4, 7],
    }  # fmt: skip
    for x in (rows, rows[1]):
        check("TfIdfVectorizer", [x], want=ort("TfIdfVectorizer", [x], **attributes), **attributes)


def test_tf_idf_of_strings():
    attributes = {
        "ngram_counts": [0, 2], "ngram_indexes": [2, 0, 1], "pool_strings": ["a", "b", "a", "b"], "mode": "TF",
        "max_skip_count": 1, "min_gram_length": 1, "max_gram_length": 2,
    }  # fmt: skip
    x = words("a", "b", "b", "a", "c", "b", shape=(2, 3))
    check("TfIdfVectorizer", [x], want=ort("TfIdfVectorizer", [x], **attributes), **attributes)
    with pytest.raises(OptionError, match="TF, IDF or TFIDF"):
        execute(node_of("TfIdfVectorizer", TEXT, **{**attributes, "mode": "COUNT"}), [x])


def test_types():
    (kind,) = record_of(node := node_of("StringNormalizer", TEXT, stopwords=("a",))).infer(node)
    assert kind == TensorType(DType.STRING, (None,))
    pieces, counts = record_of(node := node_of("StringSplit", TEXT, outputs=2)).infer(node)
    assert pieces == TensorType.make(DType.STRING, ("n", None))
    assert counts == TensorType.make(DType.INT64, ("n",))


def test_bytes_that_are_no_text_survive():
    broken = b"\xff"
    assert decoded(broken).encode("utf-8", "surrogateescape") == broken
    (got,) = execute(node_of("StringConcat", TEXT, TEXT), [words(broken), words("a")])
    assert got.item().endswith("a")
    assert torch.is_tensor(execute(node_of("RegexFullMatch", TEXT, pattern="a"), [words(b"a")])[0])
