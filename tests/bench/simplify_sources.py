"""The files that simplification is measured on, with inputs: exports of the zoo and of transformers, and real models.

An exported file stays in its folder with its inputs beside it (``.npz``), so that a second run need not export again;
what cannot be exported leaves a mark (``.refused``).
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from graphopt.models import ZOO, build

#: Inputs of one call, by name or by position.
Feed = dict[str, np.ndarray] | list[np.ndarray]

_SEPARATOR = ":"


def export_zoo(name: str, path: Path, dynamo: bool) -> list[Feed]:
    """Exports a model of the zoo with one of torch's two exporters."""
    module, args = build(name)
    with _quiet():
        if dynamo:
            torch.onnx.export(module, args, path, dynamo=True, optimize=False, external_data=False)
        else:
            torch.onnx.export(module, args, path, dynamo=False, do_constant_folding=False)
    return [[leaf.numpy() for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]]


def export_transformers(name: str, path: Path) -> list[Feed]:
    """Exports an architecture of transformers, with open dimensions and inputs of several sizes where torch can."""
    from tests.bench.transformers_models import CASES
    from tests.bench.transformers_zoo import Trial

    trial = Trial(CASES[name]())
    samples = [arguments for arguments, _ in trial.samples]
    axes = {key: dict.fromkeys(trial.case.dynamic.get(key, ()), torch.export.Dim.DYNAMIC) for key in samples[0]}

    def export(dynamic: dict[str, Any] | None) -> None:
        torch.onnx.export(
            trial.module, (), path, kwargs=samples[0], dynamo=True, optimize=False, external_data=False,
            dynamic_shapes=dynamic,
        )  # fmt: skip

    with _quiet():
        try:
            export(axes)
        except torch.onnx.errors.OnnxExporterError:
            export(None)
            samples = samples[:1]
    return [{key: value.numpy() for key, value in feed.items()} for feed in samples]


def copy_real(name: str, path: Path) -> list[Feed]:
    """Copies a packaged model; inputs of all sizes, rates and lengths that it is made for."""
    from tests.real_models import MODELS

    source = MODELS[name].path
    if source is None:
        raise FileNotFoundError(f"package {MODELS[name].package} is not installed")
    shutil.copyfile(source, path)
    return list(MODELS[name].feeds(np.random.default_rng(0)))


def _transformers() -> list[str]:
    from tests.bench.transformers_models import CASES

    return list(CASES)


def _real() -> list[str]:
    from tests.real_models import MODELS

    return list(MODELS)


#: By family: the names, and what writes the file of a name and returns its inputs.
FAMILIES: dict[str, tuple[Callable[[], Sequence[str]], Callable[[str, Path], list[Feed]]]] = {
    "zoo": (lambda: list(ZOO), lambda name, path: export_zoo(name, path, dynamo=True)),
    "zoo-legacy": (lambda: list(ZOO), lambda name, path: export_zoo(name, path, dynamo=False)),
    "transformers": (_transformers, export_transformers),
    "real": (_real, copy_real),
}


def sources(family: str, folder: Path, names: Sequence[str] = ()) -> Iterator[tuple[str, Path]]:
    """Names and files of a family, made where they are not there yet; those that cannot be exported are left out."""
    listed, make = FAMILIES[family]
    for name in [each for each in listed() if not names or each in names]:
        path = folder / f"{family}.{name.replace(' ', '_')}.onnx"
        refused = path.with_suffix(".refused")
        if refused.exists():
            continue
        if not path.exists():
            partial = path.with_suffix(".partial")
            try:
                feeds = make(name, partial)
            except Exception as error:  # the exporters raise whatever comes their way
                reason = (str(error).strip().splitlines() or [""])[0][:150]
                print(f"<!-- {name}: not exported: {type(error).__name__}: {reason} -->", file=sys.stderr)
                refused.touch()
                continue
            _write_feeds(path.with_suffix(".npz"), feeds)
            partial.rename(path)
        yield name, path


def _write_feeds(path: Path, feeds: list[Feed]) -> None:
    arrays: dict[str, Any] = {}
    for position, feed in enumerate(feeds):
        items = feed.items() if isinstance(feed, dict) else enumerate(feed)
        arrays.update({f"{position}{_SEPARATOR}{key}": array for key, array in items})
    np.savez(path, **arrays)


def read_feeds(source: Path) -> list[Feed]:
    """The inputs that lie beside a file."""
    found: dict[int, dict[str, np.ndarray]] = {}
    with np.load(source.with_suffix(".npz")) as data:
        for key, array in data.items():
            position, _, name = key.partition(_SEPARATOR)
            found.setdefault(int(position), {})[name] = array
    by_position = all(name.isdigit() for feed in found.values() for name in feed)
    return [list(feed.values()) if by_position else feed for feed in found.values()]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with (
        contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings()
    ):  # fmt: skip
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


if __name__ == "__main__":  # exports everything, ahead of a measurement
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for each in sys.argv[2:] or FAMILIES:
        for label, _ in sources(each, target):
            print(each, label, flush=True)
