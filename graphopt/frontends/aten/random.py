"""Random numbers: the same distribution, not the same numbers as torch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.frontends.aten.builder import Builder, Size
from graphopt.frontends.aten.create import filled
from graphopt.frontends.aten.registry import converts
from graphopt.ir import Value


@converts("aten.randn.default")
def randn(c: Builder, size: Sequence[Size], **options: Any) -> Value:
    return c.emit("RandomNormalLike", filled(c, size, 0))


@converts("aten.rand.default")
def rand(c: Builder, size: Sequence[Size], **options: Any) -> Value:
    return c.emit("RandomUniformLike", filled(c, size, 0))


@converts("aten.randn_like.default")
def randn_like(c: Builder, self: Value, **options: Any) -> Value:
    return c.emit("RandomNormalLike", self, dtype=int(c.result.dtype))


@converts("aten.rand_like.default")
def rand_like(c: Builder, self: Value, **options: Any) -> Value:
    return c.emit("RandomUniformLike", self, dtype=int(c.result.dtype))


@converts("aten.bernoulli.default")
def bernoulli(c: Builder, self: Value, *, generator: None = None) -> Value:
    return c.emit("Bernoulli", self)
