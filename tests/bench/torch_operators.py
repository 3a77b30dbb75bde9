"""Every operator in torch's own database of operators, with torch's sample inputs, captured and written as ONNX.

Run by hand: ``python -m tests.bench.torch_operators [--peers FOLDER] [--list]``. The database needs the package
expecttest (``pip install --no-deps --target FOLDER expecttest``). One sample of float32 (of int64 where an operator has
no floats) goes through each; torch on the emitted module and ONNX Runtime on the file are compared with torch. Prints
a Markdown table, and with --list whatever is not the same.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

import graphopt as go
from graphopt.errors import GraphoptError
from graphopt.runtime.ort import OrtSession

#: What may become of an operator, best first.
OUTCOMES = {
    "onnx": "the same in ONNX Runtime",
    "random": "random: only its shapes compare",
    "torch": "carried as torch's operator; the same in to_torch",
    "no kernel": "ONNX Runtime has no kernel, or refuses the sample",
    "refused": "capture refuses it and says why",
    "onnx differs": "other numbers in ONNX Runtime",
    "torch differs": "other numbers in to_torch",
    "crash": "an error that is not graphopt's",
}
_RANDOM = ("Random", "Bernoulli", "Multinomial", "rand", "normal", "empty", "dropout", "multinomial")


class _Call(torch.nn.Module):
    """An operator whose tensors are arguments; everything else stays as in the sample."""

    def __init__(self, operator: Callable[..., Any], leaves: Sequence[Any], spec: Any, places: Sequence[int]) -> None:
        super().__init__()
        self._operator, self._leaves, self._spec, self._places = operator, leaves, spec, places

    def forward(self, *tensors: torch.Tensor) -> Any:
        """Calls the operator."""
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return self._operator(*args, **kwargs)


def sample_of(info: Any) -> tuple[_Call, tuple[torch.Tensor, ...]] | None:
    """A module that calls the operator, and its arguments; ``None`` when there is no sample."""
    dtype = next((each for each in (torch.float32, torch.int64) if each in info.dtypes), None)
    samples = [] if dtype is None else list(itertools.islice(info.sample_inputs("cpu", dtype), 3))
    if not samples:
        return None
    sample = samples[-1]
    leaves, spec = pytree.tree_flatten(((sample.input, *sample.args), sample.kwargs))
    places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    return _Call(info.op, leaves, spec, places), tuple(leaves[place].detach() for place in places)


def _tensors(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def _same(got: Sequence[torch.Tensor], want: Sequence[torch.Tensor], tolerance: float) -> bool:
    return len(got) == len(want) and all(
        a.shape == b.shape and torch.allclose(a.to(b.dtype), b, tolerance, tolerance, equal_nan=True)
        for a, b in zip(got, want, strict=True)
    )


def judge(module: _Call, args: tuple[torch.Tensor, ...]) -> tuple[str, str]:
    """One of `OUTCOMES`, and what there is to say."""
    try:
        graph = go.capture(module, args)
    except GraphoptError as error:
        return "refused", str(error)
    if any(node.op.startswith(_RANDOM) for node in graph.walk()):
        return "random", ""
    want = _tensors(module(*args))
    if not _same(_tensors(go.to_torch(graph)(*args)), want, 1e-4):
        return "torch differs", ""
    try:
        model = go.to_onnx(graph)
    except GraphoptError as error:
        return "torch", str(error)
    try:
        got = [torch.from_numpy(each) for each in OrtSession(model).run(list(args)[: len(graph.inputs)])]
    except GraphoptError as error:
        return "no kernel", str(error)
    return ("onnx" if _same(got, want, 1e-3) else "onnx differs"), ""


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="folder that expecttest was installed into")
    parser.add_argument("--list", action="store_true", help="name every operator that is not the same in ONNX Runtime")
    arguments = parser.parse_args()
    if arguments.peers:
        sys.path.insert(0, arguments.peers)
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db

    torch.manual_seed(0)
    counts: collections.Counter[str] = collections.Counter()
    rest: list[str] = []
    for info in op_db:
        sample = sample_of(info)
        if sample is None:
            continue
        try:
            outcome, said = judge(*sample)
        except Exception as error:  # what this benchmark is there to find
            outcome, said = "crash", f"{type(error).__name__}: {error}"
        counts[outcome] += 1
        if outcome not in ("onnx", "random"):
            name = ".".join(filter(None, (info.name, info.variant_test_name)))
            rest.append(f"- {name}: {outcome}. {' '.join(said.split())[:160]}")
    print("| outcome | operators |\n| --- | --- |")
    for outcome, text in OUTCOMES.items():
        print(f"| {text} | {counts[outcome]} |")
    print(f"| all | {sum(counts.values())} |")
    if arguments.list:
        print("\n" + "\n".join(rest))


if __name__ == "__main__":
    main()
