"""ONNX's backend node tests, simplified: how many still run in ONNX Runtime, and compute the same.

Run by hand: ``python -m tests.bench.simplify_node_tests --peers FOLDER`` (see `tests.bench.simplify_peers`).

Counted are the tests that ONNX Runtime runs as they are, its own optimisations disabled, giving the same numbers twice.
Simplified, such a test must load, run, and give those numbers at the tolerances that it asks for.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tests.bench.simplify_tools import TOOLS, Server
from tests.onnx_cases import Case, cases, same, value_of


def outputs(model: bytes, case: Case) -> list[list[Any]]:
    """What ONNX Runtime computes for the inputs of a test. Raises what it raises."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return [session.run(None, dict(zip(names, map(_plain, inputs), strict=False))) for inputs, _ in case.data]


def _plain(given: Any) -> Any:
    match given:
        case onnx.TensorProto():
            return onnx.numpy_helper.to_array(given)
        case onnx.SequenceProto():
            return onnx.numpy_helper.to_list(given)
        case onnx.OptionalProto():
            return onnx.numpy_helper.to_optional(given)
    return given


def agree(got: Sequence[Sequence[Any]], want: Sequence[Sequence[Any]], case: Case) -> None:
    """Raises AssertionError where outputs differ by more than the test's tolerances."""
    for mine, theirs in zip(got, want, strict=True):
        for index, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            same(value_of(a), value_of(b), case.rtol, case.atol, f"output {index}")


def runnable(kind: str) -> dict[str, list[list[Any]]]:
    """The outputs of the tests that run as they are, by name."""
    found = {}
    for name, case in cases(kind).items():
        model = case.model.SerializeToString()
        try:
            first = outputs(model, case)
            agree(outputs(model, case), first, case)
        except Exception:  # what ONNX Runtime cannot run is not counted
            continue
        found[name] = first
    return found


def problem(case: Case, want: Sequence[Sequence[Any]], server: Server, scratch: Path) -> str:
    """What goes wrong with a test that is simplified; empty when nothing does."""
    source, target = scratch / "in.onnx", scratch / "out.onnx"
    source.write_bytes(case.model.SerializeToString())
    _, failure = server.run(source, target, 60)
    if failure:
        return failure
    try:
        agree(outputs(target.read_bytes(), case), want, case)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return ""


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder that the peers are installed in")
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("--kind", default="node")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    want = runnable(arguments.kind)
    print(f"{len(cases(arguments.kind))} tests, {len(want)} run in ONNX Runtime as they are.\n")
    print("| tool | run and equal | not | which |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for tool in arguments.tools:
            server = Server(tool, arguments.peers)
            problems = {}
            for name, outs in want.items():
                what = problem(cases(arguments.kind)[name], outs, server, Path(folder))
                if what:
                    problems[name] = what
            server.close()
            shown = "; ".join(f"{name}: {what}" for name, what in list(problems.items())[:6])
            shown = shown.replace("|", "/")
            print(f"| {tool} | {len(want) - len(problems)} | {len(problems)} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
