"""``torch.compile(model, backend="graphopt")``: graphs that torch captured, optimised and run.

    compiled = torch.compile(model, backend="graphopt", options={"pipeline": "simplify,fuse"})
    with torch.no_grad():
        y = compiled(x)

Torch finds the backend by its entry point; nothing has to be imported. What holds:

- Passes compute with the weights (fusing a normalisation into a convolution, say), so a graph is built for the weights
  as they are. A later call with changed weights builds it anew.
- A graph that needs gradients, or that writes its inputs or buffers in place, runs as torch traced it, with a warning.
- A number among the arguments that is not the size of a tensor becomes part of the graph, which is then built for each.
- Operators without a counterpart in the vocabulary are carried as torch operators. Nothing else falls back.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import fx

from graphopt.backends import to_torch
from graphopt.errors import OptionError, nearest
from graphopt.frontends import capture
from graphopt.pipeline import optimize

# torch marks the parameters and buffers of modules among the inputs of a graph.
_STATIC = "_dynamo_static_input_type"
_STEP = re.compile(r"\._(?:modules|parameters|buffers)\['([^']+)'\]|\.(\w+)$")


#: Graphs that are built for different numbers among the arguments of one function.
MOST_NUMBERS = 8
_MANY = "it is called with many different numbers; give them as tensors"


@dataclass(frozen=True)
class Options:
    """What ``torch.compile(options=...)`` may say.

    Attributes:
        pipeline: what to run on each graph.
        check: hold every pass to its contract by running the graph before and after it.
    """

    pipeline: str = "simplify,fuse"
    check: bool = True


def backend(
    module: fx.GraphModule, inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None, **others: Any
) -> Callable[..., Any]:
    """The backend, as torch calls it.

    Args:
        module: what torch traced; its inputs are arguments, sizes, and the parameters and buffers of modules.
        inputs: examples of its inputs.
        options: see `Options`.
        others: ``mode`` of torch.compile, which means nothing here.

    Returns:
        What runs the graph. It is built at the first call, when torch's own tracing is over; that is where a graph that
        cannot be captured and a pass that fails raise a GraphoptError.

    Raises:
        OptionError: an unknown option.
    """
    chosen = _options(options or {})
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    reason = _untouched(placeholders, inputs)
    if reason:
        warnings.warn(f"graphopt leaves a graph as torch traced it: {reason}", stacklevel=2)
        return module.forward
    return _Compiled(module, placeholders, [hasattr(item, _STATIC) for item in inputs], chosen)


def _options(given: Mapping[str, Any]) -> Options:
    names = [field.name for field in fields(Options)]
    for name in given:
        if name not in names:
            hint = nearest(name, names) or f"there are: {', '.join(names)}"
            raise OptionError(f"the backend 'graphopt' has no option '{name}'", hint=hint)
    return Options(**given)


def _untouched(placeholders: Sequence[fx.Node], inputs: Sequence[Any]) -> str:
    """Why a graph must stay as it is; "" when it need not."""
    if torch.is_grad_enabled() and any(isinstance(item, torch.Tensor) and item.requires_grad for item in inputs):
        return "it needs gradients; call it under torch.no_grad() for inference"
    # Tracing ran the graph on these, so whatever it writes in place has another version now.
    for node in placeholders:
        traced = node.meta.get("example_value")
        if isinstance(traced, torch.Tensor) and traced._version:
            return f"it writes '{_label(node)}' in place"
    return ""


class _Compiled:
    """A graph at the weights that it was last called with."""

    def __init__(
        self, module: fx.GraphModule, placeholders: Sequence[fx.Node], static: Sequence[bool], options: Options
    ) -> None:
        self._module = module
        self._placeholders = placeholders
        self._labels = list(map(_label, placeholders))
        self._static = static
        self._options = options
        # Sizes are read off tensors; other numbers go into the graph, and each wants one of its own.
        self._numbers = [
            i for i, node in enumerate(placeholders) if _is_number(node) and not _shown_by(node, placeholders)
        ]
        self._weights: list[Any] = []
        self._built: dict[Hashable, Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        run = self._built.get(self._key(arguments))
        stale = self._stale(arguments)
        if run is None or stale:
            if not stale and len(self._built) >= MOST_NUMBERS:
                warnings.warn(f"graphopt runs a graph as torch traced it: {_MANY}", stacklevel=2)
                return self._module(*arguments)
            run = self.build(arguments)
        return run(*self._dynamic(arguments))

    def build(self, arguments: Sequence[Any]) -> Callable[..., Any]:
        """Captures, optimises and emits the graph for the weights and numbers among `arguments`."""
        if self._stale(arguments):
            self._built.clear()
            self._weights = [
                (item, _version(item)) for item, static in zip(arguments, self._static, strict=True) if static
            ]
        frozen = self._frozen(arguments).eval()  # the modes of the user's modules are in the graph
        with torch.no_grad():
            # Exporting marks its examples, which must not change what the caller holds.
            examples = tuple(item.detach().clone() for item in self._dynamic(arguments))
            graph = capture(frozen, examples, dynamic=self._open())
            optimize(graph, self._options.pipeline, check=self._options.check)
            run = self._built[self._key(arguments)] = to_torch(graph)
        return run

    def _key(self, arguments: Sequence[Any]) -> Hashable:
        return tuple([arguments[i] for i in self._numbers])

    def _stale(self, arguments: Sequence[Any]) -> bool:
        now = [item for item, static in zip(arguments, self._static, strict=True) if static]
        return len(now) != len(self._weights) or any(
            item is not known or _version(item) != version
            for item, (known, version) in zip(now, self._weights, strict=True)
        )

    def _dynamic(self, arguments: Sequence[Any]) -> list[Any]:
        """The arguments that are neither weights nor numbers."""
        pairs = zip(self._placeholders, arguments, self._static, strict=True)
        return [item for node, item, static in pairs if not static and not _is_number(node)]

    def _open(self) -> dict[int, dict[int, str]]:
        """Open dimensions of the inputs, called as torch calls them."""
        found: dict[int, dict[int, str]] = {}
        for position, node in enumerate(self._dynamic(self._placeholders)):
            sizes = enumerate(node.meta["example_value"].shape)
            dims = {d: _symbol(size) or f"{node.name}_{d}" for d, size in sizes if _is_open(size)}
            found |= {position: dims} if dims else {}
        return found

    def _frozen(self, arguments: Sequence[Any]) -> fx.GraphModule:
        """The traced module with weights as parameters and buffers, and numbers as what they are."""
        frozen = fx.GraphModule(self._module, copy.deepcopy(self._module.graph))
        graph = frozen.graph
        nodes = [node for node in graph.nodes if node.op == "placeholder"]
        with graph.inserting_before(nodes[-1].next if nodes else None):
            for node, traced, label, item, static in zip(
                nodes, self._placeholders, self._labels, arguments, self._static, strict=True
            ):
                if static:
                    stand_in: Any = graph.get_attr(_place(frozen, label, item))
                elif _is_number(traced):
                    shown = _shown_by(traced, self._placeholders)
                    stand_in = item
                    if shown is not None:
                        tensor, dim = nodes[shown[0]], shown[1]
                        stand_in = graph.call_function(torch.ops.aten.sym_size.int, (tensor, dim))
                else:
                    continue
                _replace(node, stand_in)
        frozen.recompile()
        return frozen


def _replace(node: fx.Node, stand_in: Any) -> None:
    for user in list(node.users):
        user.args = fx.map_arg(user.args, lambda n: stand_in if n is node else n)
        user.kwargs = fx.map_arg(user.kwargs, lambda n: stand_in if n is node else n)
    node.graph.erase_node(node)


def _place(root: torch.nn.Module, path: str, tensor: torch.Tensor) -> str:
    """Registers a parameter or buffer under its path in the user's module; returns the path, changed if it is taken."""
    *parents, name = path.split(".")
    for part in parents:
        if not hasattr(root, part):
            root.add_module(part, torch.nn.Module())
        inner = getattr(root, part)
        if not isinstance(inner, torch.nn.Module):
            return _place(root, f"{part}_{path}", tensor)
        root = inner
    while hasattr(root, name):
        name += "_"
    if isinstance(tensor, torch.nn.Parameter):
        root.register_parameter(name, tensor)
    else:
        root.register_buffer(name, tensor)
    return ".".join([*parents, name])


def _label(node: fx.Node) -> str:
    """The path of a parameter or buffer in the user's module, or the name of an input.

    Torch forgets where an input comes from once it has compiled the graph.
    """
    source = getattr(node.meta.get("grapharg"), "source", None)
    name = getattr(source, "name", "")
    steps = _STEP.findall(name() if callable(name) else name)
    return ".".join(a or b for a, b in steps) or str(node.name)


def _version(tensor: torch.Tensor) -> tuple[int, int]:
    """What differs when a tensor has been written, or has been given other contents through ``.data``."""
    return (-1 if tensor.is_inference() else tensor._version), tensor.data_ptr()


# -- sizes


def _is_open(size: Any) -> bool:
    return isinstance(size, torch.SymInt)


def _is_number(node: fx.Node) -> bool:
    return not isinstance(node.meta.get("example_value"), torch.Tensor)


def _symbol(size: Any) -> str:
    """The name of a size that is a symbol and no expression."""
    expression = size.node.expr
    return str(expression) if expression.is_Symbol else ""


def _shown_by(number: fx.Node, placeholders: Sequence[fx.Node]) -> tuple[int, int] | None:
    """The input (by position) and dimension whose size a number is."""
    wanted: Any = number.meta.get("example_value")
    if not _is_open(wanted):
        return None
    for position, node in enumerate(placeholders):
        traced = node.meta.get("example_value")
        if isinstance(traced, torch.Tensor):
            sizes: Sequence[Any] = traced.shape
            for dim, size in enumerate(sizes):
                if _is_open(size) and size.node.expr == wanted.node.expr:
                    return position, dim
    return None


__all__ = ["Options", "backend"]
