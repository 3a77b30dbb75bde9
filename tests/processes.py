"""Python in processes of their own, without the seconds that each would take to import torch.

A process that has imported graphopt forks for every command, so that each has its own modules, streams, folder and
exit status, and starts from what an import leaves. How Python itself starts is for tests with subprocess.run.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

LIMIT = 300  # seconds


def run_python(
    *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Runs ``python ARGUMENTS`` as subprocess.run would, with its output captured.

    Args:
        arguments: ``-m MODULE``, ``-c CODE`` or a file, and what the program finds behind it in ``sys.argv``.
        cwd: the folder it works in.
        env: variables beside those of this process; a PYTHONPATH is looked through before what is installed.
        stdin: what it can read.

    Raises:
        subprocess.TimeoutExpired: it takes more than `LIMIT` seconds.
    """
    words = [os.fsdecode(each) for each in arguments]
    if not hasattr(os, "fork"):
        return subprocess.run([sys.executable, *words], cwd=cwd, env={**os.environ, **(env or {})}, input=stdin,
                              capture_output=True, check=False, timeout=LIMIT)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("in", "out", "err")]
        for path, content in zip(streams, (stdin, b"", b""), strict=True):
            path.write_bytes(content)
        request = {"arguments": words, "cwd": str(cwd), "env": {**os.environ, **(env or {})},
                   "streams": [str(each) for each in streams]}  # fmt: skip
        status = _ask(request)
        return subprocess.CompletedProcess(words, status, streams[1].read_bytes(), streams[2].read_bytes())


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Lives until the end of its input, which comes with the end of this process."""
    server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              start_new_session=True)  # fmt: skip
    atexit.register(server.communicate)
    return server


def _ask(request: Mapping[str, object]) -> int:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    print(json.dumps(request), file=server.stdin, flush=True)
    if not select.select([server.stdout], [], [], LIMIT)[0]:
        os.killpg(server.pid, signal.SIGKILL)
        _server.cache_clear()
        raise subprocess.TimeoutExpired(str(request["arguments"]), LIMIT)
    return int(server.stdout.readline())


def _serve() -> None:
    # All but onnxruntime, which starts a thread of its own, and threads do not survive a fork.
    import onnx
    import torch._dynamo  # noqa: F401

    import graphopt.cli.app
    import graphopt.passes.fuse
    import graphopt.passes.prune
    import graphopt.passes.quantize
    import graphopt.passes.runtime
    import graphopt.passes.simplify
    import graphopt.passes.substitute
    import graphopt.passes.train  # noqa: F401

    onnx.defs.get_schema("Relu")  # onnx makes all of its definitions when it is asked for the first
    gc.freeze()  # or a child's collections would copy every page
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(arguments: list[str], cwd: str, env: dict[str, str], streams: list[str]) -> NoReturn:
    """Goes on as a Python that was started with `arguments`."""
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_WRONLY if number else os.O_RDONLY), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # the old one has looked ahead
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    how, *rest = arguments
    places = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    first = {"-m": cwd, "-c": ""}.get(how, os.path.dirname(how))
    sys.path[:1] = [first, *places]  # in the place of this file's folder
    sys.argv = arguments if how not in ("-m", "-c") else rest if how == "-m" else ["-c", *rest[1:]]
    if how == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif how == "-c":
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_path(how, run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    _serve()
