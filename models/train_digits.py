"""Train the digits network and write its checkpoint: `python -m graphopt.models.train_digits`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from .digits import CHECKPOINT, DigitsNet, accuracy, data

BATCH = 64


def shift(x: Tensor, generator: torch.Generator) -> Tensor:
    """Move every image of [N, 1, 8, 8] by up to one pixel in each direction, filling with background."""
    padded = F.pad(x, (1, 1, 1, 1))
    rows, columns = torch.randint(3, (2, len(x), 1), generator=generator) + torch.arange(8)
    index = torch.arange(len(x))
    return padded[index[:, None, None], 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def train(epochs: int, seed: int = 0) -> nn.Module:
    """Train on the training images alone; the test images choose nothing, not even when to stop.

    Args:
        epochs: Passes over the training images.
        seed: Seed of the weights, the order of the images and their shifts.

    Returns:
        The trained module in eval mode.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = DigitsNet()
    digits = data()
    steps = -(-len(digits.train_x) // BATCH)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=epochs * steps)
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.split(torch.randperm(len(digits.train_x), generator=generator), BATCH):
            logits = module(shift(digits.train_x[chosen], generator))
            loss = F.cross_entropy(logits, digits.train_y[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]  # torch leaves it untyped
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}", flush=True)
    return module.eval()


def main() -> None:
    """Train, report the accuracy on both splits, and save the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="checkpoint to write")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training images")
    options = parser.parse_args()
    # Sums over several threads depend on how many there are.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    module = train(options.epochs)
    digits = data()
    print(f"train accuracy {accuracy(module, digits.train_x, digits.train_y):.4f}")
    print(f"test accuracy {accuracy(module, digits.test_x, digits.test_y):.4f}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(module.state_dict(), options.out)
    print(f"wrote {options.out}, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
