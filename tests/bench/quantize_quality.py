"""Int8 on Fashion-MNIST beside onnxruntime.quantization and NNCF: accuracy, latency, size, time, memory.

Run by hand: train the networks (``python -m tests.bench.fashion``), install NNCF into a folder of its own
(``pip install --no-deps --target DIR nncf openvino-telemetry psutil pydot rich scikit-learn tabulate joblib``), then

    python -m tests.bench.quantize_quality --data DIR --checkpoints DIR [--peers DIR] [--models resnet20 vit]

Every tool gets the same float file, written by ``torch.onnx.export``, and the same calibration images, in a process of
its own. Accuracy is top-1 on the 10,000 test images, and latency that of one thread, in ONNX Runtime; sessions take
turns. With --counts, also the memory that a tool's process gains while it quantizes with so many images. Prints
Markdown.
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
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 10  # calibration images per run
BATCHES = (1, 32)  # whose latency is measured
COLUMNS = " | ".join(f"batch {batch}, ms | of float" for batch in BATCHES)

Tool = Callable[[Path, Path, list[np.ndarray]], dict[str, Any]]


def _graphopt(pipeline: str) -> Tool:
    import torch

    import graphopt as go

    torch.set_num_threads(1)
    go.pipeline.all_passes()

    def run(source: Path, target: Path, images: list[np.ndarray]) -> dict[str, Any]:
        graph = go.load(source)
        report = go.optimize(graph, pipeline, [(torch.from_numpy(each),) for each in images], check=False)
        go.save(graph, target)
        placed = report.of("insert-qdq") if "quantize" in pipeline else None
        return {"notes": list(placed.notes), "seconds by pass": _seconds(report)} if placed else {}

    return run


def _seconds(report: Any) -> dict[str, float]:
    return {entry.name.partition("{")[0]: round(entry.seconds, 3) for entry in report.passes if entry.seconds > 0.02}


def _onnxruntime(method: str, per_channel: bool = True) -> Tool:
    import onnx.version_converter
    import onnxruntime
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    onnxruntime.set_default_logger_severity(3)

    class Reader(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        def __init__(self, images: list[np.ndarray]) -> None:
            self.images = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {"x": image}

    def run(source: Path, target: Path, images: list[np.ndarray]) -> dict[str, Any]:
        prepared = target.with_suffix(".prepared.onnx")
        model = onnx.load(source)
        if model.opset_import[0].version < 13:  # scales per channel need it
            onnx.save(onnx.version_converter.convert_version(model, 13), prepared)
            source = prepared
        try:
            quant_pre_process(source, prepared)
        except Exception:  # the class that it raises where it cannot follow all shapes; this option is its hint
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, target, Reader(images), quant_format=QuantFormat.QDQ, per_channel=per_channel,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=False,
            calibrate_method=getattr(CalibrationMethod, method),
        )  # fmt: skip
        return {}

    return run


def _nncf() -> Tool:
    import nncf  # type: ignore[import-not-found, unused-ignore]
    import onnx

    def run(source: Path, target: Path, images: list[np.ndarray]) -> dict[str, Any]:
        single = [image[None] for batch in images for image in batch]
        dataset = nncf.Dataset(single, lambda image: {"x": image})
        onnx.save(nncf.quantize(onnx.load(source), dataset, subset_size=len(single)), target)
        return {}

    return run


OURS = "simplify,fuse,quantize{target=ort-cpu}"
TOOLS: dict[str, Callable[[], Tool]] = {
    "graphopt": lambda: _graphopt(OURS),
    "graphopt all": lambda: _graphopt("simplify,fuse,quantize{target=ort-cpu,everything=true}"),
    "graphopt within 20 dB": lambda: _graphopt("simplify,fuse,quantize{target=ort-cpu,max-drop=0.01}"),
    "graphopt minmax": lambda: _graphopt("simplify,fuse,quantize{target=ort-cpu,method=minmax}"),
    "quantize_static": lambda: _onnxruntime("MinMax"),
    "quantize_static percentile": lambda: _onnxruntime("Percentile"),
    "quantize_static per tensor": lambda: _onnxruntime("MinMax", per_channel=False),
    "nncf": _nncf,
    "fused float": lambda: _graphopt("simplify,fuse"),
}


def work(tool: str, source: Path, target: Path, images: Path) -> dict[str, Any]:
    """One tool on one file, in this process: seconds, and megabytes that it took on top of its imports."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    run = TOOLS[tool]()
    batches = _batches(images)
    os.environ["OMP_NUM_THREADS"] = "1"
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _kilobytes("VmRSS")
    cpu, started = time.process_time(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        found = run(source, target, batches)
    found |= {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}
    return found | {"megabytes": (_kilobytes("VmHWM") - before) / 1024}


def _batches(images: Path) -> list[np.ndarray]:
    """An .npz is a batch per array; an .npy is cut into batches."""
    data = np.load(images)
    if images.suffix == ".npz":
        return [data[name] for name in data.files]
    return [data[i : i + BATCH] for i in range(0, len(data), BATCH)]


def _kilobytes(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def separately(tool: str, source: Path, target: Path, images: Path, peers: str | None) -> dict[str, Any]:
    """`work` in a process of its own; an "error" where the tool fails."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(filter(None, (os.getcwd(), peers))))
    command = [
        sys.executable,
        "-m",
        "tests.bench.quantize_quality",
        "--work",
        tool,
        str(source),
        str(target),
        str(images),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def top1(session: Any, x: np.ndarray, y: np.ndarray) -> float:
    """Per cent."""
    hits = sum(
        int((session.run(None, {"x": x[i : i + 500]})[0].argmax(1) == y[i : i + 500]).sum())
        for i in range(0, len(x), 500)
    )
    return 100 * hits / len(x)


def latencies(sessions: dict[str, Any], x: np.ndarray, rounds: int) -> dict[str, float]:
    """Median milliseconds; the sessions take turns, in an order that changes.

    A session of one thread computes in the thread that calls it, whose own time leaves out what others do meanwhile.
    """
    times: dict[str, list[float]] = {name: [] for name in sessions}
    names = list(sessions)
    for number in range(rounds + 3):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            sessions[name].run(None, {"x": x})  # its weights and buffers are in the cache again
            started = time.thread_time()
            sessions[name].run(None, {"x": x})
            if number >= 3:
                times[name].append(time.thread_time() - started)
    return {name: 1e3 * statistics.median(each) for name, each in times.items()}


def export(module: Any, path: Path) -> None:
    import torch

    example = torch.zeros(2, 3, 28, 28)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (example,), str(path), input_names=["x"], output_names=["y"], dynamo=True, external_data=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
        )  # fmt: skip


def scale_apart(module: Any, factor: float) -> None:
    """Multiplies every other channel that a depthwise layer reads through a ReLU, and divides the layer's weights.

    The network computes what it did, to the last bit where the factor is a power of two.
    """
    import torch
    from torch import nn

    from graphopt.models.mobilenet import InvertedResidual

    for block in module.modules():
        if not isinstance(block, InvertedResidual):
            continue
        made: Any = block.layers[0]
        read: Any = block.layers[1]
        if isinstance(made.act, nn.ReLU) and made.conv.groups == 1 and read.conv.groups > 1:
            factors = torch.where(torch.arange(made.bn.num_features) % 2 == 0, factor, 1.0)
            with torch.no_grad():
                made.bn.weight *= factors
                made.bn.bias *= factors
                read.conv.weight /= factors[:, None, None, None]


def exported(name: str, folder: Path, options: argparse.Namespace) -> Path:
    """The float file of a network."""
    from tests.bench.fashion import load

    module, path = load(options.checkpoints, name, options.seed), folder / f"{name}.onnx"
    scale_apart(module, options.apart)
    export(module, path)
    return path


def rows(name: str, folder: Path, options: argparse.Namespace, images: Path, test: tuple[Any, Any]) -> Iterator[str]:
    """The lines of the table for one network."""
    source = exported(name, folder, options)
    found: dict[str, dict[str, Any]] = {"float": {}}
    files = {"float": source}
    for tool in options.tools:
        files[tool] = folder / f"{name}-{tool.replace(' ', '-')}.onnx"
        found[tool] = separately(tool, source, files[tool], images, options.peers)
        print(f"# {name} {tool} {found[tool]}", file=sys.stderr, flush=True)
    sessions = {tool: session(files[tool]) for tool, facts in found.items() if "error" not in facts}
    for tool, each in sessions.items():
        found[tool]["top1"] = top1(each, *test)
    for batch in BATCHES:
        for tool, ms in latencies(sessions, test[0][:batch], options.rounds).items():
            found[tool][str(batch)] = ms
    base = found["float"]
    for tool, facts in found.items():
        if "error" in facts:
            yield f"| {name} | {tool} | {facts['error'][:120]} |"
            continue
        timing = " | ".join(f"{facts[batch]:.3f} | {facts[batch] / base[batch]:.2f}x" for batch in map(str, BATCHES))
        taken = f"{facts['seconds']:.2f} | {facts['cpu']:.2f}" if "seconds" in facts else "- | -"
        loss = f"{facts['top1'] - base['top1']:+.2f}" if tool != "float" else "-"
        size = files[tool].stat().st_size
        yield f"| {name} | {tool} | {facts['top1']:.2f} | {loss} | {timing} | {size:,} | {taken} |"
    for note in found.get("graphopt", {}).get("notes", ()):
        yield f"<!-- {name}: {note} -->"


def memory(name: str, folder: Path, options: argparse.Namespace, train: np.ndarray) -> Iterator[str]:
    """Megabytes that a tool gains, by the number of calibration images."""
    source = exported(name, folder, options)
    for tool in options.tools:
        gained = []
        for count in options.counts:
            images = folder / f"{count}.npy"
            np.save(images, train[:count])
            facts = separately(tool, source, folder / "out.onnx", images, options.peers)
            gained.append(f"{facts['megabytes']:.0f} | {facts['cpu']:.1f}" if "megabytes" in facts else "- | -")
        yield f"| {name} | {tool} | " + " | ".join(gained) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--peers", help="folder that NNCF is installed in")
    parser.add_argument("--models", nargs="*")
    parser.add_argument("--seed", type=int, default=0, help="of the checkpoints")
    parser.add_argument("--tools", nargs="*", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("--images", type=int, default=500, help="calibration images")
    parser.add_argument("--apart", type=float, default=1.0, help="scale channels of MobileNetV3 apart by this factor")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--counts", nargs="*", type=int, default=[], help="measure memory only, for so many images")
    parser.add_argument("--keep", type=Path, help="folder for the files that are made")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        tool, *paths = options.work
        print(json.dumps(work(tool, *map(Path, paths))))
        return
    from tests.bench.fashion import NETWORKS, checkpoint, read

    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        train = read(options.data, "train", max([options.images, *options.counts]))[0].numpy()
        x, y = (each.numpy() for each in read(options.data, "t10k"))
        np.save(folder / "images.npy", train[: options.images])
        names = options.models or [n for n in NETWORKS if checkpoint(options.checkpoints, n, options.seed).exists()]
        if options.counts:
            heads = [f"MB, {count} images | CPU s" for count in options.counts]
            lines = (line for name in names for line in memory(name, folder, options, train))
        else:
            heads = ["top-1 % | change", COLUMNS, "bytes | s | CPU s"]
            lines = (line for n in names for line in rows(n, folder, options, folder / "images.npy", (x, y)))
        head = " | ".join(["| network | file", *heads]) + " |"
        print(f"{head}\n|" + " --- |" * (head.count("|") - 1))
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
