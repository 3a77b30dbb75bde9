"""ONNX's backend tests through graphopt and its peers: how many pass, and why the others do not. Prints markdown.

    python tests/bench/onnx_node_tests.py [--peers] > onnx_node_tests.md

Every test is loaded with `graphopt.load`, run by the executor and as the module that `graphopt.to_torch` gives, and
compared with the outputs that came with it, at the tolerances that it asks for. ``--peers`` adds ONNX Runtime, on the
original models.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.onnx_cases import KINDS, Case, call, cases, execute, failure, reason, same, value_of


def runtime_failure(case: Case) -> str:
    """Why ONNX Runtime does not pass a test, in one line; "" when it does."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(case.model.SerializeToString(), options, ["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        for inputs, outputs in case.data:
            got = session.run(None, dict(zip(names, map(_plain, inputs), strict=False)))
            for index, (mine, theirs) in enumerate(zip(got, outputs, strict=True)):
                same(value_of(mine), value_of(theirs), case.rtol, case.atol, f"output {index}")
    except Exception as error:  # onnxruntime's exceptions have no common base class
        return f"{type(error).__name__}: {error}"[:200]
    return ""


def _plain(given: object) -> object:
    return onnx.numpy_helper.to_array(given) if isinstance(given, onnx.TensorProto) else given


def _failures(kind: str, how: object, run: object) -> tuple[dict[str, str], float]:
    """The tests that fail, with what happened, and the seconds that all took."""
    started = time.perf_counter()
    found = {}
    # torch prints the code of modules that raise.
    with contextlib.redirect_stderr(io.StringIO()):
        for case in cases(kind).values():
            happened = run(case) if how is None else run(case, how)
            if happened:
                found[case.name] = happened
    return found, time.perf_counter() - started


def table(ways: Sequence[tuple[str, object, object]]) -> tuple[list[str], dict[tuple[str, str], dict[str, str]]]:
    """The table of passes, and the failures by set and way."""
    lines = [
        "| set | tests | " + " | ".join(f"{name} (s)" for name, _, _ in ways) + " |",
        "|---" * (2 + len(ways)) + "|",
    ]
    failures = {}
    for kind in KINDS:
        total, cells = len(cases(kind)), []
        for name, how, run in ways:
            failures[kind, name], seconds = _failures(kind, how, run)
            cells.append(f"{total - len(failures[kind, name])} ({seconds:.1f})")
        lines.append(f"| {kind} | {total} | {' | '.join(cells)} |")
    return lines, failures


def main() -> None:
    """Runs all and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", action="store_true", help="also run the original models in ONNX Runtime")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    ways: list[tuple[str, object, object]] = [("executor", execute, failure), ("to_torch", call, failure)]
    if arguments.peers:
        ways.append(("ONNX Runtime", None, runtime_failure))
    lines, failures = table(ways)
    print(f"# ONNX's backend tests\n\nonnx {onnx.__version__}, torch {torch.__version__}, "
          f"onnxruntime {onnxruntime.__version__}; passed, and seconds in brackets.\n")  # fmt: skip
    print("\n".join(lines))
    print("\n## What does not pass\n\n| set | test | way | reason | what happened |\n|---|---|---|---|---|")
    for (kind, way), found in failures.items():
        if way == "ONNX Runtime":
            continue
        for name, happened in found.items():
            why = reason(cases(kind)[name]) or "**not expected**"
            print(f"| {kind} | {name} | {way} | {why} | {happened.replace('|', '/')[:120]} |")


if __name__ == "__main__":
    main()
