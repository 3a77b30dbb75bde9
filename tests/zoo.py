"""The zoo, captured once in a process however many tests ask for it."""

from __future__ import annotations

import copy
import functools
from typing import Any

import graphopt as go
from graphopt.models import build


def captured(name: str, batch: str | None = None) -> go.Graph:
    """What ``go.capture(*build(name))`` gives, weights of its own included: training or writing them harms nobody.

    Args:
        name: of the zoo.
        batch: what the first dimension of every input is called; a number by default.
    """
    graph = _captured(name, batch).clone()
    shared: dict[int, Any] = {}  # storages that several constants have in common
    for value in graph.constants:
        value.data = copy.deepcopy(value.data, shared)
    return graph


@functools.cache
def _captured(name: str, batch: str | None) -> go.Graph:
    module, args = build(name)
    return go.capture(module, args, dynamic=None if batch is None else [{0: batch}] * len(args))
