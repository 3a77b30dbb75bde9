"""Reading and writing what the command line names."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.errors import CaptureError, DataError, LoadError, OptionError, SaveError, nearest
from graphopt.ir import Graph

if TYPE_CHECKING:
    from graphopt.pipeline import Report

_OUTPUTS = (".onnx", ".pt2", ".txt")
_FUNCTION = "write a function that returns (nn.Module, example args) and give package.module:function"
#: Files that hold something else than a graph, by their endings.
_NO_GRAPHS = {
    ".pt": "holds what torch.save wrote, weights or a module, and no graph",
    ".pth": "holds what torch.save wrote, weights or a module, and no graph",
    ".safetensors": "holds weights, and no graph",
    ".py": "is Python code, of which a function is needed",
}


def read(spec: str, weights: bool = True) -> Graph:
    """Reads a model: see the help of MODEL.

    Args:
        spec: what the command line says.
        weights: a graph in text form has to come with the file of its weights.

    Raises:
        LoadError: there is no such model, or it cannot be read; CaptureError for a torch model. One line says why.
    """
    from graphopt.frontends import from_exported, load

    if spec == "-":
        if sys.stdin.isatty():
            raise LoadError("standard input is a terminal", where="-", hint="send an ONNX file to it: < model.onnx")
        return load(sys.stdin.buffer.read())
    path = Path(spec)
    if not path.exists():
        if ":" in spec:
            return _from_function(spec)
        raise LoadError(f"no such file: {spec}", hint=_instead_of(path))
    if path.is_dir():
        raise LoadError(f"'{spec}' is a folder", hint="name a file in it")
    if path.suffix in _NO_GRAPHS:
        raise LoadError(f"'{spec}' {_NO_GRAPHS[path.suffix]}", hint=_FUNCTION)
    if path.suffix == ".pt2":
        return from_exported(path)
    return _from_text(path, weights) if path.suffix == ".txt" else load(path)


def read_all(specs: Sequence[str]) -> list[Graph]:
    """Reads several models. Raises OptionError when standard input is to give more than one, and what `read` does."""
    if specs.count("-") > 1:
        raise OptionError("standard input holds one model", where="-", hint="give files for the others")
    return [read(spec) for spec in specs]


def _from_text(path: Path, weights: bool) -> Graph:
    from graphopt.ir.text import read_text, weights_path

    graph = read_text(path)
    side = weights_path(path)
    if weights and not side.exists() and _lacks_data(graph):
        raise LoadError(
            f"the weights are missing: there is no file '{side}'", where=str(path), hint="put it beside the text"
        )
    return graph


def _lacks_data(graph: Graph) -> bool:
    constants = (value for scope in graph.graphs() for value in scope.constants)
    return any(value.data is not None and value.data.is_meta for value in constants)


def _instead_of(path: Path) -> str:
    try:
        names = [each.name for each in path.parent.iterdir() if each.is_file()]
    except OSError:
        return f"there is no folder '{path.parent}' either"
    close = nearest(path.name, names)
    if close is None and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", str(path)):
        return f"for a function write {':'.join(str(path).rsplit('.', 1))}"
    return close or "give an ONNX file, a .pt2, or package.module:function"


def _from_function(spec: str) -> Graph:
    import torch
    from torch import nn

    from graphopt.frontends import capture

    module_name, _, function_name = spec.partition(":")
    if os.getcwd() not in sys.path:  # a user's own package beside which the command is run
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise LoadError(
            f"module '{module_name}' cannot be imported ({type(error).__name__}: {error})", where=spec,
            hint=f"write {module_name.removesuffix('.py').replace('/', '.')}:{function_name}"
            if module_name.endswith(".py")
            else "MODEL is a file, or package.module:function",
        ) from error  # fmt: skip
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise LoadError(
            f"module '{module_name}' has no function '{function_name}'", where=spec,
            hint=nearest(function_name, names) or "name a function that returns (nn.Module, example args)",
        )  # fmt: skip
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a model without trained weights is the same one in every command
            result = function()
    except Exception as error:  # the user's own function
        raise CaptureError(f"{function_name}() raised {type(error).__name__}: {error}", where=spec) from error
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], nn.Module)):
        raise CaptureError(
            f"{function_name}() returned {type(result).__name__}", where=spec,
            hint="return (nn.Module, example args)",
        )  # fmt: skip
    arguments = result[1] if isinstance(result[1], tuple) else (result[1],)
    return capture(result[0], arguments)


def with_fixed_shapes(pipeline: str, fixed: Sequence[str]) -> str:
    """The pipeline, with ``NAME=SHAPE`` bound and what follows from them folded in front of it.

    Raises:
        OptionError: something else than ``NAME=SHAPE``, or a name that is given twice.
    """
    from graphopt.pipeline.text import format_value

    shapes: dict[str, str] = {}
    for text in fixed:
        name, equals, shape = text.rpartition("=")
        if not equals or not name or not shape:
            raise OptionError(f"'{text}' is no shape", where="--fix-shapes", hint="write x=1x3x224x224, or batch=1")
        if name in shapes:
            raise OptionError(f"'{name}' is given twice", where="--fix-shapes", hint="give each name once")
        shapes[name] = shape
    if not shapes:
        return pipeline
    first = f"fix-shapes{{shapes={format_value(shapes)}}},resolve-shapes,fold-constants,inline-if,eliminate-dead"
    return f"{first},{pipeline}" if pipeline else first


def check_output(output: str, opset: int | None = None, sparse: bool = False) -> None:
    """Raises SaveError, or OptionError, before any work is done when the output could not be written as asked for."""
    from graphopt.backends.onnx_opset import check_opset

    check_opset(opset)
    asked = "--opset" if opset is not None else "--sparse"
    if (opset is not None or sparse) and output != "-" and Path(output).suffix != ".onnx":
        raise OptionError(f"{asked} is for ONNX files, and '{output}' is none", where=asked, hint="end it in .onnx")
    if output == "-":
        if sys.stdout.isatty():
            raise SaveError("standard output is a terminal", where="-o -", hint="send it to a file: > model.onnx")
        return
    path = Path(output)
    if path.suffix not in _OUTPUTS:
        raise SaveError(f"'{output}' is no kind of file that can be written", hint=f"end it in {', '.join(_OUTPUTS)}")
    _check_writable(path)


def check_report(report: Path | None) -> None:
    """Raises SaveError before any work is done when the report could not be written."""
    if report is None:
        return
    if report.suffix not in (".html", ".json"):
        raise SaveError(f"'{report}' is no kind of report", where="--report", hint="end it in .html or .json")
    _check_writable(report)


def check_data(data: Path | None) -> None:
    """Raises DataError before any work is done when there is no such file or folder."""
    if data is not None and not data.exists():
        raise DataError(f"no such file: {data}", where="--data", hint="give an .npz file or a folder of .npy files")


def _check_writable(path: Path) -> None:
    folder = path.parent
    if not folder.exists():
        raise SaveError(f"there is no folder '{folder}'", where=str(path), hint="make it first")
    if not folder.is_dir():
        raise SaveError(f"'{folder}' is a file, not a folder", where=str(path), hint="choose another folder")
    if path.is_dir():
        raise SaveError(f"'{path}' is a folder", where=str(path), hint="name a file in it")
    if not os.access(folder, os.W_OK):
        raise SaveError(
            f"folder '{folder}' is not writable", where=str(path), hint="choose another, or change its mode"
        )


def write(graph: Graph, output: str, opset: int | None, sparse: bool = False) -> None:
    """Writes a graph in the form that the name's ending asks for; `sparse` is for ONNX, as `save` takes it."""
    from graphopt.backends import save, to_onnx, to_torch
    from graphopt.ir.text import write_text

    if output == "-":
        sys.stdout.buffer.write(to_onnx(graph, opset=opset, sparse=sparse).SerializeToString())
        return
    path = Path(output)
    if path.suffix == ".onnx":
        save(graph, path, opset=opset, sparse=sparse)
    elif path.suffix == ".txt":
        write_text(graph, path)
    else:
        _write_exported(graph, to_torch(graph), path)


def _write_exported(graph: Graph, module: object, path: Path) -> None:
    import torch

    from graphopt.frontends.export import quiet
    from graphopt.runtime.samples import runnable_inputs

    inputs = runnable_inputs(graph).inputs
    shapes = {
        value.name: {
            dim: torch.export.Dim.AUTO for dim, extent in enumerate(value.shape or ()) if not isinstance(extent, int)
        }
        for value in graph.inputs
    }
    part = path.with_name(path.stem + ".part.pt2")
    try:
        with quiet():  # torch prints the graph of a trace that fails
            program = torch.export.export(
                module,  # type: ignore[arg-type]  # `object` spares the command line an import of torch
                tuple(inputs),
                dynamic_shapes=tuple(shapes.values()) if any(shapes.values()) else None,
                strict=False,
            )
        torch.export.save(program, part)
        os.replace(part, path)
    except Exception as error:  # torch.export raises whatever its tracer raises
        reason = next(iter(str(error).strip().splitlines()), "")
        raise SaveError(
            f"the rewritten model cannot be exported by torch ({type(error).__name__}: {reason})", where=str(path),
            hint="write .onnx instead",
        ) from error  # fmt: skip
    finally:
        part.unlink(missing_ok=True)


def write_report(report: Report, path: Path) -> None:
    """Writes a report as .html or .json. Raises SaveError when the file cannot be written."""
    from graphopt.pipeline.html import to_html

    try:
        path.write_text(to_html(report) if path.suffix == ".html" else report.to_json(), encoding="utf8")
    except OSError as error:
        raise SaveError(f"the report cannot be written: {error.strerror}", where=str(path)) from error
