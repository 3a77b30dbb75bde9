"""What a graph knows of the torch module it came from, as ONNX metadata: written by `save`, read back by `load`.

ONNX has no place for parameter names' aliases, buffers, module paths and calling conventions. They travel as
``metadata_props`` under keys of ours, so that a captured graph that was saved and loaded is still the same graph, and
`to_torch` gives back the module with its ``state_dict``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, MutableMapping
from typing import Any

from torch import nn

from graphopt.errors import LoadError
from graphopt.ir import Leaf, Node, Origin, Parameter, Signature, Value

PARAMETER = "graphopt.parameter"
MODULE = "graphopt.module"
SOURCES = "graphopt.sources"
PASSES = "graphopt.passes"
SIGNATURE = "graphopt.signature"

# Names become attribute paths and, in torch.fx, program text: nothing that could end a string literal gets in.
_NAME = re.compile(r"[^\"'\\\x00-\x1f]+")


def value_notes(value: Value) -> Iterator[tuple[str, str]]:
    """Key and text for a constant that was a parameter or a buffer."""
    parameter = value.parameter
    if parameter is not None:
        fields = dataclasses.asdict(parameter)
        default = dataclasses.asdict(Parameter(""))
        yield PARAMETER, json.dumps({name: told for name, told in fields.items() if told != default[name]})


def read_value_notes(value: Value, metadata: MutableMapping[str, str]) -> None:
    """Takes the notes out of `metadata` and gives the value its parameter back."""
    text = metadata.pop(PARAMETER, None)
    if text is not None:
        fields = _loads(text, PARAMETER)
        try:
            lists = {name: tuple(fields.get(name, ())) for name in ("aliases", "places")}
            parameter = Parameter(**{**fields, **lists})
            names = [parameter.name, *parameter.aliases]
        except TypeError as error:
            raise _damaged(PARAMETER, str(error)) from error
        if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names):
            raise _damaged(PARAMETER, "a name holds quotes or control characters")
        if not all(type(place) is int for place in parameter.places):
            raise _damaged(PARAMETER, "a place is no integer")
        if any(hasattr(nn.Module, part) for name in names for part in name.split(".")):
            raise _damaged(PARAMETER, "no module can have a parameter of that name")
        value.parameter = parameter


def node_notes(node: Node) -> Iterator[tuple[str, str]]:
    """Keys and texts for a node's origin, as far as its name does not tell it."""
    origin = node.origin
    if origin.module:
        yield MODULE, origin.module
    if origin.sources and origin.sources != (node.name,):
        yield SOURCES, json.dumps(origin.sources)
    if origin.passes:
        yield PASSES, json.dumps(origin.passes)


def read_node_notes(node: Node, metadata: MutableMapping[str, str]) -> None:
    """Takes the notes out of `metadata` and gives the node its origin back."""
    module = metadata.pop(MODULE, "")
    sources = metadata.pop(SOURCES, None)
    passes = metadata.pop(PASSES, None)
    if module or sources or passes:
        node.origin = Origin(
            module,
            node.origin.sources if sources is None else _strings(sources, SOURCES),
            () if passes is None else _strings(passes, PASSES),
        )


def signature_note(signature: Signature | None) -> str | None:
    """The calling convention as text; ``None`` when there is none, or when it holds what no file can."""
    from torch.utils import _pytree as pytree

    if signature is None:
        return None
    try:
        return json.dumps(
            {
                "in_tree": pytree.treespec_dumps(signature.in_tree),
                "out_tree": pytree.treespec_dumps(signature.out_tree),
                "inputs": [_leaf(leaf) for leaf in signature.inputs],
                "outputs": [_leaf(leaf) for leaf in signature.outputs],
                "argument_names": list(signature.argument_names),
                "training": signature.training,
            }
        )
    except (NotImplementedError, TypeError, ValueError):
        return None  # containers or literals without a text form; the module is then called with a flat list


def read_signature_note(text: str, inputs: int, outputs: int) -> Signature | None:
    """The calling convention back from text; ``None`` when the file no longer has the inputs and outputs it names."""
    from torch.utils import _pytree as pytree

    fields = _loads(text, SIGNATURE)
    try:
        signature = Signature(
            pytree.treespec_loads(fields["in_tree"]),
            pytree.treespec_loads(fields["out_tree"]),
            tuple(_read_leaf(leaf) for leaf in fields["inputs"]),
            tuple(_read_leaf(leaf) for leaf in fields["outputs"]),
            tuple(fields["argument_names"]),
            bool(fields["training"]),
        )
    except (KeyError, TypeError, ValueError, NotImplementedError, AttributeError) as error:
        raise _damaged(SIGNATURE, f"{type(error).__name__}: {error}") from error
    told = {leaf.index for leaf in signature.inputs} - {None}, {leaf.index for leaf in signature.outputs} - {None}
    return signature if told == (set(range(inputs)), set(range(outputs))) else None


def _leaf(leaf: Leaf) -> Any:
    if leaf.index is None:
        return {"literal": leaf.literal}
    return {"number": leaf.index} if leaf.number else leaf.index


def _read_leaf(raw: Any) -> Leaf:
    if not isinstance(raw, dict):
        return Leaf(int(raw))
    return Leaf(int(raw["number"]), number=True) if "number" in raw else Leaf(None, raw["literal"])


def _loads(text: str, key: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise _damaged(key, str(error)) from error
    if not isinstance(fields, dict):
        raise _damaged(key, "not an object")
    return fields


def _strings(text: str, key: str) -> tuple[str, ...]:
    try:
        items = json.loads(text)
    except ValueError as error:
        raise _damaged(key, str(error)) from error
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise _damaged(key, "not a list of strings")
    return tuple(items)


def _damaged(key: str, why: str) -> LoadError:
    return LoadError(f"metadata '{key}' is damaged ({why})", hint="remove that metadata from the file, or save it anew")
