"""Every target's file in the backend that it is for: what runs on integers, and what accuracy is left. Prints Markdown.

    python -m tests.bench.quantize_targets [--peers DIR] [--inductor] [--data DIR --checkpoints DIR --models resnet20]

Networks are the digits model of the zoo, or those of tests/bench/fashion.py. ``--peers`` is a folder that openvino is
installed in (``pip install --no-deps --target DIR openvino openvino-telemetry``). ``--inductor`` compiles with torch,
which needs a C++ compiler and a minute per network.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import graphopt as go
from graphopt.models.digits import data as digits_data
from graphopt.models.digits import digits
from graphopt.runtime.ort import OrtSession, kernel_counts
from graphopt.targets import available
from tests.bench import fashion

CALIBRATION, TEST, BATCH = 500, 2000, 40
INTEGER = ("QLinear", "QGemm", "QAttention", "MatMulInteger", "ConvInteger")

Images = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A network, the images that calibrate it and those that test it."""

    name: str
    graph: go.Graph
    calibration: list[tuple[torch.Tensor, ...]]
    test: Images


def cases(options: argparse.Namespace) -> list[Case]:
    if options.data is None:
        module, args = digits()
        images = digits_data()
        return [_case("digits", module, args[0], images.train_x, (images.test_x, images.test_y))]
    seen, _ = fashion.read(options.data, "train", CALIBRATION)
    test = fashion.read(options.data, "t10k", TEST)
    modules = {name: fashion.load(options.checkpoints, name) for name in options.models}
    return [_case(name, module, seen[:1], seen, test) for name, module in modules.items()]


def _case(name: str, module: torch.nn.Module, example: torch.Tensor, seen: torch.Tensor, test: Images) -> Case:
    graph = go.capture(module, (example[:1].contiguous(),), dynamic={"x": {0: "batch"}})
    go.optimize(graph, "simplify,fuse", check=False)
    return Case(name, graph, [(part,) for part in seen[:CALIBRATION].split(BATCH)], test)


def accuracy(compute: Callable[[np.ndarray], Any], test: Images) -> float:
    """Per cent of images for which `compute`, given a batch, has the greatest output at the label."""
    hits = 0
    for x, y in zip(test[0].split(BATCH), test[1].split(BATCH), strict=True):
        hits += int((np.asarray(compute(x.numpy())).argmax(1) == y.numpy()).sum())
    return 100 * hits / len(test[1])


def onnxruntime_cell(model: Any, test: Images) -> tuple[float, str]:
    counts = kernel_counts(model)
    integer = {op: n for op, n in counts.items() if op.startswith(INTEGER)}
    floats = sum(counts[op] for op in ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"))
    listed = ", ".join(f"{n} {op}" for op, n in sorted(integer.items()))
    session = OrtSession(model)
    return accuracy(lambda x: session.run([x])[0], test), f"{listed or 'none'}; {floats} in float"


def openvino_cell(model: Any, test: Images) -> tuple[float, str]:
    import openvino

    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", hints)
    kinds: Counter[str] = Counter()
    for op in compiled.get_runtime_model().get_ordered_ops():
        info = op.get_rt_info()
        if info["layerType"].astype(str) in ("Convolution", "GroupConvolution", "FullyConnected", "MatMul"):
            kinds[info["runtimePrecision"].astype(str)] += 1
    listed = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items(), reverse=True))
    return accuracy(lambda x: compiled(x)[0], test), listed


def inductor_cell(graph: go.Graph, test: Images) -> tuple[float, str]:
    from torch._dynamo.utils import counters

    module = go.to_pt2e(graph)
    program = torch.export.export(module, (test[0][:BATCH].contiguous(),), strict=False)
    counters.clear()
    with torch.no_grad(), torch._inductor.config.patch(freezing=True):
        fast = torch.compile(program.module())
        got = accuracy(lambda x: fast(torch.from_numpy(x)).numpy(), test)
    found = counters["inductor"]
    names = {key.removesuffix("_lower_count"): n for key, n in found.items() if key.endswith("_lower_count")}
    return got, ", ".join(f"{n} {name}" for name, n in sorted(names.items()))


def rows(case: Case, target: str, options: argparse.Namespace) -> list[str]:
    graph = case.graph.clone()
    option = f"target={target}"
    text = f"insert-qdq{{{option},everything=true}},calibrate{{{option}}},pack-weights{{{option}}}"
    go.optimize(graph, text, case.calibration, check=False)
    model = go.to_onnx(graph)
    cells = {"ONNX Runtime": onnxruntime_cell(model, case.test)}
    if options.peers:
        cells["OpenVINO"] = openvino_cell(model, case.test)
    if options.inductor and target == "torch-inductor":
        cells["inductor"] = inductor_cell(graph, case.test)
    return [f"| {case.name} | {target} | {where} | {got:.2f} | {what} |" for where, (got, what) in cells.items()]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder that openvino is installed in")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--checkpoints", type=Path, help="folder that tests/bench/fashion.py wrote")
    parser.add_argument("--models", nargs="*", choices=list(fashion.NETWORKS), default=["resnet20", "mobilenet_v2"])
    parser.add_argument("--targets", nargs="*", choices=available(), default=available())
    parser.add_argument("--inductor", action="store_true", help="compile torch-inductor's file with torch")
    options = parser.parse_args(arguments)
    if options.peers:
        sys.path.insert(0, str(options.peers))
    print("| network | target | executed by | accuracy, % | products: kernels or precisions |")
    print("| --- | --- | --- | --- | --- |")
    for case in cases(options):
        exact, what = onnxruntime_cell(go.to_onnx(case.graph), case.test)
        print(f"| {case.name} | (float) | ONNX Runtime | {exact:.2f} | {what} |")
        for target in options.targets:
            print("\n".join(rows(case, target, options)), flush=True)


if __name__ == "__main__":
    main()
