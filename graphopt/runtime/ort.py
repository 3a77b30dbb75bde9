"""ONNX Runtime: run a model, and see what it became inside."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graphopt.errors import DataError, UnsupportedOperatorError

if TYPE_CHECKING:
    import onnx
    import onnxruntime


class OrtSession:
    """An ONNX Runtime session on the CPU.

    Args:
        model: a file, serialized bytes, or a ModelProto.
        threads: threads within an operator; one makes timings comparable.
        optimize: let ONNX Runtime apply its own graph optimisations.

    Raises:
        UnsupportedOperatorError: ONNX Runtime refuses the model; the message is its own.
    """

    def __init__(self, model: str | Path | bytes | onnx.ModelProto, *, threads: int = 1, optimize: bool = True) -> None:
        self._session = self._open(model, threads, optimize, None)

    @staticmethod
    def _open(
        model: str | Path | bytes | onnx.ModelProto, threads: int, optimize: bool, dump: Path | None
    ) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3
        level = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
        if dump is not None:
            options.optimized_model_filepath = str(dump)
        source = str(model) if isinstance(model, Path) else model
        if not isinstance(source, (str, bytes)):
            source = source.SerializeToString()
        try:
            return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise UnsupportedOperatorError(f"ONNX Runtime refuses the model: {error}") from error

    @property
    def input_names(self) -> list[str]:
        return [each.name for each in self._session.get_inputs()]

    def run(self, inputs: Sequence[Any] | Mapping[str, Any]) -> list[np.ndarray]:
        """Computes the outputs; inputs are tensors or arrays, by position or by name.

        Raises DataError for inputs that are missing or that ONNX Runtime refuses.
        """
        names = self.input_names
        named = dict(inputs) if isinstance(inputs, Mapping) else dict(zip(names, inputs, strict=False))
        missing = [name for name in names if name not in named]
        if missing:
            raise DataError(f"input '{missing[0]}' is missing", hint=f"the model's inputs are: {', '.join(names)}")
        feed = {
            name: array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
            for name, array in named.items()
        }
        try:
            return list(self._session.run(None, feed))
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise DataError(f"ONNX Runtime cannot run the model on these inputs: {error}") from error


def kernel_counts(model: str | Path | bytes | onnx.ModelProto) -> Counter[str]:
    """How often each operator stands in the model after ONNX Runtime's own optimisations: what really runs."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder) / "optimized.onnx"
        OrtSession._open(model, 1, True, dump)
        return Counter(node.op_type for node in onnx.load(dump).graph.node)
