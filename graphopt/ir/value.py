"""Values: what flows along the edges of a graph."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from graphopt.ir.dims import Shape
from graphopt.ir.journal import Metadata, journalled, metadata_property
from graphopt.ir.nodelist import NodeList
from graphopt.ir.types import UNKNOWN, DType, TensorType, ValueType

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph
    from graphopt.ir.node import Node

#: Contents of a small integer tensor as far as known: an object array of `Dim`.
Known = np.ndarray


@dataclass(frozen=True)
class Parameter:
    """What a constant was in its ``nn.Module``.

    Attributes:
        name: fully qualified name, as in ``state_dict``.
        aliases: further names of the same tensor (tied weights).
        buffer: a buffer rather than a trainable parameter.
        persistent: part of ``state_dict`` (only buffers can be non-persistent).
        requires_grad: trainable.
        places: of the name and the aliases among all names of the module's state, in its order; none without aliases.
    """

    name: str
    aliases: tuple[str, ...] = ()
    buffer: bool = False
    persistent: bool = True
    requires_grad: bool = True
    places: tuple[int, ...] = ()


class Use(NamedTuple):
    """One place where a value is read: input `index` of a node, or output `index` of a graph."""

    user: Node | Graph
    index: int  # type: ignore[assignment]  # tuple.index is not missed


class Value:
    """A graph input, a constant, or an output of a node.

    A value has identity; its name is only a label and is made unique when the graph is written. All setters are
    recorded in the graph's journal and mark what depends on the value for shape propagation.
    """

    # A type checker sees plain attributes where at run time a property over a slot journals assignments.
    if TYPE_CHECKING:
        name: str
        doc: str
        parameter: Parameter | None
        metadata: dict[str, str]
    else:
        __slots__ = (
            "__weakref__", "_data", "_doc", "_home", "_known", "_metadata", "_name", "_parameter", "_type", "_uses",
            "graph", "index", "inferred", "is_input", "producer",
        )  # fmt: skip
        name = journalled("_name")
        doc = journalled("_doc")
        parameter = journalled("_parameter")
        metadata = metadata_property()

    def __init__(
        self,
        type: ValueType = UNKNOWN,
        name: str = "",
        data: torch.Tensor | np.ndarray | None = None,
        parameter: Parameter | None = None,
    ) -> None:
        self._type: ValueType = type
        self._name = name
        self._data = data
        self._known: Known | None = None
        self._parameter = parameter
        self._uses: dict[Use, None] = {}
        self.graph: Graph | None = None
        self.producer: Node | None = None
        self.inferred: ValueType | None = None  # what the producer's rule gave last, beside what files and tracers tell
        self.index = 0
        self.is_input = False
        self._home: Graph | None = None  # the graph that an input or constant is in, or was in last
        self._doc = ""
        self._metadata: Metadata | None = None

    @classmethod
    def constant(cls, data: torch.Tensor, name: str = "", dtype: DType | None = None) -> Value:
        """A constant that shares `data`, to be added to a graph; `dtype` tells a sub-byte type from its carrier."""
        kind = TensorType.of(data) if dtype is None else TensorType(dtype, tuple(data.shape))
        return cls(kind, name, data)

    # -- what it is

    @property
    def type(self) -> ValueType:
        return self._type

    @type.setter
    def type(self, new: ValueType) -> None:
        if new == self._type:
            return
        self._record("_type")
        self._type = new
        self._touch_users()

    @property
    def data(self) -> torch.Tensor | None:
        """The tensor of a constant (or of an overridable graph input), else ``None``. Never written in place."""
        return self._data if isinstance(self._data, torch.Tensor) else None

    @data.setter
    def data(self, new: torch.Tensor | np.ndarray | None) -> None:
        self._record("_data")
        self._data = new
        self._touch_users()

    @property
    def strings(self) -> np.ndarray | None:
        """The elements of a constant string tensor, as an object array."""
        return self._data if isinstance(self._data, np.ndarray) else None

    @property
    def is_constant(self) -> bool:
        """Holds data that no caller can override."""
        return self._data is not None and not self.is_input

    @property
    def known(self) -> Known | None:
        """Contents of a small integer tensor as an object array of `Dim`, as far as shape propagation found them."""
        return self._known

    @known.setter
    def known(self, new: Known | None) -> None:
        if _same_known(self._known, new):
            return
        self._record("_known")
        self._known = new
        self._touch_users()

    # -- shorthands for tensors

    @property
    def tensor_type(self) -> TensorType:
        """The type, when it is a tensor's; an unknown tensor type otherwise."""
        return self._type if isinstance(self._type, TensorType) else UNKNOWN

    @property
    def shape(self) -> Shape | None:
        """The shape, or ``None`` when the rank is unknown. Symbolic dimensions are sympy expressions."""
        kind = self._type  # not through `tensor_type`: nothing is asked for as often
        return kind.shape if isinstance(kind, TensorType) else None

    @property
    def rank(self) -> int | None:
        shape = self.shape
        return None if shape is None else len(shape)

    @property
    def dtype(self) -> DType:
        kind = self._type
        return kind.dtype if isinstance(kind, TensorType) else DType.UNDEFINED

    # -- uses

    @property
    def uses(self) -> Collection[Use]:
        """The places that read this value, in the order in which they came to."""
        return self._uses.keys()

    @property
    def users(self) -> list[Node]:
        """The distinct nodes that read this value."""
        return list(dict.fromkeys(use.user for use in self._uses if not isinstance(use.user, NodeList)))

    @property
    def is_output(self) -> bool:
        """True when a graph returns this value."""
        return any(isinstance(use.user, NodeList) for use in self._uses)

    def replace_uses(self, new: Value, where: Callable[[Use], bool] | None = None) -> None:
        """Makes every reader of this value (or those for which `where` holds) read `new` instead; O(uses)."""
        if new is self:
            return
        for use in list(self._uses):
            if where is None or where(use):
                use.user.set_input(use.index, new)

    # -- bookkeeping

    @property
    def _keeper(self) -> Graph | None:
        home = self.graph or (self._home if self.producer is None else self.producer._home)
        return None if home is None else home._keeper

    def _record(self, slot: str) -> None:
        keeper = self._keeper
        if keeper is not None:
            old = getattr(self, slot)
            keeper._log(lambda: setattr(self, slot, old))

    def _touch_users(self) -> None:
        if self.graph is None:
            return
        root = self.graph.root
        marked = root._dirty
        for user, _ in self._uses:
            if user not in marked:
                root._mark(user)

    def __repr__(self) -> str:
        return f"%{self._name or '?'}: {self._type}"


def _same_known(a: Known | None, b: Known | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and all(x is y or (x is not None and x == y) for x, y in zip(a.flat, b.flat, strict=True))
