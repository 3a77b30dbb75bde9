"""Configurations for pruned models whose class builds its layers from one, as those of the transformers library do.

Nothing here knows that library: a module has a ``config``, and its class makes a module of a configuration. Which
numbers of it say which sizes is found by trying, on the meta device, where building a module takes no memory.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import nn

from graphopt.backends import to_torch
from graphopt.errors import OptionError, SaveError
from graphopt.ir import Graph
from graphopt.runtime.calls import call_flat
from graphopt.runtime.compare import compare
from graphopt.runtime.executor import run
from graphopt.runtime.samples import example_inputs

#: Where a number stands in a configuration: attribute after attribute.
Path: TypeAlias = tuple[str, ...]
Sizes: TypeAlias = Mapping[str, tuple[int, ...]]
Settings: TypeAlias = tuple[tuple[Path, int], ...]

#: Modules that a search builds, at most.
MOST_TRIED = 400
#: As `write_back` compares.
_TOLERANCE = 1e-3
_HINT = (
    "prune what its configuration has a number for, alike in all layers (scope=uniform; kinds=[ffn] or kinds=[heads]); "
    "go.save and torch.export need no configuration"
)


def fit_config(graph: Graph, module: nn.Module, *, example: Sequence[torch.Tensor] | None = None) -> Any:
    """A copy of ``module.config`` that says the graph's sizes.

    Args:
        graph: captured from `module`, then pruned.
        module: its ``config`` is a configuration, and its class makes a module of one.
        example: graph inputs to compare on; random ones by default.

    Returns:
        The configuration. A module that is built from it has the graph's shapes and, with the graph's weights, gives
        the graph's outputs.

    Raises:
        SaveError: the class can make no such module; the parameters that it cannot make so are named.
        OptionError: the module has no configuration.
    """
    return rebuild(graph, module, example=example).config


def rebuild(graph: Graph, module: nn.Module, *, example: Sequence[torch.Tensor] | None = None) -> Any:
    """A new module of the same class with the graph's sizes and weights, which can be saved with its configuration.

    ``rebuild(graph, model).save_pretrained(folder)`` is then read by ``from_pretrained(folder)``.

    Args:
        graph: captured from `module`, then pruned.
        module: stays as it is; its ``config`` is a configuration, and its class makes a module of one.
        example: graph inputs to compare on; random ones by default.

    Raises:
        SaveError: the class can make no such module; the parameters that it cannot make so are named.
        OptionError: the module has no configuration.
    """
    if not hasattr(module, "config"):
        raise OptionError(
            f"{type(module).__name__} has no config",
            where="rebuild",
            hint="take to_torch, or write_back for any module",
        )
    return _Search(graph, module, example).run()


@dataclass
class _Search:
    """The search for a configuration.

    Attributes:
        graph: the pruned graph.
        module: what it was captured from.
        example: graph inputs to compare on.
        state: the tensors that the module to be made has.
        wanted: their shapes.
        tried: what sizes each configuration makes that was tried; ``None`` where the class refused it.
        best: the settings with the fewest wrong sizes, after the number of these.
        refusal: why the last module that came into question was none.
    """

    graph: Graph
    module: nn.Module
    example: Sequence[torch.Tensor] | None
    state: Mapping[str, torch.Tensor] = field(init=False)
    wanted: Sizes = field(init=False)
    tried: dict[Settings, Sizes | None] = field(default_factory=dict)
    best: tuple[float, Settings] = (math.inf, ())
    refusal: str = ""

    def __post_init__(self) -> None:
        self.state = {**self.module.state_dict(), **to_torch(self.graph).state_dict()}
        self.wanted = {name: tuple(tensor.shape) for name, tensor in self.state.items()}

    def run(self) -> nn.Module:
        whole = self._sizes(())
        if whole is None:
            raise SaveError(f"{type(self.module).__name__} cannot be built from its config: {self.refusal}", hint=_HINT)
        found = self._from(())
        if found is None:
            raise SaveError(self._why(), where="rebuild", hint=_HINT)
        return found

    def _moves(self, sizes: Sizes) -> list[tuple[Path, int]]:
        """Numbers that the sizes that are wrong yet may ask for."""
        pairs = {
            (sizes[name][dim], self.wanted[name][dim])
            for name, dim in self._wrong(sizes)
            if dim < len(sizes.get(name, ()))
        }
        moves = []
        for path, value in _numbers(self.module.config):
            if value is None:
                numbers = {new for _, new in pairs}
            else:
                numbers = {value * new // old for old, new in pairs if value * new % old == 0}
            moves += [(path, number) for number in sorted(numbers - {value, 0})]
        return moves

    def _from(self, settings: Settings, moves: Sequence[tuple[Path, int]] = ()) -> nn.Module | None:
        """The first module on the way from `settings` on that is what the graph is, the nearest numbers first.

        Args:
            settings: numbers that are set already.
            moves: where the class refuses these, the numbers that may go with them.
        """
        sizes = self._sizes(settings)
        if sizes is not None and not self._wrong(sizes):
            return self._same(settings)
        moves = moves if sizes is None else self._moves(sizes)
        left = len(self._wrong(sizes)) if sizes is not None else self.best[0] + 1
        ahead = []
        for path, number in moves:
            further: Settings = tuple(sorted([*settings, (path, number)]))
            if further in self.tried or len(self.tried) >= MOST_TRIED or path in dict(settings):
                continue
            found = self._sizes(further)
            # A number that the class refuses on its own may be right beside another one.
            wrong = len(self._wrong(found)) if found is not None else left
            if wrong < left or (found is None and sizes is not None):
                ahead.append((wrong, further))
        for _, further in sorted(ahead):
            module = self._from(further, moves)
            if module is not None:
                return module
        return None

    def _sizes(self, settings: Settings) -> Sizes | None:
        """The shapes that a configuration makes; ``None`` where the class refuses it."""
        if settings not in self.tried:
            try:
                with torch.device("meta"), torch.random.fork_rng(devices=[]):
                    state = type(self.module)(self._config(settings)).state_dict()
            except Exception as error:  # whatever a class says to numbers that it does not like
                self.refusal = f"{type(error).__name__}: {error}"
                self.tried[settings] = None
            else:
                sizes = {name: tuple(tensor.shape) for name, tensor in state.items()}
                self.tried[settings] = sizes
                self.best = min(self.best, (len(self._wrong(sizes)), settings))
        return self.tried[settings]

    def _wrong(self, sizes: Sizes) -> list[tuple[str, int]]:
        return [
            (name, dim)
            for name, shape in self.wanted.items()
            for dim, size in enumerate(shape)
            if len(sizes.get(name, ())) != len(shape) or sizes[name][dim] != size
        ]

    def _config(self, settings: Settings) -> Any:
        config: Any = copy.deepcopy(self.module.config)
        for path, number in settings:
            owner = config
            for step in path[:-1]:
                owner = getattr(owner, step)
            setattr(owner, path[-1], number)
        # What a file says is checked when it is read, which setting an attribute may not have been.
        if hasattr(config, "to_dict") and hasattr(type(config), "from_dict"):
            type(config).from_dict(config.to_dict())
        return config

    def _same(self, settings: Settings) -> nn.Module | None:
        """The module of a configuration with the graph's weights, if it gives the graph's outputs."""
        with torch.random.fork_rng(devices=[]):
            made = type(self.module)(self._config(settings))
        for name, tensor in [*made.named_parameters(), *made.named_buffers()]:
            if name in self.state:
                tensor.data = tensor.data.to(self.state[name].dtype)
        trainable = {name: parameter.requires_grad for name, parameter in self.module.named_parameters()}
        for name, parameter in made.named_parameters():
            parameter.requires_grad_(trainable.get(name, True))
        made.load_state_dict(self.state)
        inputs = list(self.example) if self.example is not None else example_inputs(self.graph)
        try:
            with torch.no_grad():
                got = call_flat(made.eval(), self.graph, inputs)
        except Exception as error:  # the class took the sizes, and its code does not fit them
            self.refusal = f"{type(error).__name__}: {error}"
            return None
        found = compare(got, run(self.graph, inputs))
        if not found.within(_TOLERANCE):
            self.refusal = f"with {_shown(settings)} it has the sizes, and gives other results"
            return None
        made.train(self.module.training)
        return made

    def _why(self) -> str:
        kind = type(self.module).__name__
        count, settings = self.best
        if not count:
            return f"no configuration of {kind} makes the pruned model: {self.refusal}"
        sizes = self.tried[settings] or {}
        named = list(dict.fromkeys(name for name, _ in self._wrong(sizes)))
        shown = ", ".join(f"{n} {list(self.wanted[n])} instead of {list(sizes.get(n, ()))}" for n in named[:3])
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        near = f" (nearest: {_shown(settings)})" if settings else ""
        return f"no configuration of {kind} has the pruned sizes{near}: {shown}{more}"


def _numbers(config: Any, path: Path = ()) -> Iterator[tuple[Path, int | None]]:
    """The whole numbers of a configuration, those of configurations inside it included, and what is not set."""
    for name, value in list(vars(config).items()):
        if name.startswith("_"):
            continue
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 1):
            yield (*path, name), value
        elif hasattr(value, "to_dict") or type(value) is type(config):
            yield from _numbers(value, (*path, name))


def _shown(settings: Settings) -> str:
    return ", ".join(f"{'.'.join(path)}={number}" for path, number in settings) or "its numbers as they are"
