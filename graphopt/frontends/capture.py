"""From torch to a graph."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from graphopt.errors import CaptureError, GraphoptError
from graphopt.frontends.dynamic import (
    STAND_INS,
    Example,
    argument_names,
    enlarged,
    examples_of,
    resolve,
    shapes_for_export,
)
from graphopt.frontends.export import export, quiet
from graphopt.frontends.guards import OtherWayError, assumptions
from graphopt.frontends.lowering import Lowering
from graphopt.frontends.state import State
from graphopt.frontends.symbols import Symbols, expression, is_open
from graphopt.ir import Graph, Leaf, Signature, Value
from graphopt.ir.expect import expect_path, kind_of
from graphopt.ops.collector import paused_gc

#: `Graph.metadata` key: what the trace assumes about open dimensions (``"n % 2 == 0"``).
ASSUMES = "torch.assumes"


def capture(
    module: torch.nn.Module | ExportedProgram | str | os.PathLike[str],
    args: Sequence[Any] | torch.Tensor = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic: Any = None,
) -> Graph:
    """Turns a torch module into a graph.

    The module is traced in evaluation mode (and put back into its own); parameters and buffers are shared, not copied.

    Args:
        module: the module; or an ``ExportedProgram`` or a ``.pt2`` file of one, which need no arguments.
        args: example arguments of ``forward``; a tensor stands for a tuple of it.
        kwargs: example keyword arguments.
        dynamic: open dimensions: ``{"x": {0: "batch"}}``, ``{0: {0: "batch"}}``, or what torch.export takes as
            ``dynamic_shapes``. A batch of one in the example does not fix the batch. Where the module's code restricts
            the sizes (it halves a dimension and adds the halves), the graph's metadata state the conditions under
            `ASSUMES`; `graphopt.frontends.guards.holds` tells whether sizes meet them.

    Raises:
        CaptureError: the module cannot be traced; says where in its source and what to use instead.
    """
    if not isinstance(module, torch.nn.Module):
        return from_exported(module)
    if isinstance(args, torch.Tensor):
        args = (args,)
    args, kwargs = _arguments(module, args, kwargs)
    examples = examples_of(module, args, kwargs)
    resolve(dynamic, examples, argument_names(module, len(args)))
    graph = _trace(module, args, kwargs, examples)
    assert graph.signature is not None
    graph.name = type(module).__name__
    graph.signature = Signature(
        graph.signature.in_tree,
        graph.signature.out_tree,
        graph.signature.inputs,
        graph.signature.outputs,
        argument_names(module, len(args)),
        module.training,
    )
    return graph


def _arguments(module: torch.nn.Module, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not isinstance(args, (tuple, list)) or not isinstance(kwargs, (Mapping, type(None))):
        wrong, good = (args, "(x, y)") if isinstance(kwargs, (Mapping, type(None))) else (kwargs, '{"mask": mask}')
        raise CaptureError(
            f"{kind_of(wrong)} is no set of example arguments", where=type(module).__name__, hint=f"write {good}"
        )
    return tuple(args), dict(kwargs or {})


@paused_gc()
def _trace(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], examples: Sequence[Example]
) -> Graph:
    shapes = shapes_for_export(module, args, kwargs, examples)
    _, spec = pytree.tree_flatten((args, kwargs))
    refused: OtherWayError | None = None
    for size in STAND_INS:
        larger_args, larger_kwargs = pytree.tree_unflatten(enlarged(examples, size), spec)
        program = export(module, larger_args, larger_kwargs, shapes, examples)
        try:
            return _build(program, examples, State.of_module(module, program))
        except OtherWayError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def from_exported(program: ExportedProgram | str | os.PathLike[str]) -> Graph:
    """Turns an exported program, or a ``.pt2`` file that holds one, into a graph.

    Raises:
        CaptureError: the file is missing or holds no exported program, or the program has no form as a graph.
    """
    if not isinstance(program, (str, os.PathLike)):
        return _of_program(program)
    loaded = _load(program)
    try:
        return _of_program(loaded)
    except GraphoptError:
        raise
    except Exception as error:  # torch reads a damaged program without a word
        raise CaptureError(
            f"'{os.fspath(program)}' holds a program that contradicts itself ({type(error).__name__}: {error})",
            hint="export it again",
        ) from error


def _of_program(program: ExportedProgram) -> Graph:
    _check_program(program)
    in_spec = program.call_spec.in_spec
    placeholders = _user_inputs(program)
    names = _leaf_names(in_spec, placeholders)
    examples = [Example(name, (name,), None) for name in names]
    return _build(program, examples, State.of_program(program))


def _check_program(given: object) -> None:
    if not isinstance(given, ExportedProgram):
        kind = f"the class {given.__name__}" if isinstance(given, type) else f"an object of type {type(given).__name__}"
        raise CaptureError(f"cannot capture {kind}", hint="give a torch.nn.Module, an ExportedProgram or a .pt2 file")


def _load(path: str | os.PathLike[str]) -> ExportedProgram:
    path = expect_path(path, "capture", CaptureError)
    if path.is_dir():
        raise CaptureError(f"'{path}' is a folder", hint="name a .pt2 file in it")
    if not path.exists():
        raise CaptureError(f"there is no file '{path}'")
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:  # a foreign file can fail anywhere in torch's reader
        raise CaptureError(
            f"'{path}' holds no exported program: {error}", hint="write it with torch.export.save"
        ) from error


def _leaf_names(in_spec: Any, placeholders: Sequence[fx.Node]) -> list[str]:
    """Names of the inputs: the argument's, and the keys inside it; torch joins them with underscores."""
    if in_spec is None:
        return [node.name for node in placeholders]
    filled = pytree.tree_unflatten(placeholders, in_spec)
    leaves, _ = pytree.tree_flatten_with_path(filled)
    names = []
    for keys, node in leaves:
        inner = [str(getattr(key, "key", getattr(key, "idx", key))) for key in keys[2:]]
        head = str(node.name)
        for part in reversed(inner):
            head = head.removesuffix(f"_{part}")
        names.append(".".join([head, *inner]))
    return names if len(set(names)) == len(names) else [node.name for node in placeholders]


# -- building


def _build(program: ExportedProgram, examples: Sequence[Example], state: State) -> Graph:
    graph = Graph()
    symbols = Symbols()
    _name_symbols(program, examples, symbols)
    lowering = Lowering(graph, symbols)
    arguments, inputs = _inputs(program, examples, lowering, state)
    results = lowering.run(program.graph_module, arguments)
    outputs = _outputs(program, graph, lowering, list(results))
    assumed = assumptions(program, examples)
    if assumed:
        graph.metadata[ASSUMES] = "; ".join(assumed)
    graph.signature = Signature(program.call_spec.in_spec, program.call_spec.out_spec, inputs, outputs)
    _sweep(graph)
    _finish(graph)
    return graph


def _user_inputs(program: ExportedProgram) -> list[fx.Node]:
    kinds = {spec.arg.name: spec.kind for spec in program.graph_signature.input_specs}
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    return [node for node in nodes if kinds[node.name] == InputKind.USER_INPUT]


def _name_symbols(program: ExportedProgram, examples: Sequence[Example], symbols: Symbols) -> None:
    """Gives torch's symbols the user's names; those that nobody named are called after their place."""
    placeholders = _user_inputs(program)
    for named in (True, False):
        for node, example in zip(placeholders, examples, strict=True):
            traced = node.meta.get("val")
            if not isinstance(traced, torch.Tensor):
                continue
            for dim, size in enumerate(traced.shape):
                label = example.names.get(dim)
                if is_open(size) and (label is not None) == named:
                    _name_symbol(symbols, expression(size), label or f"{example.name}_{dim}")
    for node, example in zip(placeholders, examples, strict=True):
        _check_open(node, example)


def _name_symbol(symbols: Symbols, size: Any, label: str) -> None:
    """`size` is a symbol, or (where the code needs a multiple of something) linear in one."""
    import sympy

    from graphopt.ir import dims as D

    if size.is_Symbol:
        symbols.bind(size, D.symbol(label))
        return
    free = list(size.free_symbols)
    if len(free) == 1 and not symbols.names(free[0]):
        solutions = sympy.solve(sympy.Eq(size, D.symbol(label)), free[0])
        if len(solutions) == 1:
            symbols.bind(free[0], solutions[0])


def _check_open(node: fx.Node, example: Example) -> None:
    traced = node.meta.get("val")
    for dim, label in example.names.items():
        size = traced.shape[dim] if isinstance(traced, torch.Tensor) else None
        if isinstance(size, int):
            raise CaptureError(
                f"dimension {dim} of input '{example.name}' ('{label}') cannot be dynamic: torch fixed it to {size}",
                hint="leave it out of dynamic, or give an example of another size",
            )


def _inputs(
    program: ExportedProgram, examples: Sequence[Example], lowering: Lowering, state: State
) -> tuple[dict[fx.Node, Any], tuple[Leaf, ...]]:
    """Graph inputs, parameters and constants for the placeholders, and the leaves of the signature."""
    graph = lowering.graph
    state.add_to(graph)
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    arguments: dict[fx.Node, Any] = {}
    leaves: list[Leaf] = []
    waiting = iter(examples)
    for node in program.graph.nodes:
        if node.op != "placeholder":
            continue
        spec = specs[node.name]
        if spec.kind != InputKind.USER_INPUT:
            if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                raise CaptureError(f"'{spec.target or node.name}' is a {spec.kind.name.lower()}, not a tensor")
            arguments[node] = state.value(spec.target, graph)
            node.meta["graphopt_state"] = spec.target if spec.kind == InputKind.BUFFER else None
            continue
        example = next(waiting)
        if isinstance(spec.arg, ConstantArgument):
            arguments[node] = spec.arg.value
            leaves.append(Leaf(None, spec.arg.value))
            continue
        kind = lowering.symbols.type_of(node.meta["val"])
        if kind is None:
            raise CaptureError(f"input '{example.name}' is no tensor and no number")
        value = graph.add_input(example.name, kind)
        if not isinstance(node.meta["val"], torch.Tensor):
            lowering.sizes.add(value)
        arguments[node] = value
        leaves.append(Leaf(len(graph.inputs) - 1))
    return arguments, tuple(leaves)


def _outputs(program: ExportedProgram, graph: Graph, lowering: Lowering, results: list[Any]) -> tuple[Leaf, ...]:
    leaves: list[Leaf] = []
    names = iter(_output_names(program.call_spec.out_spec, {value.name for value in graph.inputs}))
    for spec, item in zip(program.graph_signature.output_specs, results, strict=True):
        if spec.kind.name in ("BUFFER_MUTATION", "PARAMETER_MUTATION"):  # the latter is younger than torch 2.6
            raise CaptureError(
                f"forward writes the module's own '{spec.target}'",
                hint="a graph keeps no state between calls: take it as an input and return the new one",
            )
        if spec.kind != OutputKind.USER_OUTPUT:
            continue
        name = next(names)
        if not isinstance(item, Value):
            leaves.append(Leaf(None, item))
            continue
        graph.add_output(item, name)
        leaves.append(Leaf(len(graph.outputs) - 1, number=not isinstance(spec.arg, TensorArgument)))
    return tuple(leaves)


def _output_names(out_spec: Any, taken: set[str]) -> list[str]:
    """``output`` for a single tensor, ``output.0`` inside a tuple, keys for a dict; never the name of an input."""
    skeleton = pytree.tree_unflatten(list(range(out_spec.num_leaves)), out_spec)
    leaves, _ = pytree.tree_flatten_with_path(skeleton)
    names = []
    for keys, _ in leaves:
        parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in keys]
        named = bool(parts) and not parts[0].isdigit()
        name = ".".join(parts if named else ["output", *parts])
        while name in taken:
            name = f"output.{name}"
        taken.add(name)
        names.append(name)
    return names


def _sweep(graph: Graph) -> None:
    """Removes nodes that nothing reads, and constants that only they read."""
    for each in list(graph.graphs()):
        for node in reversed(each):
            if not any(value.uses for value in node.outputs):
                each.sweep(node.outputs[:1])
        for value in list(each.constants):
            if not value.uses and value.parameter is None:
                each.remove_constant(value)


def _finish(graph: Graph) -> None:
    from graphopt.analysis.shapes import propagate

    for node in graph.walk():
        for value in node.outputs if len(node.outputs) > 1 else ():
            if not value.uses:
                value.name = ""  # the operator need not compute it
    propagate(graph)


__all__ = ["ASSUMES", "capture", "from_exported"]
