"""What each pass that recovers accuracy wins on the case that it exists for. Prints Markdown.

    python -m tests.bench.quantize_recovery --data DIR --checkpoints DIR --text DIR [--images 2000] [--only gptq ...]

DIRs are what tests/bench/fashion.py reads and writes, and what tests/bench/quantize_text.py keeps its network in. Every
row has a network in float, quantized without the pass and with it: accuracy on test images or perplexity on test text,
and the outputs' signal to noise ratio against float. Passes see 512 images, or 16 batches of text, of the training
parts; rows that train see more and say so. ONNX Runtime computes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_model
from torch import nn

import graphopt as go
from graphopt.models.gpt import Gpt
from graphopt.runtime.ort import OrtSession
from tests.bench import fashion, quantize_text

BATCH = 64
#: How many times larger, and on how many of the channels, the uneven GPT's channels are.
FAR, FAR_CHANNELS = 40.0, 3

TENSOR = "insert-weight-qdq{bits=%d,granularity=tensor}"
CHANNEL = "insert-weight-qdq{bits=%d}"
PRODUCTS = "insert-weight-qdq{bits=4,operators=[MatMul,Gemm]}"
Samples = list[tuple[torch.Tensor, ...]]

#: Products on 8 bits, one scale per activation.
W8A8 = "insert-qdq{target=generic%s},calibrate{target=generic}"


@dataclass(frozen=True)
class Case:
    """A network, and what is done to it without the pass and with it.

    Attributes:
        what: the pass, and what else stands in the first column.
        network: key of `NETWORKS`.
        about: the quantization.
        without: the pipeline.
        with_it: the pipeline with the pass.
        images: of the training part that the pipelines see.
    """

    what: str
    network: str
    about: str
    without: str
    with_it: str
    images: int = 512


FUSE = "simplify,fuse,"
TRAIN = "finetune{epochs=1,lr=0.00005}"

CASES = [
    Case("equalize{by=weights}", "mobilenet_v2 with ReLU", "8 bits per tensor", FUSE + TENSOR % 8,
         f"{FUSE}equalize{{by=weights}},{TENSOR % 8}"),
    Case("equalize{by=weights}", "mobilenet_v2 with ReLU", "5 bits per tensor", FUSE + TENSOR % 5,
         f"{FUSE}equalize{{by=weights}},{TENSOR % 5}"),
    Case("equalize (SmoothQuant)", "gpt, uneven", "products on 8 bits", W8A8 % "", f"equalize,{W8A8 % ''}"),
    Case("split-outliers", "gpt, uneven", "products on 8 bits", W8A8 % "",
         f"split-outliers,{W8A8 % ',ignore=*.outliers'}"),
    Case("split-channels", "resnet20", "5 bits per tensor", FUSE + TENSOR % 5,
         f"{FUSE}split-channels{{bits=5,ratio=0.05}},{TENSOR % 5}"),
    Case("split-channels", "mobilenet_v2", "6 bits per tensor", FUSE + TENSOR % 6,
         f"{FUSE}split-channels{{bits=6,ratio=0.05}},{TENSOR % 6}"),
    Case("correct-bias", "mobilenet_v2", "4 bits per channel", FUSE + CHANNEL % 4, f"{FUSE}{CHANNEL % 4},correct-bias"),
    Case("gptq", "resnet20", "3 bits per channel", FUSE + CHANNEL % 3, f"{FUSE}{CHANNEL % 3},gptq"),
    Case("adaround", "resnet20", "3 bits per channel", FUSE + CHANNEL % 3, f"{FUSE}{CHANNEL % 3},adaround"),
    Case("gptq", "gpt", "products with weights of 4 bits", PRODUCTS, f"{PRODUCTS},gptq"),
    Case("awq", "gpt, uneven", "products with weights of 4 bits", PRODUCTS, f"awq{{bits=4}},{PRODUCTS}"),
    Case("reestimate-bn", "resnet20", "3 bits per channel", CHANNEL % 3, f"{CHANNEL % 3},reestimate-bn"),
    Case("reestimate-bn", "mobilenet_v2", "4 bits per channel", CHANNEL % 4, f"{CHANNEL % 4},reestimate-bn"),
    Case("finetune", "mobilenet_v2", "4 bits per channel, one epoch of 2,560 images", CHANNEL % 4,
         f"{CHANNEL % 4},{TRAIN}", 2560),
    Case("finetune", "resnet20", "3 bits per channel, one epoch of 2,560 images", CHANNEL % 3,
         f"{CHANNEL % 3},{TRAIN}", 2560),
    Case("learn-scales,finetune", "resnet20", "3 bits per channel, one epoch of 2,560 images", CHANNEL % 3,
         f"{CHANNEL % 3},learn-scales,{TRAIN}", 2560),
]  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A network and how good it is.

    Attributes:
        graph: in float.
        samples: makes what a case's passes see.
        inputs: of the test.
        batch: test inputs at a time.
        score: of the outputs for the test's inputs, in per cent or as perplexity.
    """

    graph: go.Graph
    samples: Callable[[Case], Samples]
    inputs: torch.Tensor
    batch: int
    score: Callable[[torch.Tensor], str]

    def outputs(self, graph: go.Graph) -> torch.Tensor:
        session = OrtSession(go.to_onnx(graph), optimize=True)
        return torch.cat([torch.from_numpy(session.run([x.contiguous()])[0]) for x in self.inputs.split(self.batch)])


def with_relu(module: nn.Module) -> nn.Module:
    """ReLU in place of ReLU6, as the paper on equalization has it (Nagel et al. 2019, section 5.1)."""
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU6):
            setattr(module, name, nn.ReLU())
        else:
            with_relu(child)
    return module


def uneven(module: Gpt) -> Gpt:
    """A GPT that computes the same with a few channels of what its products read far larger than the others.

    The channels are multiplied in LayerNormalizations, and divided in the weights that read them.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in module.h:
            for norm, reader in ((block.ln_1, block.attn.c_attn), (block.ln_2, block.mlp.c_fc)):
                chosen = torch.randperm(len(norm.weight), generator=generator)[:FAR_CHANNELS]
                norm.weight[chosen] *= FAR
                norm.bias[chosen] *= FAR
                reader.weight[:, chosen] /= FAR
    return module


def images(module: nn.Module, data: fashion.Images, test: fashion.Images) -> Task:
    def samples(case: Case) -> Samples:
        x, y = data[0][: case.images], data[1][: case.images]
        return [(a.contiguous(), b) for a, b in zip(x.split(BATCH), y.split(BATCH), strict=True)]

    def score(logits: torch.Tensor) -> str:
        return f"{100 * float((logits.argmax(1) == test[1]).float().mean()):.2f} %"

    graph = go.capture(module, (test[0][:2].contiguous(),), dynamic={"x": {0: "batch"}})
    return Task(graph, samples, test[0], BATCH, score)


def text(module: nn.Module, windows: int) -> Task:
    training, test, _ = quantize_text.text()
    length = quantize_text.LENGTH + 1
    rows = test[: windows * length].reshape(-1, length)
    generator = torch.Generator().manual_seed(1)
    seen: Samples = [(quantize_text.windows(training, generator)[0],) for _ in range(16)]

    def score(logits: torch.Tensor) -> str:
        return f"{math.exp(float(F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()))):.4f}"

    return Task(go.capture(module, seen[0]), lambda case: seen, rows[:, :-1], quantize_text.BATCH, score)


def gpt(folder: Path) -> Gpt:
    module = Gpt(
        quantize_text.text()[2], quantize_text.WIDTH, quantize_text.DEPTH, quantize_text.HEADS, quantize_text.LENGTH
    )
    load_model(module, folder / "gpt.safetensors")
    return module.eval()


def sqnr(got: torch.Tensor, want: torch.Tensor) -> float:
    """In dB."""
    return 10 * math.log10(float(want.double().square().sum() / (got.double() - want.double()).square().sum()))


def rows(case: Case, task: Task) -> str:
    want = task.outputs(task.graph)
    cells = [task.score(want)]
    for pipeline in (case.without, case.with_it):
        graph = task.graph.clone()
        go.optimize(graph, f"{pipeline},pack-weights", task.samples(case), check=False)
        got = task.outputs(graph)
        cells.append(f"{task.score(got)}, {sqnr(got, want):.1f} dB")
    return f"| {case.what} | {case.network}, {case.about} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2000, help="of the test")
    parser.add_argument("--windows", type=int, default=128, help="of 96 characters of the test text")
    parser.add_argument("--only", nargs="*", default=[], help="passes, or networks, by how their names begin")
    options = parser.parse_args(arguments)
    data = fashion.read(options.data, "train", max(case.images for case in CASES))
    test = fashion.read(options.data, "t10k", options.images)
    make: dict[str, Callable[[], Task]] = {
        "gpt": lambda: text(gpt(options.text), options.windows),
        "gpt, uneven": lambda: text(uneven(gpt(options.text)), options.windows),
        "resnet20": lambda: images(fashion.load(options.checkpoints, "resnet20"), data, test),
        "mobilenet_v2": lambda: images(fashion.load(options.checkpoints, "mobilenet_v2"), data, test),
        "mobilenet_v2 with ReLU": lambda: images(
            with_relu(fashion.load(options.checkpoints, "mobilenet_v2")), data, test
        ),
    }
    print("| pass | network and quantization | float | without | with |\n| --- | --- | --- | --- | --- |")
    for case in CASES:
        if (
            not options.only
            or case.what.startswith(tuple(options.only))
            or case.network.startswith(tuple(options.only))
        ):
            print(rows(case, make[case.network]()), flush=True)


if __name__ == "__main__":
    main()
