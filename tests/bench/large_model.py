"""Memory: a model of several GB with external data through load -> simplify -> save.

Run by hand: ``python -m tests.bench.large_model [--gigabytes 3]``. Each row is a process of its own; the peak is its
resident set at the highest (``VmHWM``), less what it had after importing graphopt and ONNX's operator definitions.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

WIDTH, KERNEL = 4096, 3

# What a child does; each step leaves `graph`.
STEPS = {
    "load": "graph = go.load(source)",
    "load, save": "graph = go.load(source); go.save(graph, out)",
    "load, simplify, save": 'graph = go.load(source); go.optimize(graph, "simplify", check=False); go.save(graph, out)',
    "load, simplify (checked), save": 'graph = go.load(source); go.optimize(graph, "simplify"); go.save(graph, out)',
    "load, simplify,fuse, save": (
        'graph = go.load(source); go.optimize(graph, "simplify,fuse", check=False); go.save(graph, out)'
    ),
}
CHILD = """
import json, sys, time
import onnx
import graphopt as go
from graphopt.pipeline.registry import load_plugins
load_plugins()
onnx.defs.get_schema("Relu")  # onnx makes all of its definitions when it is asked for the first

def memory(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key + ":"))

source, out = sys.argv[1:3]
base = memory("VmRSS")
started = time.perf_counter()
{step}
print(json.dumps({{
    "peak": memory("VmHWM") - base, "anonymous": memory("RssAnon"), "seconds": time.perf_counter() - started,
    "nodes": sum(1 for _ in graph.walk()),
}}))
"""


def _store_outside(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, text in {"location": location, "offset": str(offset), "length": str(length)}.items():
        tensor.external_data.add(key=key, value=text)


def _convolution(value: str, weight: str, name: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Reshape", [value, "square"], [f"{name}_s"]),
        helper.make_node("Conv", [f"{name}_s", weight], [f"{name}_c"], pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", [f"{name}_c", "row"], [name]),
    ]


def _product(value: str, weight: str, name: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Identity", [value], [f"{name}_i"]),
        helper.make_node("MatMul", [f"{name}_i", weight], [f"{name}_m"]),
        helper.make_node("Transpose", [f"{name}_m"], [f"{name}_t"], perm=[1, 0]),
        helper.make_node("Transpose", [f"{name}_t"], [name], perm=[1, 0]),
    ]


def make(path: Path, gigabytes: float, external: bool = True, width: int = WIDTH) -> int:
    """Writes a chain of matrix products and convolutions, with layers that simplify away; returns its weights' bytes.

    Args:
        path: of the model; its weights go to ``<path>.data``.
        gigabytes: size of the weights, to within one layer.
        external: whether the weights are in a file of their own.
        width: of the layers.
    """
    channels = width // 4
    rng = np.random.default_rng(0)
    scale = (0.02 / width) ** 0.5
    square = [1, channels, width // channels, 1]
    nodes, weights, position, value = [], [], 0, "x"
    limit = int(gigabytes * 1e9)
    with open(f"{path}.data" if external else "/dev/null", "wb") as data:
        while position < limit:
            convolution = len(weights) % 4 == 3
            shape = [channels, channels, KERNEL, KERNEL] if convolution else [width, width]
            block = rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
            tensor = onnx.TensorProto(name=f"w{len(weights)}", dims=shape, data_type=onnx.TensorProto.FLOAT)
            if external:
                _store_outside(tensor, f"{path.name}.data", position, block.nbytes)
                block.tofile(data)
            else:
                tensor.raw_data = block.tobytes()
            position += block.nbytes
            weights.append(tensor)
            name = f"v{len(nodes)}"
            nodes += (_convolution if convolution else _product)(value, tensor.name, name)
            value = name
    shapes = [
        onnx.numpy_helper.from_array(np.array(dims, dtype=np.int64), name)
        for name, dims in (("square", square), ("row", [1, width]))
    ]
    info = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, width]) for name in ("x", value)]
    graph = helper.make_graph(nodes, "large", info[:1], info[1:], [*weights, *shapes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return position


def measure(step: str, source: Path, out: Path) -> dict[str, float]:
    """Runs one step in a process of its own."""
    command = [sys.executable, "-c", CHILD.format(step=STEPS[step]), str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--single", action="store_true", help="keep the weights in the model's own file (under 2 GB)")
    parser.add_argument("--folder", type=Path, help="where the files go; a temporary folder by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        source, out = Path(folder) / "large.onnx", Path(folder) / "out.onnx"
        size = make(source, arguments.gigabytes, not arguments.single)
        print(f"{size / 1e9:.2f} GB of weights\n")
        print("| step | nodes | seconds | peak MB | of the weights | anonymous MB |\n|" + " --- |" * 6)
        for step in STEPS:
            found = measure(step, source, out)
            print(
                f"| {step} | {found['nodes']} | {found['seconds']:.1f} | {found['peak'] / 1e6:,.0f} "
                f"| {found['peak'] / size:.2f}x | {found['anonymous'] / 1e6:,.0f} |",
                flush=True,
            )
        started = time.perf_counter()
        onnx.load(source)
        print(f"\nonnx.load alone: {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
