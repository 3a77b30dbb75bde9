"""Simplification beside the peers: nodes, seconds and errors on exports of the zoo and transformers, and real models.

Run by hand:

    pip install --target /tmp/peers --no-deps onnxslim==0.1.98 onnxsim==0.8.1 onnxoptimizer==0.4.2 onnxscript==0.7.2
    python -m tests.bench.simplify_peers --peers /tmp/peers

Prints Markdown tables. Nodes do not count Constants, but those in bodies. The error is the largest one of any output,
relative to that output's largest number, in ONNX Runtime with its own optimisations disabled, over all inputs of a
model (several sizes where dimensions are open). Seconds are the median of some runs, the tools taking turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from graphopt.errors import GraphoptError
from graphopt.runtime.ort import OrtSession
from tests.bench.simplify_sources import FAMILIES, Feed, read_feeds, sources
from tests.bench.simplify_tools import PEERS, TOOLS, Server

TOLERANCE = 1e-5
MINE = "simplify,fuse"


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

    @property
    def is_good(self) -> bool:
        """Whether the result can take the place of the original."""
        return not self.failure and self.error <= TOLERANCE


#: The results of one file: the nodes before, and by tool.
Row = tuple[int, dict[str, Result]]


def count_nodes(graph: onnx.GraphProto) -> int:
    """Nodes of a graph and its bodies, without Constants."""
    total = 0
    for node in graph.node:
        total += node.op_type != "Constant"
        for attribute in node.attribute:
            total += sum(count_nodes(body) for body in [*attribute.graphs, *([attribute.g] * attribute.HasField("g"))])
    return total


def nodes_in(path: Path) -> int:
    """Nodes of a file; those of local functions count each time they are called."""
    model = onnx.load(path, load_external_data=False)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return count_nodes(model.graph)


def outputs(path: Path, feeds: Sequence[Feed]) -> list[list[np.ndarray]]:
    """What ONNX Runtime computes, as the file says and without optimisations of its own."""
    session = OrtSession(path, optimize=False)
    return [session.run(feed) for feed in feeds]


def judge(path: Path, seconds: float, feeds: Sequence[Feed], want: Sequence[Sequence[np.ndarray]]) -> Result:
    """The result in a file."""
    nodes = nodes_in(path)
    try:
        got = outputs(path, feeds)
    except GraphoptError as error:
        return Result(nodes, seconds, failure=str(error)[:120])
    pairs = [pair for mine, theirs in zip(got, want, strict=True) for pair in zip(mine, theirs, strict=True)]
    return Result(nodes, seconds, max((relative(a, b) for a, b in pairs), default=0.0))


def relative(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference relative to the largest number; infinite when shapes or element types differ."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return float("inf")
    if not want.size:
        return 0.0
    a, b = got.astype(np.float64), want.astype(np.float64)
    return float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-30))


def measure(source: Path, servers: Mapping[str, Server], scratch: Path, repeats: int, timeout: float) -> Row:
    """Runs all tools on a file, in turns, and judges what they make."""
    feeds = read_feeds(source)
    want = outputs(source, feeds)
    times: dict[str, list[float]] = {}
    failures: dict[str, str] = {}
    for _ in range(repeats):
        for tool, server in servers.items():
            if tool not in failures:
                seconds, failure = server.run(source, scratch / f"{tool}.onnx", timeout)
                times.setdefault(tool, []).append(seconds)
                failures.update({tool: failure} if failure else {})
    results = {}
    for tool in servers:
        seconds = statistics.median(times[tool])
        if tool in failures:
            results[tool] = Result(seconds=seconds, failure=failures[tool])
        else:
            results[tool] = judge(scratch / f"{tool}.onnx", seconds, feeds, want)
    return nodes_in(source), results


def cell(result: Result, best: bool) -> str:
    """One cell of the table."""
    if result.failure:
        return f"failed: {' '.join(result.failure.split())[:60].replace('|', '/')}"
    nodes = f"**{result.nodes}**" if best else str(result.nodes)
    error = f" {result.error:.0e}" if result.error > TOLERANCE else ""
    return f"{nodes} ({result.seconds:.2f} s{error})"


def line(name: str, row: Row) -> str:
    """One row of the table; the least nodes of all are bold."""
    before, results = row
    least = min((r.nodes for r in results.values() if r.is_good), default=0)
    cells = [cell(r, r.is_good and r.nodes == least) for r in results.values()]
    return f"| {name} | {before} | " + " | ".join(cells) + " |"


def against(rows: Mapping[str, Row]) -> list[str]:
    """How nodes compare with those of the best peer, and the time with that of the fastest peer that gets as far."""
    places: dict[str, list[str]] = {"below": [], "at": [], "above": []}
    ratios: dict[str, float] = {}
    for name, (_, results) in rows.items():
        mine = results.get(MINE)
        theirs = [r for tool, r in results.items() if tool in PEERS and r.is_good]
        if mine is None or not mine.is_good or not theirs:
            continue
        best = min(r.nodes for r in theirs)
        key = "below" if mine.nodes < best else "at" if mine.nodes == best else "above"
        places[key].append(f"{name} ({mine.nodes} against {best})" if key == "above" else name)
        # Where no peer gets there, the one that comes nearest is the measure.
        ratios[name] = mine.seconds / min(r.seconds for r in theirs if r.nodes == best)
    if not ratios:
        return []
    slowest = sorted(ratios.items(), key=lambda item: -item[1])[:3]
    return [
        f"- nodes below the best peer: {len(places['below'])}; at it: {len(places['at'])}"
        f" ({', '.join(places['at']) or 'none'}); above it: {', '.join(places['above']) or 'none'}",
        "- time over that of the fastest peer with the best peer's count:"
        f" median {statistics.median(ratios.values()):.2f}x,"
        f" at or below 1x on {sum(r <= 1 for r in ratios.values())} of {len(ratios)}; slowest: "
        + ", ".join(f"{name} {ratio:.2f}x" for name, ratio in slowest),
    ]  # fmt: skip


def summary(rows: Mapping[str, Row], tools: Iterable[str]) -> list[str]:
    """Sentences about a whole table."""
    lines = []
    for tool in tools:
        done = [results[tool] for _, results in rows.values()]
        good = [r for r in done if r.is_good]
        wrong = [r for r in done if not r.failure and not r.is_good]
        lines.append(
            f"- {tool}: {sum(r.nodes for r in good):,} nodes in {len(good)} files, {sum(r.seconds for r in good):.1f} s"
            f" (median {statistics.median([r.seconds for r in good] or [0.0]):.3f} s), worst error"
            f" {max((r.error for r in good), default=0.0):.1e}, {len(wrong)} beyond {TOLERANCE:.0e},"
            f" {len(done) - len(good) - len(wrong)} failures"
        )
    return lines + against(rows)


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="models; all of the families by default")
    parser.add_argument("--peers", type=Path, help="folder that the peers are installed in")
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--folder", type=Path, help="where exported files are, and stay")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each tool on each file")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one tool on one file")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    arguments = parser.parse_args()
    servers = {tool: Server(tool, arguments.peers) for tool in arguments.tools}
    table: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for family in arguments.families:
            print(f"\n### {family}\n\n| model | nodes | {' | '.join(servers)} |")
            print("| --- | --- |" + " --- |" * len(servers), flush=True)
            rows = {}
            for name, source in sources(family, folder, arguments.names):
                rows[name] = measure(source, servers, Path(scratch), arguments.repeats, arguments.timeout)
                print(line(name, rows[name]), flush=True)
            print("\n" + "\n".join(summary(rows, servers)), flush=True)
            table.update({f"{name} ({family})": row for name, row in rows.items()})
    print("\nAll together:\n\n" + "\n".join(summary(table, servers)))
    for server in servers.values():
        server.close()
    if arguments.json:
        plain = {n: {"before": b, **{t: vars(r) for t, r in rs.items()}} for n, (b, rs) in table.items()}
        arguments.json.write_text(json.dumps(plain, indent=1))


if __name__ == "__main__":
    main()
