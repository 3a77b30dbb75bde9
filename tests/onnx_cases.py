"""ONNX's own backend tests: their models, inputs and expected outputs as graphopt sees them, and how to judge a run."""

from __future__ import annotations

import fnmatch
import functools
import glob
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

import graphopt
from graphopt.ir import Graph
from graphopt.ops.protos import read_tensor
from graphopt.runtime import run

#: The sets that ship in the onnx wheel.
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")


@dataclass(frozen=True)
class Case:
    """One backend test.

    Attributes:
        name: of the test, without the leading ``test_``.
        kind: the set that it belongs to.
        model: what is tested.
        data: inputs and expected outputs, once for each data set, as ONNX's test runner gives them.
        rtol: relative tolerance that the test asks for.
        atol: absolute tolerance that the test asks for.
    """

    name: str
    kind: str
    model: onnx.ModelProto
    data: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    rtol: float
    atol: float


@functools.cache
def cases(kind: str) -> dict[str, Case]:
    """The tests of a set, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases overflow on purpose while they are made
        from onnx.backend.test.loader import load_model_tests

        tests = load_model_tests(kind=kind)
    found = [_case(kind, test) for test in tests]
    return {case.name: case for case in sorted(found, key=lambda case: case.name)}


def _case(kind: str, test: Any) -> Case:
    name = test.name.removeprefix("test_")
    if test.model is not None:
        return Case(name, kind, test.model, test.data_sets, test.rtol, test.atol)
    model = onnx.load(f"{test.model_dir}/model.onnx")
    folders = sorted(glob.glob(f"{test.model_dir}/test_data_set_*"))
    return Case(name, kind, model, [_read(model, folder) for folder in folders], test.rtol, test.atol)


def _read(model: onnx.ModelProto, folder: str) -> tuple[list[Any], list[Any]]:
    count = len(glob.glob(f"{folder}/input_*.pb"))
    inputs = [_message(f"{folder}/input_{i}.pb", info) for i, info in enumerate(model.graph.input[:count])]
    outputs = [_message(f"{folder}/output_{i}.pb", info) for i, info in enumerate(model.graph.output)]
    return inputs, outputs


def _message(path: str, info: onnx.ValueInfoProto) -> Any:
    raw = Path(path).read_bytes()
    match info.type.WhichOneof("value"):
        case "sequence_type":
            return onnx.SequenceProto.FromString(raw)
        case "optional_type":
            return onnx.OptionalProto.FromString(raw)
    return onnx.TensorProto.FromString(raw)


def value_of(given: Any) -> Any:
    """What graphopt works on: tensors, object arrays of strings, lists for sequences, ``None`` for empty optionals."""
    match given:
        case None:
            return None
        case onnx.SequenceProto():
            return [value_of(each) for each in numpy_helper.to_list(given)]
        case onnx.OptionalProto():
            return value_of(numpy_helper.to_optional(given))
        case onnx.TensorProto():
            return read_tensor(given)[0]
        case list() | tuple():
            return [value_of(each) for each in given]
    array = np.asarray(given)
    if array.dtype.kind in "OUS":
        return array.astype(object)
    return read_tensor(numpy_helper.from_array(array))[0]


def execute(graph: Graph, inputs: Sequence[Any]) -> list[Any]:
    """The outputs as the executor computes them."""
    return run(graph, inputs)


def call(graph: Graph, inputs: Sequence[Any]) -> list[Any]:
    """The outputs as the torch module computes them."""
    module = graphopt.to_torch(graph)
    with torch.no_grad():
        result = module(*inputs)
    return [result] if len(graph.outputs) == 1 else list(result)


def failure(case: Case, how: Callable[[Graph, Sequence[Any]], list[Any]]) -> str:
    """Why a test does not pass, in one line; "" when it does."""
    try:
        graph = graphopt.load(case.model)
        for inputs, outputs in case.data:
            given = [value_of(each) for each in inputs]
            want = [value_of(each) for each in outputs]
            got = how(graph, given)
            assert len(got) == len(want), f"{len(got)} outputs, not {len(want)}"
            for index, (mine, theirs) in enumerate(zip(got, want, strict=True)):
                same(mine, theirs, case.rtol, case.atol, f"output {index}")
    except Exception as error:  # whatever it is, it is listed
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {' '.join(line.strip() for line in lines if line.strip())[:220]}"
    return ""


def same(mine: Any, theirs: Any, rtol: float, atol: float, where: str) -> None:
    """Asserts that a result is the expected one: kind, element type, shape and elements."""
    if isinstance(theirs, list):
        assert isinstance(mine, (list, tuple)), f"{where} is a {type(mine).__name__}, not a sequence"
        assert len(mine) == len(theirs), f"{where} has {len(mine)} entries, not {len(theirs)}"
        for index, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            same(a, b, rtol, atol, f"{where}[{index}]")
        return
    if theirs is None:
        assert mine is None, f"{where} is {mine!r}, not empty"
        return
    assert isinstance(mine, type(theirs)), f"{where} is a {type(mine).__name__}, not a {type(theirs).__name__}"
    assert tuple(mine.shape) == tuple(theirs.shape), f"{where} has shape {list(mine.shape)}, not {list(theirs.shape)}"
    assert mine.dtype == theirs.dtype, f"{where} is of {mine.dtype}, not {theirs.dtype}"
    if isinstance(theirs, np.ndarray):
        assert mine.tolist() == theirs.tolist(), f"{where} is {mine.tolist()}, not {theirs.tolist()}"
        return
    np.testing.assert_allclose(_plain(mine), _plain(theirs), rtol=rtol, atol=atol, equal_nan=True, err_msg=where)


#: Tests that graphopt does not pass, by set: shell patterns and the reason. `reason` finds the one for a test.
EXCEPTIONS: dict[str, dict[str, str]] = {
    "node": {
        "attention_*_bf16*": "the tolerance (1e-3) is finer than bfloat16 (4e-3): torch's products round elsewhere",
        "attention_4d_causal_fp16*": "one or two of 192 elements round up to a neighbour in float16, 1e-3 apart",
        "attention_4d_fp16": "two of 192 elements round to a neighbour in float16, 1e-3 apart",
        "bernoulli*": "random numbers: torch draws others than numpy, whatever the seed",
        "dft_inverse*": "expects rounding noise of 2e-7 where the exact result, which torch gives, is 0",
        "image_decoder_decode_*": "needs an image library, which neither graphopt nor torch comes with",
        "maxunpool_export_with_output_shape": "counts indices in another shape than ONNX Runtime and torch do "
        "(https://github.com/onnx/onnx/issues/2398)",
        "resize_downsample_scales_*_align_corners": "aligns the corners of a size that is no whole number; "
        "ONNX Runtime and torch take the size that results",
        "training_dropout": "random numbers: torch draws others than numpy, whatever the seed",
        "training_dropout_default": "random numbers: torch draws others than numpy, whatever the seed",
        "training_dropout_default_mask": "random numbers: torch draws others than numpy, whatever the seed",
        "training_dropout_mask": "random numbers: torch draws others than numpy, whatever the seed",
    },
    "simple": {
        "gradient_of_*": "Gradient, of the preview of training, needs differentiation of the graph around it",
    },
    "pytorch-converted": {},
    "pytorch-operator": {},
}  # fmt: skip


def reason(case: Case) -> str:
    """Why a test is expected not to pass; "" for one that is."""
    return next((why for pattern, why in EXCEPTIONS[case.kind].items() if fnmatch.fnmatchcase(case.name, pattern)), "")


def _plain(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype.is_floating_point and tensor.dtype is not torch.float64:
        tensor = tensor.float()
    return tensor.detach().numpy()
