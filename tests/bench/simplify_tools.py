"""One tool, one file, one process: ``python -m tests.bench.simplify_tools TOOL IN OUT`` prints the seconds it took.

The time runs from reading the file to having written the result; imports do not count. The peers may live in a folder
of their own (``pip install --target``), handed over as PYTHONPATH.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable


def _graphopt(pipeline: str) -> Callable[[str, str], None]:
    import graphopt as go

    go.optimize  # noqa: B018 - the passes register while nobody measures
    go.pipeline.all_passes()

    def run(source: str, target: str) -> None:
        graph = go.load(source)
        go.optimize(graph, pipeline, check=False)
        go.save(graph, target)

    return run


def _onnxslim() -> Callable[[str, str], None]:
    import onnx
    import onnxslim

    return lambda source, target: onnx.save(onnxslim.slim(onnx.load(source)), target)


def _onnxsim() -> Callable[[str, str], None]:
    import onnx
    import onnxsim

    return lambda source, target: onnx.save(onnxsim.simplify(onnx.load(source))[0], target)


def _onnxoptimizer() -> Callable[[str, str], None]:
    import onnx
    import onnxoptimizer

    passes = onnxoptimizer.get_fuse_and_elimination_passes()
    return lambda source, target: onnx.save(onnxoptimizer.optimize(onnx.load(source), passes, True), target)


def _onnxscript() -> Callable[[str, str], None]:
    import onnx
    from onnxscript import optimizer

    return lambda source, target: onnx.save(optimizer.optimize(onnx.load(source)), target)


#: Makes the function that reads a file, simplifies, and writes a file.
TOOLS: dict[str, Callable[[], Callable[[str, str], None]]] = {
    "simplify": lambda: _graphopt("simplify"),
    "simplify,fuse": lambda: _graphopt("simplify,fuse"),
    "onnxslim": _onnxslim,
    "onnxsim": _onnxsim,
    "onnxoptimizer": _onnxoptimizer,
    "onnxscript": _onnxscript,
}


def main() -> None:
    """Command line of the process."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    tool, source, target = sys.argv[1:]
    run = TOOLS[tool]()
    started = time.perf_counter()
    run(source, target)
    print(f"seconds={time.perf_counter() - started:.4f}")


if __name__ == "__main__":
    main()
