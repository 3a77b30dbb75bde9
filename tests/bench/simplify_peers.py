"""Simplification beside the peers: nodes, seconds and errors on the zoo's ONNX exports.

Run by hand:

    pip install --target /tmp/peers --no-deps onnxslim==0.1.98 onnxsim==0.8.1 onnxoptimizer==0.4.2 onnxscript==0.7.2
    python -m tests.bench.simplify_peers --peers /tmp/peers

Prints a Markdown table. Nodes do not count Constants, but those in bodies. The error is the largest one of any output,
relative to that output's largest number, in ONNX Runtime with its own optimisations disabled. Every tool runs in a
process of its own with a time-out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch.utils import _pytree as pytree

from graphopt.errors import GraphoptError
from graphopt.models import ZOO, build
from graphopt.runtime.ort import OrtSession
from tests.bench.simplify_tools import TOOLS

OURS = ("simplify", "simplify,fuse")
PEERS = tuple(tool for tool in TOOLS if tool not in OURS)
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Result:
    """What a tool made of a file.

    Attributes:
        nodes: of the result; 0 when it failed.
        seconds: from file to file.
        error: largest relative error.
        failure: what went wrong; empty when nothing did.
    """

    nodes: int = 0
    seconds: float = 0.0
    error: float = 0.0
    failure: str = ""


def export(name: str, exporter: str, folder: Path) -> Path | None:
    """The file that an exporter writes for a model of the zoo, with its inputs beside it; ``None`` when it cannot."""
    path = folder / f"{name}.{exporter}.onnx"
    if path.exists():
        return path
    module, args = build(name)
    buffer = io.BytesIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            if exporter == "dynamo":
                torch.onnx.export(module, args, buffer, dynamo=True, optimize=False, external_data=False)
            else:
                torch.onnx.export(module, args, buffer, dynamo=False, do_constant_folding=False)
    except Exception as error:  # the exporters raise whatever comes their way
        print(f"<!-- {name}: {exporter} cannot export it: {type(error).__name__} -->", file=sys.stderr)
        return None
    arrays = [leaf.numpy() for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
    np.savez(path.with_suffix(".npz"), *arrays)
    path.write_bytes(buffer.getvalue())
    return path


def count_nodes(graph: onnx.GraphProto) -> int:
    """Nodes of a graph and its bodies, without Constants."""
    total = 0
    for node in graph.node:
        total += node.op_type != "Constant"
        for attribute in node.attribute:
            total += sum(count_nodes(body) for body in [*attribute.graphs, *([attribute.g] * attribute.HasField("g"))])
    return total


def outputs(path: Path, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime computes, as the file says and without optimisations of its own."""
    return OrtSession(path, optimize=False).run(inputs)


def attempt(tool: str, source: Path, target: Path, peers: Path | None, timeout: float) -> Result:
    """Runs a tool in its own process and compares what it made."""
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    if tool in PEERS and peers is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(peers), environment.get("PYTHONPATH", "")])
    target.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.bench.simplify_tools", tool, str(source), str(target)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return Result(failure=f"> {timeout:.0f} s")
    if done.returncode or "seconds=" not in done.stdout:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Result(failure=last[:120])
    seconds = float(done.stdout.split("seconds=")[-1].split()[0])
    nodes = count_nodes(onnx.load(target, load_external_data=False).graph)
    with np.load(source.with_suffix(".npz")) as data:
        inputs = list(data.values())
    want = outputs(source, inputs)
    try:
        got = outputs(target, inputs)
    except GraphoptError as error:
        return Result(nodes, seconds, failure=str(error)[:120])
    return Result(nodes, seconds, max(map(relative, got, want), default=0.0))


def relative(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference relative to the largest number; infinite when shapes or element types differ."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return float("inf")
    if not want.size:
        return 0.0
    a, b = got.astype(np.float64), want.astype(np.float64)
    return float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-30))


def cell(result: Result, best: bool) -> str:
    """One cell of the table."""
    if result.failure:
        return f"failed: {' '.join(result.failure.split())[:60].replace('|', '/')}"
    nodes = f"**{result.nodes}**" if best else str(result.nodes)
    error = f" {result.error:.0e}" if result.error > TOLERANCE else ""
    return f"{nodes} ({result.seconds:.2f} s{error})"


def row(name: str, before: int, results: dict[str, Result]) -> str:
    """One row of the table; the least nodes of all are bold."""
    good = {t: r for t, r in results.items() if not r.failure and r.error <= TOLERANCE}
    least = min((r.nodes for r in good.values()), default=0)
    cells = [cell(r, t in good and r.nodes == least) for t, r in results.items()]
    return f"| {name} | {before} | " + " | ".join(cells) + " |"


def summary(table: dict[str, dict[str, Result]]) -> list[str]:
    """Sentences about the whole table."""
    lines = []
    for tool in next(iter(table.values()), {}):
        done = [results[tool] for results in table.values()]
        good = [r for r in done if not r.failure]
        worst = max((r.error for r in good), default=0.0)
        middle = statistics.median(r.seconds for r in good) if good else 0.0
        lines.append(
            f"- {tool}: {sum(r.nodes for r in good):,} nodes, {sum(r.seconds for r in good):.1f} s"
            f" (median {middle:.2f} s),"
            f" worst error {worst:.1e}, {len(done) - len(good)} failures"
        )
    worse = []
    for name, results in table.items():
        mine = results.get("simplify,fuse")
        theirs = [r.nodes for t, r in results.items() if t in PEERS and not r.failure and r.error <= TOLERANCE]
        if mine is not None and theirs and (mine.failure or mine.nodes > min(theirs)):
            worse.append(f"{name} ({mine.nodes} against {min(theirs)})")
    lines.append(f"- more nodes than the best peer: {', '.join(worse) or 'none'}")
    return lines


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="models of the zoo; all by default")
    parser.add_argument("--peers", type=Path, help="folder that the peers are installed in")
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("--exporters", nargs="+", default=["dynamo", "legacy"], choices=["dynamo", "legacy"])
    parser.add_argument("--folder", type=Path, help="where exported files are, and stay")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one tool on one file")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    table: dict[str, dict[str, Result]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for exporter in arguments.exporters:
            print(f"\n{exporter} exporter\n\n| model | nodes | {' | '.join(arguments.tools)} |")
            print("| --- | --- |" + " --- |" * len(arguments.tools), flush=True)
            for name in arguments.names or ZOO:
                source = export(name, exporter, folder)
                if source is None:
                    continue
                before = count_nodes(onnx.load(source).graph)
                target = Path(scratch) / "out.onnx"
                results = {
                    tool: attempt(tool, source, target, arguments.peers, arguments.timeout) for tool in arguments.tools
                }
                table[f"{name} ({exporter})"] = results
                print(row(name, before, results), flush=True)
    print("\n" + "\n".join(summary(table)))
    if arguments.json:
        plain = {name: {t: vars(r) for t, r in results.items()} for name, results in table.items()}
        arguments.json.write_text(json.dumps(plain, indent=1))


if __name__ == "__main__":
    main()
