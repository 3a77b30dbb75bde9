"""Operators of classical machine learning, ``ai.onnx.ml``, that stand beside networks: encoders, scalers, trees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from graphopt.errors import DataError, OptionError, UnsupportedOperatorError
from graphopt.ir import Dim, DType, Node, TensorType, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import input_type, same_as
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.text import decoded, strings

DOMAIN = "ai.onnx.ml"


def binarizer(x: torch.Tensor, *, threshold: float = 0.0) -> torch.Tensor:
    """ONNX Binarizer: 1 where x > threshold, else 0."""
    return (x > threshold).to(x.dtype)


def array_feature_extractor(x: torch.Tensor | np.ndarray, y: torch.Tensor) -> torch.Tensor | np.ndarray:
    """ONNX ArrayFeatureExtractor: elements `y` of the last axis; a vector becomes a matrix of one row."""
    index = y.reshape(-1)
    rows = x if x.ndim > 1 else x.reshape(1, -1)
    if isinstance(rows, torch.Tensor):
        return rows.index_select(-1, index)
    return np.take(rows, index.numpy(), -1)


def infer_array_feature_extractor(node: Node) -> list[ValueType]:
    """Type rule of ArrayFeatureExtractor."""
    x, count = input_type(node, 0), input_type(node, 1).numel
    if x.shape is None:
        return [TensorType(x.dtype)]
    return [x.with_shape((*(x.shape[:-1] if len(x.shape) > 1 else (1,)), count))]


def scaler(x: torch.Tensor, *, offset: Sequence[float] = (), scale: Sequence[float] = ()) -> torch.Tensor:
    """ONNX Scaler: ``(x - offset) * scale`` over the last axis, in float32."""
    y = x.float()
    y = y - y.new_tensor(offset) if offset else y
    return y * y.new_tensor(scale) if scale else y


def normalizer(x: torch.Tensor, *, norm: str = "MAX") -> torch.Tensor:
    """ONNX Normalizer: x over its MAX, L1 or L2 norm along the last axis, in float32.

    Raises:
        OptionError: another norm.
    """
    y = x.float()
    match norm:
        case "MAX":
            return y / y.amax(-1, keepdim=True)
        case "L1":
            return y / y.abs().sum(-1, keepdim=True)
        case "L2":
            return y / y.square().sum(-1, keepdim=True).sqrt()
    raise OptionError(f"Normalizer has no norm '{norm}'", hint="use MAX, L1 or L2")


def _float32(node: Node) -> list[ValueType]:
    return [TensorType(DType.FLOAT32, input_type(node, 0).shape)]


# -- LabelEncoder


def _given(*lists: Any) -> Any:
    return next((each for each in lists if each is not None and len(each)), ())


def _plain(values: Any) -> list[Any]:
    """Keys or values as Python objects; text as `str`."""
    listed = values.reshape(-1).tolist() if isinstance(values, (torch.Tensor, np.ndarray)) else list(values)
    return [decoded(each) if isinstance(each, (str, bytes)) else each for each in listed]


def label_encoder(
    x: torch.Tensor | np.ndarray,
    *,
    default_float: float = -0.0,
    default_int64: int = -1,
    default_string: str = "_Unused",
    default_tensor: torch.Tensor | np.ndarray | None = None,
    keys_floats: Sequence[float] = (),
    keys_int64s: Sequence[int] = (),
    keys_strings: Sequence[str] = (),
    keys_tensor: torch.Tensor | np.ndarray | None = None,
    values_floats: Sequence[float] = (),
    values_int64s: Sequence[int] = (),
    values_strings: Sequence[str] = (),
    values_tensor: torch.Tensor | np.ndarray | None = None,
) -> torch.Tensor | np.ndarray:
    """ONNX LabelEncoder: for each element the value beside its key, or the default. A NaN key stands for every NaN."""
    keys = _plain(_given(keys_floats, keys_int64s, keys_strings, keys_tensor))
    values = _plain(_given(values_floats, values_int64s, values_strings, values_tensor))
    fallback = default_string if values_strings else default_float if values_floats else default_int64
    if values_tensor is not None and default_tensor is None:
        if isinstance(values_tensor, np.ndarray):
            fallback = default_string
        else:
            fallback = -0.0 if values_tensor.is_floating_point() else default_int64
    elif values_tensor is not None:
        fallback = _plain(default_tensor)[0]
    table = {_key(key): value for key, value in reversed(list(zip(keys, values, strict=True)))}
    found = [table.get(_key(each), fallback) for each in _plain(x)]
    kind = values_tensor.dtype if isinstance(values_tensor, torch.Tensor) else None
    if values_strings or isinstance(values_tensor, np.ndarray):
        return strings(found, x.shape)
    return torch.tensor(found, dtype=kind or (torch.float32 if values_floats else torch.int64)).reshape(tuple(x.shape))


def _key(value: Any) -> Any:
    return "nan" if isinstance(value, float) and value != value else value


def infer_label_encoder(node: Node) -> list[ValueType]:
    """Type rule of LabelEncoder: the type of the values."""
    tensor = node.attributes.get("values_tensor")
    dtype = DType.INT64
    if tensor is not None:
        dtype = DType.of(tensor.dtype) if isinstance(tensor, torch.Tensor) else DType.STRING
    elif node.attributes.get("values_strings"):
        dtype = DType.STRING
    elif node.attributes.get("values_floats"):
        dtype = DType.FLOAT32
    return [TensorType(dtype, input_type(node, 0).shape)]


# -- TreeEnsemble

_COMPARE: list[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = [
    torch.le, torch.lt, torch.ge, torch.gt, torch.eq, torch.ne
]  # fmt: skip
_MEMBER = 6
_AGGREGATE = {1: "sum", 2: "amin", 3: "amax"}


def tree_ensemble(
    x: torch.Tensor,
    *,
    aggregate_function: int = 1,
    leaf_targetids: Sequence[int],
    leaf_weights: torch.Tensor,
    membership_values: torch.Tensor | None = None,
    n_targets: int = 1,
    nodes_falseleafs: Sequence[int],
    nodes_falsenodeids: Sequence[int],
    nodes_featureids: Sequence[int],
    nodes_hitrates: torch.Tensor | None = None,
    nodes_missing_value_tracks_true: Sequence[int] = (),
    nodes_modes: torch.Tensor,
    nodes_splits: torch.Tensor,
    nodes_trueleafs: Sequence[int],
    nodes_truenodeids: Sequence[int],
    post_transform: int = 0,
    tree_roots: Sequence[int],
) -> torch.Tensor:
    """ONNX TreeEnsemble: x [N, F] to [N, n_targets]. All rows walk down a tree together, a level at a time.

    Raises:
        UnsupportedOperatorError: a post_transform other than NONE, SOFTMAX and LOGISTIC.
        DataError: membership_values that do not fit the nodes.
    """
    children = torch.tensor([nodes_falsenodeids, nodes_truenodeids], device=x.device)
    leaves = torch.tensor([nodes_falseleafs, nodes_trueleafs], device=x.device)
    features = torch.tensor(nodes_featureids, device=x.device)
    holds = _conditions(x, features, nodes_modes, nodes_splits, membership_values)
    if nodes_missing_value_tracks_true:
        tracks = torch.tensor(nodes_missing_value_tracks_true, device=x.device) > 0
        holds = holds | (x[:, features].isnan() & tracks)
    reached = [_descend(root, holds, children, leaves > 0) for root in tree_roots]
    leaf = torch.stack(reached, 1)
    targets = torch.tensor(leaf_targetids, device=x.device)[leaf]
    scores = _aggregate(leaf_weights[leaf], targets, n_targets, aggregate_function)
    return _transformed(scores.to(x.dtype), post_transform)


def _descend(root: int, holds: torch.Tensor, children: torch.Tensor, leaves: torch.Tensor) -> torch.Tensor:
    """The leaf that each row reaches; `children` and `leaves` are [false or true, nodes]."""
    at = torch.full((len(holds),), root, dtype=torch.int64, device=holds.device)
    arrived = torch.zeros_like(at, dtype=torch.bool)
    for _ in range(children.shape[1]):  # a tree has no more levels than nodes
        node = torch.where(arrived, 0, at)
        branch = holds.gather(1, node[:, None]).squeeze(1).long()
        at = torch.where(arrived, at, children[branch, node])
        arrived = arrived | leaves[branch, node]
    return at


def _conditions(
    x: torch.Tensor, features: torch.Tensor, modes: torch.Tensor, splits: torch.Tensor, members: torch.Tensor | None
) -> torch.Tensor:
    """Whether each node's condition holds for each row: [N, nodes]."""
    values = x[:, features]
    sets = iter(_sets(members))
    columns = []
    for node, mode in enumerate(modes.tolist()):
        if mode == _MEMBER:
            columns.append(torch.isin(values[:, node], next(sets)))
        else:
            columns.append(_COMPARE[mode](values[:, node], splits[node]))
    return torch.stack(columns, 1)


def _sets(members: torch.Tensor | None) -> list[torch.Tensor]:
    """The sets of the membership nodes, in their order; each ends with a NaN."""
    if members is None:
        return []
    ends = members.isnan().nonzero().flatten().tolist()
    if not ends or ends[-1] != len(members) - 1:
        raise DataError("membership_values does not end with a NaN")
    return [members[begin:end] for begin, end in zip([0, *(end + 1 for end in ends[:-1])], ends, strict=True)]


def _aggregate(weights: torch.Tensor, targets: torch.Tensor, count: int, how: int) -> torch.Tensor:
    if how in (0, 1):
        total = weights.new_zeros(len(weights), count).scatter_add(1, targets, weights)
        return total / weights.shape[1] if how == 0 else total
    worst = torch.finfo(weights.dtype).max if how == 2 else torch.finfo(weights.dtype).min
    start = weights.new_full((len(weights), count), worst)
    return start.scatter_reduce(1, targets, weights, _AGGREGATE[how])


def _transformed(scores: torch.Tensor, how: int) -> torch.Tensor:
    match how:
        case 0:
            return scores
        case 1:
            return scores.softmax(-1)
        case 2:
            return scores.sigmoid()
    raise UnsupportedOperatorError(f"TreeEnsemble with post_transform {how} cannot be executed with torch")


def infer_tree_ensemble(node: Node) -> list[ValueType]:
    """Type rule of TreeEnsemble: [N, n_targets]."""
    x = input_type(node, 0)
    rows: Dim = None if x.shape is None else x.shape[0]
    return [TensorType(x.dtype, (rows, D.normalise(attribute(node, "n_targets"))))]


register(
    Operator("ArrayFeatureExtractor", infer_array_feature_extractor, array_feature_extractor, domain=DOMAIN),
    Operator("Binarizer", same_as(0), binarizer, domain=DOMAIN, elementwise=True),
    Operator("LabelEncoder", infer_label_encoder, label_encoder, domain=DOMAIN),
    Operator("Normalizer", _float32, normalizer, domain=DOMAIN),
    Operator("Scaler", _float32, scaler, domain=DOMAIN),
    Operator("TreeEnsemble", infer_tree_ensemble, tree_ensemble, domain=DOMAIN),
)

__all__ = ["label_encoder", "tree_ensemble"]
