"""What ONNX Runtime's float and integer kernels take, as the figures of graphopt/targets/ort-cpu.toml want it.

Run: python -m tests.bench.ort_kernels. Every case is a small network, as floats and with everything quantized; printed
are the median microseconds of each kernel in it, from ONNX Runtime's own profile. Divide by the quantity that a term
counts (printed beside) to get its rate.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from graphopt.backends import to_onnx
from graphopt.ir import Graph
from graphopt.passes.quantize.profit import terms_of
from graphopt.runtime.samples import example_inputs
from graphopt.targets import load_target
from tests.passes.quantize.models import Maker, quantize

REPEATS = 60


def profile(graph: Graph) -> dict[str, list[float]]:
    """Median microseconds of every kernel, by operator."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        model = to_onnx(graph).SerializeToString()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        feed = {v.name: t.numpy() for v, t in zip(graph.inputs, example_inputs(graph), strict=True)}
        for _ in range(REPEATS):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"], event["name"]].append(event["dur"])
    found: dict[str, list[float]] = defaultdict(list)
    for (op, _), values in times.items():
        found[op].append(statistics.median(values))
    return dict(found)


def convolution(channels: int, out: int, kernel: int, size: int, group: int = 1, stride: int = 1) -> Graph:
    m = Maker((1, channels, size, size))
    return m.graph(m.conv("x", channels, out, kernel, group=group, strides=[stride, stride]))


def gemm(rows: int, k: int, n: int) -> Graph:
    m = Maker((rows, k))
    return m.graph(m.gemm("x", k, n))


def product(rows: int, k: int, n: int) -> Graph:
    m = Maker((1, rows, k))
    return m.graph(m.op("MatMul", f"x {m.random(k, n)}"))


def between(middle: Callable[[Maker, str, str], str], channels: int = 64, size: int = 56) -> Graph:
    """An operator in a region: between convolutions."""
    m = Maker((1, channels, size, size))
    a = m.conv("x", channels, channels, 1)
    return m.graph(m.conv(middle(m, a, m.conv(a, channels, channels, 1)), channels, channels, 1))


CASES: dict[str, Callable[[], Graph]] = {
    "stem 3x3": lambda: convolution(3, 32, 3, 224, stride=2),
    "stem 7x7": lambda: convolution(3, 64, 7, 224, stride=2),
    "conv 3x3": lambda: convolution(64, 64, 3, 56),
    "conv 1x1": lambda: convolution(256, 256, 1, 14),
    "depthwise": lambda: convolution(144, 144, 3, 56, group=144),
    "grouped": lambda: convolution(256, 256, 3, 28, group=32),
    "gemm": lambda: gemm(197, 768, 192),
    "gemm of one row": lambda: gemm(1, 512, 1000),
    "matmul": lambda: product(197, 192, 768),
    "add": lambda: between(lambda m, a, b: m.op("Add", f"{a} {b}")),
    "mul": lambda: between(lambda m, a, b: m.op("Mul", f"{a} {b}")),
    "sigmoid": lambda: between(lambda m, _, b: m.op("Sigmoid", b)),
    "leaky relu": lambda: between(lambda m, _, b: m.op("LeakyRelu", b, alpha=0.1)),
    "max pool": lambda: between(lambda m, _, b: m.op("MaxPool", b, kernel_shape=[3, 3], pads=[1] * 4)),
    "average pool": lambda: between(lambda m, _, b: m.op("AveragePool", b, kernel_shape=[3, 3], pads=[1] * 4)),
    "global pool": lambda: between(lambda m, _, b: m.op("Mul", f"{b} {m.op('GlobalAveragePool', b)}")),
    "concat": lambda: between(lambda m, a, b: halves(m, m.op("Concat", f"{a} {b}", axis=1))),
    "resize": lambda: between(lambda m, _, b: upsampled(m, b)),
}


def halves(m: Maker, x: str) -> str:
    first, second = m.op("Split", x, "half1 half2", axis=1, num_outputs=2).split()
    return m.op("Add", f"{first} {second}")


def upsampled(m: Maker, x: str) -> str:
    return m.op("Resize", f"{x} _ {m.constant(np.array([1, 1, 2, 2], np.float32))}", mode="nearest")


def main() -> None:
    target = load_target("ort-cpu")
    for name, build in CASES.items():
        graph = build()
        print(name)
        for node in graph.nodes:
            if target.rule(node) is not None:
                print("   ", node.op, {term: count for term, count in terms_of(node).items() if count})
        for label, case in (("float  ", graph), ("integer", quantize(build()))):
            times = {op: [round(value) for value in values] for op, values in profile(case).items()}
            print("   ", label, times)


if __name__ == "__main__":
    main()
