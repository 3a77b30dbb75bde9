"""Images for real models, drawn: pages and lines of made-up characters, and scenes of soft blobs."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def line(rng: np.random.Generator, height: int, width: int) -> Array:
    """A line of characters, a few strokes each, as ink from 0 to 1, [height, width]."""
    ink = np.zeros((height, width))
    left = height // 4
    while left < width - height // 2:
        wide = int(rng.uniform(0.35, 0.9) * height)
        for _ in range(rng.integers(2, 6)):
            ends = rng.uniform(0.15, 0.85, (2, 2)) * (height, wide) + (0, left)
            np.maximum(ink, _stroke(height, width, ends, max(height / 14, 1.0)), out=ink)
        left += wide + height // 8
    return ink


def _stroke(height: int, width: int, ends: Array, thickness: float) -> Array:
    """A soft line between two points (row, column)."""
    (r, c), (dr, dc) = ends[0], ends[1] - ends[0]
    rows, columns = np.mgrid[:height, :width]
    along = np.clip(((rows - r) * dr + (columns - c) * dc) / max(dr * dr + dc * dc, 1e-9), 0, 1)
    distance = np.hypot(rows - r - along * dr, columns - c - along * dc)
    return np.clip(thickness - distance, 0, 1)


def page(rng: np.random.Generator, height: int, width: int) -> Array:
    """Lines of different sizes below one another, as ink, [height, width]."""
    ink = np.zeros((height, width))
    top = int(rng.integers(4, 16))
    while True:
        size = int(rng.integers(14, 40))
        if top + size >= height:
            return ink
        left, right = int(rng.integers(4, width // 4)), int(rng.integers(width // 2, width - 4))
        ink[top : top + size, left:right] = line(rng, size, right - left)
        top += size + int(rng.integers(6, 30))


def printed(rng: np.random.Generator, ink: Array) -> Array:
    """Ink on paper, lit from one side and photographed with some noise, [3, height, width] from 0 to 1."""
    height, width = ink.shape
    light = 0.8 + 0.15 * np.linspace(-1, 1, width) * rng.uniform(-1, 1) + 0.05 * np.linspace(-1, 1, height)[:, None]
    tint, colour = rng.uniform(0.9, 1, (3, 1, 1)), rng.uniform(0, 0.35, (3, 1, 1))
    image = light * tint * (1 - ink) + colour * ink
    return np.clip(image + 0.015 * rng.standard_normal(image.shape), 0, 1).astype(np.float32)


def scene(rng: np.random.Generator, height: int, width: int) -> Array:
    """Soft blobs of colour, [3, height, width] from 0 to 1."""
    rows, columns = np.mgrid[: 1 : height * 1j, : 1 : width * 1j]
    image = np.full((3, height, width), 0.4) + 0.2 * rows
    for _ in range(12):
        (r, c), size = rng.uniform(0, 1, 2), rng.uniform(0.05, 0.3)
        blob = np.exp(-((rows - r) ** 2 + (columns - c) ** 2) / (2 * size**2))
        image += rng.uniform(-0.5, 0.5, (3, 1, 1)) * blob
    return np.clip(image + 0.02 * rng.standard_normal(image.shape), 0, 1).astype(np.float32)
