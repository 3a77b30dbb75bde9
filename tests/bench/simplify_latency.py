"""Latency of simplified files in ONNX Runtime, all its own optimisations on, one thread, beside the original files.

Run by hand: ``python -m tests.bench.simplify_latency --folder FOLDER`` (the folder keeps exported files). Medians of
the CPU time of calls that take turns; the original is loaded twice, and how far its two sessions differ says how much
is noise. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path

import graphopt as go
from graphopt.runtime.ort import OrtSession
from tests.bench.cpu_time import cpu_medians
from tests.bench.simplify_sources import FAMILIES, read_feeds, sources


def measure(source: Path, pipeline: str, rounds: int) -> dict[str, float]:
    """Median milliseconds of the file, of the file once more, and of what the pipeline makes of it."""
    graph = go.load(source)
    go.optimize(graph, pipeline, check=False)
    feed = read_feeds(source)[0]
    sessions = {
        "original": OrtSession(source),
        "again": OrtSession(source),
        "simplified": OrtSession(go.to_onnx(graph)),
    }
    return cpu_medians({name: partial(session.run, feed) for name, session in sessions.items()}, rounds)


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="models; all of the families by default")
    parser.add_argument("--families", nargs="+", default=["zoo", "transformers", "real"], choices=list(FAMILIES))
    parser.add_argument("--folder", type=Path, help="where exported files are, and stay")
    parser.add_argument("--pipeline", default="simplify,fuse")
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    print("| model | original, ms | the same again | simplified | ratio |\n| --- | --- | --- | --- | --- |")
    ratios, noise = {}, []
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        for family in arguments.families:
            for name, source in sources(family, folder, arguments.names):
                times = measure(source, arguments.pipeline, arguments.rounds)
                base = min(times["original"], times["again"])
                ratios[name] = times["simplified"] / base
                noise.append(max(times["original"], times["again"]) / base)
                cells = [f"{times[key]:.3f}" for key in ("original", "again", "simplified")]
                print(f"| {name} | {' | '.join(cells)} | {ratios[name]:.2f} |", flush=True)
    if ratios:
        slower = [f"{name} {ratio:.2f}x" for name, ratio in ratios.items() if ratio > 1.05]
        print(f"\nSimplified over original: median {statistics.median(ratios.values()):.2f}x; the original over itself:"
              f" median {statistics.median(noise):.2f}x, worst {max(noise):.2f}x. Slower by more than 5 %:"
              f" {', '.join(slower) or 'none'}.")  # fmt: skip


if __name__ == "__main__":
    main()
