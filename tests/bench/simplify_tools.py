"""The simplifiers that are compared, each in a server of its own.

``python -m tests.bench.simplify_tools TOOL`` imports a tool, then reads lines ``IN<tab>OUT<tab>SECONDS`` and answers
each with a line of JSON. What takes longer than SECONDS ends the process, as a crash does; `Server` starts another. The
time is CPU time, which others on the machine do not spoil, from reading the file to having written the result; imports
do not count. The peers may live in a folder of
their own (``pip install --target``), handed over as PYTHONPATH.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[[str, str], None]


def _graphopt(pipeline: str) -> Run:
    import graphopt as go

    go.optimize  # noqa: B018 - the passes register while nobody measures
    go.pipeline.all_passes()

    def run(source: str, target: str) -> None:
        graph = go.load(source)
        go.optimize(graph, pipeline, check=False)
        go.save(graph, target)

    return run


def _onnxslim() -> Run:
    import onnx
    import onnxslim

    return lambda source, target: onnx.save(onnxslim.slim(onnx.load(source)), target)


def _onnxsim() -> Run:
    import onnx
    import onnxsim

    return lambda source, target: onnx.save(onnxsim.simplify(onnx.load(source))[0], target)


def _onnxoptimizer() -> Run:
    import onnx
    import onnxoptimizer

    passes = onnxoptimizer.get_fuse_and_elimination_passes()
    return lambda source, target: onnx.save(onnxoptimizer.optimize(onnx.load(source), passes, True), target)


def _onnxscript() -> Run:
    import onnx
    from onnxscript import optimizer

    return lambda source, target: onnx.save(optimizer.optimize(onnx.load(source)), target)


#: Makes the function that reads a file, simplifies, and writes a file.
TOOLS: dict[str, Callable[[], Run]] = {
    "simplify": lambda: _graphopt("simplify"),
    "simplify,fuse": lambda: _graphopt("simplify,fuse"),
    "onnxslim": _onnxslim,
    "onnxsim": _onnxsim,
    "onnxoptimizer": _onnxoptimizer,
    "onnxscript": _onnxscript,
}
#: The tools that are this project's.
OURS = ("simplify", "simplify,fuse")
PEERS = tuple(tool for tool in TOOLS if tool not in OURS)


class Server:
    """A tool in a process of its own.

    Args:
        tool: one of `TOOLS`.
        peers: folder that the peers are installed in.
    """

    def __init__(self, tool: str, peers: Path | None) -> None:
        self._tool = tool
        self._environment = dict(os.environ, OMP_NUM_THREADS="1")
        if tool in PEERS and peers is not None:
            self._environment["PYTHONPATH"] = os.pathsep.join([str(peers), os.environ.get("PYTHONPATH", "")])
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.bench.simplify_tools", self._tool], env=self._environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, source: Path, target: Path, timeout: float) -> tuple[float, str]:
        """Simplifies a file. Returns the seconds it took, and what went wrong (empty when nothing did)."""
        target.unlink(missing_ok=True)
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        requests.write(f"{source}\t{target}\t{timeout}\n")
        requests.flush()
        line = answers.readline()
        if not line:
            status = self._process.wait()
            self._process = self._start()
            return timeout, f"> {timeout:.0f} s" if status == -signal.SIGALRM else f"ended with status {status}"
        answer: dict[str, Any] = json.loads(line)
        failure = answer["failure"] or ("" if target.exists() else "wrote nothing")
        return float(answer["seconds"]), failure

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def _answer(run: Run, source: str, target: str, timeout: float) -> dict[str, Any]:
    failure = ""
    signal.alarm(max(round(timeout), 1))
    started = time.process_time()
    try:
        run(source, target)
    except BaseException as error:  # tools raise whatever comes their way, and some exit
        failure = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    seconds = time.process_time() - started
    signal.alarm(0)
    return {"seconds": seconds, "failure": failure}


def main() -> None:
    """Command line of the server."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what tools print is no answer
    run = TOOLS[sys.argv[1]]()
    for line in sys.stdin:
        source, target, timeout = line.rstrip("\n").split("\t")
        print(json.dumps(_answer(run, source, target, float(timeout))), file=answers, flush=True)


if __name__ == "__main__":
    main()
