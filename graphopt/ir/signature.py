"""What surrounds a graph: how its module was called, and what its file said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from graphopt.ir.types import ValueType


@dataclass(frozen=True)
class Signature:
    """Calling convention of a captured module: pytrees around the flat lists of graph inputs and outputs.

    Attributes:
        in_tree: ``torch.utils._pytree.TreeSpec`` of ``(args, kwargs)``.
        out_tree: TreeSpec of the result.
        inputs: for each leaf of `in_tree` the index of its graph input, or the literal that it was (None, an int, ...).
        outputs: for each leaf of `out_tree` the index of its graph output, or the literal that it was.
        argument_names: names of the positional arguments of ``forward``.
        training: the mode in which the module was captured.
    """

    in_tree: Any
    out_tree: Any
    inputs: tuple[Leaf, ...]
    outputs: tuple[Leaf, ...]
    argument_names: tuple[str, ...] = ()
    training: bool = False


@dataclass(frozen=True)
class Leaf:
    """A leaf of a pytree: index of a graph input or output, or (``index is None``) a literal.

    Attributes:
        number: the module gives a Python number (``x.sum().item()``) where the graph's output is a tensor.
    """

    index: int | None
    literal: Any = None
    number: bool = False


@dataclass
class ModelInfo:
    """What an ONNX file says about the model as a whole; kept for the way out.

    Attributes:
        ir_version: of the file; 0 lets the writer choose.
        opset: standard opset of the file before it was upgraded; 0 when there was none.
        domains: versions of the custom domains in use.
        functions: serialized ``FunctionProto`` of the model-local functions.
        metadata: ``metadata_props``.
        declared: the file's types of inputs and outputs by name, where outputs have named dimensions. Names that
            callers know are not lost when shape propagation finds an expression for them.
        rest: serialized ``ModelProto`` of what has no place here (training information, device configurations).
    """

    ir_version: int = 0
    opset: int = 0
    producer_name: str = ""
    producer_version: str = ""
    domain: str = ""
    model_version: int = 0
    doc: str = ""
    domains: dict[str, int] = field(default_factory=dict)
    functions: tuple[bytes, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    declared: dict[str, ValueType] = field(default_factory=dict)
    rest: bytes = b""
