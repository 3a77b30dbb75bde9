"""Operators of ai.onnx.ml against ONNX Runtime and onnx.reference."""

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from graphopt.errors import DataError, OptionError, UnsupportedOperatorError
from graphopt.ir import DType, TensorType
from graphopt.ops import execute
from graphopt.ops.classic import DOMAIN, label_encoder
from tests.ops.values import check, model_of, node_of, words

RNG = np.random.default_rng(0)
X = RNG.standard_normal((5, 3)).astype(np.float32)


def compare(op, inputs, **attributes):
    """Against ONNX Runtime."""
    model = model_of(op, inputs, 1, DOMAIN, **attributes)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    want = session.run(None, {f"x{i}": each for i, each in enumerate(inputs)})
    return check(op, inputs, want=want, domain=DOMAIN, **attributes)


def tensor(array, name="t"):
    return numpy_helper.from_array(np.asarray(array), name)


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_binarizer(threshold):
    compare("Binarizer", [X], threshold=threshold)


def test_array_feature_extractor():
    compare("ArrayFeatureExtractor", [X, np.array([2, 0, 2])])
    compare("ArrayFeatureExtractor", [X, np.array([[1]])])
    compare("ArrayFeatureExtractor", [words("a", "b", "c", shape=(1, 3)), np.array([1])])
    check("ArrayFeatureExtractor", [X[0], np.array([2, 0])], domain=DOMAIN)


def test_scaler():
    compare("Scaler", [X], offset=[0.5, 1, 2], scale=[2.0, 3, 4])
    compare("Scaler", [X], offset=[0.5], scale=[2.0])


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer(norm):
    compare("Normalizer", [np.abs(X)], norm=norm)


def test_normalizer_of_another_kind():
    with pytest.raises(OptionError, match="MAX, L1 or L2"):
        execute(node_of("Normalizer", TensorType(DType.FLOAT32, (2,)), domain=DOMAIN, norm="L3"), [torch.ones(2)])


@pytest.mark.parametrize(
    ("x", "attributes"),
    [(words("a", "b", "d", "c"), {"keys_strings": ["a", "b", "c"], "values_int64s": [0, 1, 2], "default_int64": 42}),
     (words("a", "x"), {"keys_strings": ["a"], "values_floats": [1.5]}),
     (np.array([[3, 1], [7, 3]]), {"keys_int64s": [1, 3], "values_strings": ["one", "three"]}),
     (np.array([1.5, np.nan, 2], np.float32), {"keys_floats": [1.5, float("nan")], "values_int64s": [5, 6]}),
     (np.array([1, 2, 9]), {"keys_int64s": [1, 2], "values_floats": [0.5, 0.25], "default_float": 7.0})],
)  # fmt: skip
def test_label_encoder(x, attributes):
    compare("LabelEncoder", [x], **attributes)


def test_label_encoder_with_tensors():
    keys, values = tensor(np.array(["a", "b"], dtype=object)), tensor(np.array([3, 4], np.int16))
    compare("LabelEncoder", [words("b", "z", "a")], keys_tensor=keys, values_tensor=values,
            default_tensor=tensor(np.array([-7], np.int16)))  # fmt: skip
    got = label_encoder(np.array(["q"], dtype=object), keys_strings=("a",), values_tensor=torch.tensor([1.5]))
    assert got.tolist() == [0.0]


def tree(**more):
    """Two trees: one of three inner nodes, and one of a single node."""
    return {
        "n_targets": 2, "nodes_featureids": [0, 1, 2, 0], "nodes_truenodeids": [1, 0, 2, 4],
        "nodes_trueleafs": [0, 1, 1, 1], "nodes_falsenodeids": [2, 1, 3, 0], "nodes_falseleafs": [0, 1, 1, 1],
        "nodes_modes": tensor(np.array([0, 1, 3, 0], np.uint8)),
        "nodes_splits": tensor(np.array([0.1, -0.2, 0.3, 0.0], np.float32)),
        "leaf_targetids": [0, 1, 0, 1, 1], "leaf_weights": tensor(np.array([5, 2, 3, 4, 0.5], np.float32)),
        "tree_roots": [0, 3], **more,
    }  # fmt: skip


@pytest.mark.parametrize("how", [0, 1])
@pytest.mark.parametrize("missing", [False, True])
def test_tree_ensemble(how, missing):
    x = X.copy()
    x[0, 0] = x[1, 1] = np.nan
    more = {"nodes_missing_value_tracks_true": [1, 0, 1, 0]} if missing else {}
    check("TreeEnsemble", [x], domain=DOMAIN, **tree(aggregate_function=how, **more))


@pytest.mark.parametrize(("how", "theirs"), [(2, torch.minimum), (3, torch.maximum)])
def test_extreme_of_the_leaves(how, theirs):
    ensemble = tree(n_targets=1, leaf_targetids=[0] * 5)
    each = [check("TreeEnsemble", [X], domain=DOMAIN, **{**ensemble, "tree_roots": [root]})[0] for root in (0, 3)]
    want = theirs(*each).numpy()
    check("TreeEnsemble", [X], want=[want], domain=DOMAIN, **{**ensemble, "aggregate_function": how})


def test_a_tree_that_is_a_leaf():
    lone = {"nodes_featureids": [0], "nodes_truenodeids": [1], "nodes_trueleafs": [1], "nodes_falsenodeids": [1],
            "nodes_falseleafs": [1], "nodes_modes": tensor(np.array([0], np.uint8)), "tree_roots": [0],
            "nodes_splits": tensor(np.array([0], np.float32)), "n_targets": 1, "leaf_targetids": [0, 0],
            "leaf_weights": tensor(np.array([5, 2], np.float32))}  # fmt: skip
    check("TreeEnsemble", [X], want=[np.full((5, 1), 2, np.float32)], domain=DOMAIN, **lone)


@pytest.mark.parametrize("mode", range(6))
def test_comparisons(mode):
    modes = tensor(np.array([mode] * 4, np.uint8))
    x = np.array([[0.1, -0.2, 0.3], [0.0, 0.5, 0.3], [0.2, -0.2, 0.4]], np.float32)
    check("TreeEnsemble", [x], domain=DOMAIN, **tree(nodes_modes=modes))


def test_transforms_of_scores():
    plain = check("TreeEnsemble", [X], domain=DOMAIN, **tree())[0]
    for how, expected in ((1, plain.softmax(-1)), (2, plain.sigmoid())):
        check("TreeEnsemble", [X], domain=DOMAIN, want=[expected.numpy()], **tree(post_transform=how))
    kind = TensorType(DType.FLOAT32, (5, 3))
    attributes = {**tree(post_transform=4), "nodes_modes": torch.tensor([0, 1, 3, 0]),
                  "nodes_splits": torch.zeros(4), "leaf_weights": torch.ones(5)}  # fmt: skip
    with pytest.raises(UnsupportedOperatorError, match="post_transform 4"):
        execute(node_of("TreeEnsemble", kind, domain=DOMAIN, **attributes), [torch.from_numpy(X)])
    attributes |= {"membership_values": torch.ones(2), "nodes_modes": torch.tensor([6, 6, 6, 6])}
    with pytest.raises(DataError, match="does not end with a NaN"):
        execute(node_of("TreeEnsemble", kind, domain=DOMAIN, **attributes), [torch.from_numpy(X)])
