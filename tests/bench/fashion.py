"""Fashion-MNIST: the images, five small networks of the zoo's classes sized for 28x28, one training recipe.

Other benchmarks (pruning, quantizing, recovering) read their networks from the checkpoints that this script writes.
Unpack Debian's ``dataset-fashion-mnist`` (``dpkg -x``), then

    python -m tests.bench.fashion --data DIR --out DIR [--models resnet20 vit] [--seeds 0 1 2] [--epochs 8]

A run that was interrupted goes on after the last whole epoch; a checkpoint that exists is not trained again. Prints a
line per epoch, and per network its accuracy on the 10,000 test images.
"""

from __future__ import annotations

import argparse
import gzip
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from graphopt.models import efficientnet, mobilenet, resnet, vit

SIZE, SMALL = 28, 20
MEAN, DEVIATION = 0.286, 0.353
BATCH = 128
TEMPERATURE = 3.0
"""Of a teacher's labels (Hinton et al., Distilling the Knowledge in a Neural Network, 2015)."""

Images = tuple[torch.Tensor, torch.Tensor]
"""Normalised images [N, 3, 28, 28] and their labels [N]."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: one cycle of the learning rate, flips, shifts, smoothed labels."""

    epochs: int = 8
    lr: float = 0.1
    decay: float = 5e-4
    adam: bool = False
    small: float = 0.6
    """Share of the epochs, the first ones, that see images of 20x20: half the time (progressive resizing)."""
    shift: int = 2
    """Pixels that images move by at most; less for networks too small to learn all of that in a few epochs."""
    half: bool = False
    """Compute in bfloat16: faster for dense convolutions on a CPU that has it, slower for depthwise ones."""


@dataclass(frozen=True)
class Network:
    """A network of the benchmark and what trains it."""

    make: Callable[[], nn.Module]
    recipe: Recipe


def _resnet20() -> nn.Module:
    return resnet.ResNet(resnet.BasicBlock, (3, 3, 3), (16, 32, 64), small_images=True, classes=10)


def _mobilenet_v2() -> nn.Module:
    row = mobilenet.Stage
    stages = (row(1, 16, 1, 2), row(4, 24, 2, 1), row(6, 32, 2, 2), row(6, 64, 2, 2))
    return mobilenet.MobileNetV2(stages, 16, 256, 10, stride=1)


def _mobilenet_v3() -> nn.Module:
    row = mobilenet.Block
    blocks = (
        row(3, 16, 16, False, False, 2),
        row(3, 64, 24, False, False, 1),
        row(3, 72, 24, False, False, 1),
        row(5, 72, 40, True, False, 2),
        row(5, 120, 40, True, False, 1),
        row(3, 160, 64, False, True, 1),
        row(3, 192, 64, True, True, 1),
        row(5, 192, 80, True, True, 2),
    )
    return mobilenet.MobileNetV3(blocks, 16, 240, 256, 10, stride=1)


def _efficientnet() -> nn.Module:
    row = efficientnet.Stage
    stages = (row(1, 3, 1, 16, 1), row(4, 3, 1, 24, 2), row(4, 5, 2, 40, 2), row(6, 3, 1, 64, 1))
    return efficientnet.EfficientNet(stages, 16, 256, 10)


def _vit() -> nn.Module:
    return vit.ViT(SIZE, patch=7, dim=64, depth=4, heads=4, classes=10)


NETWORKS = {
    "resnet20": Network(_resnet20, Recipe(epochs=16, small=0.5, shift=1, half=True)),
    "mobilenet_v2": Network(_mobilenet_v2, Recipe(epochs=20, decay=2e-4, small=0.5, shift=1)),
    "mobilenet_v3": Network(_mobilenet_v3, Recipe(epochs=16, decay=2e-4, small=0.5, shift=1)),
    "efficientnet": Network(_efficientnet, Recipe(epochs=26, decay=2e-4, small=0.5, shift=1)),
    "vit": Network(_vit, Recipe(epochs=12, lr=1e-3, decay=0.05, adam=True, small=0, shift=1)),
}


def read(folder: Path, part: str, count: int | None = None) -> Images:
    """The first `count` images of a part ("train" or "t10k") below a folder; grey in three equal channels."""
    (images,), (labels,) = (list(folder.rglob(f"{part}-{what}-ubyte.gz")) for what in ("images-idx3", "labels-idx1"))
    pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16).reshape(-1, 1, SIZE, SIZE)
    x = (torch.from_numpy(pixels[:count].astype(np.float32)) / 255 - MEAN) / DEVIATION
    classes = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)[:count]
    return x.expand(-1, 3, -1, -1), torch.from_numpy(classes.astype(np.int64))


def augment(x: torch.Tensor, shift: int, generator: torch.Generator) -> torch.Tensor:
    """Mirror each image of [N, 1, 28, 28] or not, and move it by up to `shift` pixels, filling with background."""
    count = len(x)
    padded = F.pad(x, (shift,) * 4, value=-MEAN / DEVIATION)
    rows, columns = torch.randint(2 * shift + 1, (2, count, 1), generator=generator) + torch.arange(SIZE)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    return padded[torch.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def train(
    module: nn.Module, data: Images, recipe: Recipe, seed: int, *, state: Path | None = None,
    teacher: nn.Module | None = None, tell: Callable[[str], None] = lambda line: None,
) -> None:  # fmt: skip
    """Train in place and leave the module in eval mode.

    Args:
        module: Maps images to logits.
        data: What `read` returns.
        recipe: Epochs, learning rate and so on.
        seed: Of the order of the images and their augmentation.
        state: File that the training goes on from where it exists, and that is written after each epoch.
        teacher: Gives soft labels, where there is one, that count as much as the true ones.
        tell: Called with a line per epoch.
    """
    x, y = data
    steps = len(x) // BATCH
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.requires_grad_()
    module.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch: memory_format alone is missing
    optimizer: torch.optim.Optimizer
    if recipe.adam:
        optimizer = torch.optim.AdamW(module.parameters(), recipe.lr, weight_decay=recipe.decay)
    else:
        optimizer = torch.optim.SGD(module.parameters(), recipe.lr, 0.9, weight_decay=recipe.decay, nesterov=True)
    total = max(recipe.epochs * steps, 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total, pct_start=0.2)
    done = _resume(state, module, optimizer, schedule, generator)
    for epoch in range(done, recipe.epochs):
        started, loss = time.perf_counter(), 0.0
        size = SMALL if epoch < round(recipe.small * recipe.epochs) else SIZE
        for chosen in torch.randperm(len(x), generator=generator)[: steps * BATCH].view(steps, BATCH):
            batch = F.interpolate(
                augment(x[chosen, :1], recipe.shift, generator), size, mode="bilinear", antialias=True
            )
            loss += _step(module, batch, y[chosen], optimizer, recipe.half, teacher)
            schedule.step()
        tell(f"epoch {epoch + 1}/{recipe.epochs}: loss {loss / steps:.4f}, {time.perf_counter() - started:.0f} s")
        if state is not None:
            parts = (module.state_dict(), optimizer.state_dict(), schedule.state_dict(), generator.get_state())
            torch.save((epoch + 1, *parts), state)
    module.eval()


def _step(
    module: nn.Module, x: torch.Tensor, y: torch.Tensor, optimizer: torch.optim.Optimizer, half: bool,
    teacher: nn.Module | None,
) -> float:  # fmt: skip
    batch = x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = module(batch).float()
    loss = F.cross_entropy(logits, y, label_smoothing=0.05)
    if teacher is not None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            soft = (teacher(batch).float() / TEMPERATURE).softmax(1)
        loss = (loss + TEMPERATURE**2 * F.cross_entropy(logits / TEMPERATURE, soft)) / 2
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call, unused-ignore]  # torch leaves it untyped
    optimizer.step()
    return loss.item()


def _resume(
    state: Path | None, module: nn.Module, optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler, generator: torch.Generator,
) -> int:  # fmt: skip
    """Epochs that were trained before, and their state loaded."""
    if state is None or not state.exists():
        return 0
    epochs, weights, momentum, rates, random = torch.load(state, weights_only=True)
    module.load_state_dict(weights)
    optimizer.load_state_dict(momentum)
    schedule.load_state_dict(rates)
    generator.set_state(random)
    return int(epochs)


@torch.no_grad()
def accuracy(module: nn.Module, data: Images) -> float:
    """Per cent."""
    x, y = data
    hits = 0
    for i in range(0, len(y), 500):
        hits += int((module(x[i : i + 500].contiguous()).argmax(1) == y[i : i + 500]).sum())
    return 100 * hits / len(y)


def checkpoint(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name}-{seed}.safetensors"


def fresh(name: str, seed: int) -> nn.Module:
    """A network of the table, untrained."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return NETWORKS[name].make()


def load(folder: Path, name: str, seed: int = 0) -> nn.Module:
    """A trained network, in eval mode: [N, 3, 28, 28] -> [N, 10]."""
    module = NETWORKS[name].make()
    module.load_state_dict(load_file(checkpoint(folder, name, seed)))
    return module.eval()


def trained(folder: Path, name: str, seed: int, data: Images, test: Images, epochs: int | None = None) -> nn.Module:
    """A network from its checkpoint, trained first where there is none."""
    if checkpoint(folder, name, seed).exists():
        return load(folder, name, seed)
    module, recipe = fresh(name, seed), NETWORKS[name].recipe
    recipe = recipe if epochs is None else replace(recipe, epochs=epochs)
    state = folder / f"{name}-{seed}.state"
    torch.default_generator.manual_seed(seed)  # dropout
    train(module, data, recipe, seed, state=state, tell=lambda line: print(f"{name} seed {seed} {line}", flush=True))
    print(f"{name} seed {seed}: {accuracy(module, test):.2f} %", flush=True)
    save_file({key: value.contiguous() for key, value in module.state_dict().items()}, checkpoint(folder, name, seed))
    state.unlink(missing_ok=True)
    return module


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--models", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--epochs", type=int, help="of every network, instead of its own number")
    parser.add_argument("--train", type=int, default=60000, help="training images")
    parser.add_argument("--threads", type=int, default=2, help="more than there are idle cores is slow")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    data, test = read(options.data, "train", options.train), read(options.data, "t10k")
    runs: Iterable[tuple[int, str]] = ((seed, name) for seed in options.seeds for name in options.models)
    for seed, name in runs:
        trained(options.out, name, seed, data, test, options.epochs)


if __name__ == "__main__":
    main()
