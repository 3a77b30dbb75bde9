"""Recipes: what a run pruned, in a file, to be done again to a fresh model of the same class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from graphopt.analysis.cost import is_weight
from graphopt.analysis.coupling import ChannelCoupling
from graphopt.errors import DataError, SaveError, nearest
from graphopt.ir import Graph, Value
from graphopt.ir.names import unique_names
from graphopt.passes.prune.blocks import find_blocks
from graphopt.passes.prune.removal import Removal
from graphopt.pipeline import Changes, Context, Contract, Pass, Report, register

_FORMAT = "graphopt-recipe-1"


@dataclass(frozen=True)
class Recipe:
    """What was pruned, in terms of the original.

    Attributes:
        kept: for constants that lost slices, by name and dimension, the indices that stay.
        blocks: names of residual blocks that are gone.
        weights: weights of the pruned graph by name; empty when the recipe has none.
    """

    kept: Mapping[str, Mapping[int, list[int]]]
    blocks: tuple[str, ...] = ()
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, report: Report, graph: Graph | None = None) -> Recipe:
        """The recipe of a run; with its graph also the weights that came out."""
        rows = [row for entry in report.passes for row in entry.details.get("blocks", ()) if row["removed"]]
        weights = (
            {} if graph is None else {v.name: v.data for v in graph.constants if v.data is not None and is_weight(v)}
        )
        return cls(report.kept, tuple(row["block"] for row in rows), weights)


def save_recipe(report: Report, path: str | Path, graph: Graph | None = None) -> None:
    """Writes what a run pruned to a file.

    Args:
        report: what `graphopt.optimize` returned.
        path: a name ending in .json (text, without weights) or .safetensors.
        graph: the graph that came out; its weights go into a .safetensors file as well.

    Raises:
        SaveError: another ending, or weights for a .json file.
    """
    path, recipe = Path(path), Recipe.of(report, graph)
    if path.suffix == ".json" and graph is None:
        kept = {name: {str(dim): indices for dim, indices in dims.items()} for name, dims in recipe.kept.items()}
        path.write_text(json.dumps({"format": _FORMAT, "blocks": recipe.blocks, "kept": kept}))
        return
    if path.suffix != ".safetensors":
        raise SaveError(f"a recipe cannot be written to '{path}'", hint="take .safetensors, or .json without weights")
    from safetensors.torch import save_file

    tensors = {
        f"kept/{dim}/{name}": torch.tensor(indices)
        for name, dims in recipe.kept.items()
        for dim, indices in dims.items()
    }
    # Tied tensors are written once for each name: safetensors refuses shared memory.
    tensors.update({f"weight/{name}": data.contiguous().clone() for name, data in recipe.weights.items()})
    save_file(tensors, path, {"format": _FORMAT, "blocks": json.dumps(recipe.blocks)})


def load_recipe(path: str | Path) -> Recipe:
    """Reads a recipe. Raises DataError when the file is none."""
    path = Path(path)
    if not path.exists():
        raise DataError(f"no such file: {path}", hint="save_recipe writes one")
    try:
        found = _read_json(path) if path.suffix == ".json" else _read_safetensors(path)
    except Exception as error:  # the readers of either format raise errors of many kinds
        what = f"{path} is no recipe ({type(error).__name__}: {error})"
        raise DataError(what, hint="save_recipe writes one") from error
    if found is None:
        raise DataError(f"{path} is no recipe", hint="save_recipe writes one")
    return found


def _read_json(path: Path) -> Recipe | None:
    content = json.loads(path.read_text())
    if content.get("format") != _FORMAT:
        return None
    kept = {name: {int(dim): list(ix) for dim, ix in dims.items()} for name, dims in content["kept"].items()}
    return Recipe(kept, tuple(content["blocks"]))


def _read_safetensors(path: Path) -> Recipe | None:
    from safetensors import safe_open

    kept: dict[str, dict[int, list[int]]] = {}
    weights: dict[str, torch.Tensor] = {}
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            return None
        for key in file.keys():  # noqa: SIM118 - no mapping
            kind, _, name = key.partition("/")
            if kind == "kept":
                dim, _, name = name.partition("/")
                kept.setdefault(name, {})[int(dim)] = file.get_tensor(key).tolist()
            else:
                weights[name] = file.get_tensor(key)
    return Recipe(kept, tuple(json.loads(metadata["blocks"])), weights)


@register("apply-recipe")
@dataclass(frozen=True)
class ApplyRecipe(Pass):
    """Prune a fresh model as a recipe says; passes that ran before the pruning have to run before this as well.

    Attributes:
        file: the recipe, written by `save_recipe`.
    """

    contract: ClassVar[Contract] = Contract.MASKED

    file: Path

    def run(self, graph: Graph, context: Context) -> Changes:
        unique_names(graph)
        recipe = load_recipe(self.file)
        coupling = context.get(ChannelCoupling)
        components = _components(coupling, recipe)
        blocks = {block.name: block for block in find_blocks(graph)}
        for name in recipe.blocks:
            if name not in blocks:
                raise _misfit(f"the recipe removes block '{name}', which the model has not", name, blocks)
        removal = Removal(graph, coupling, components)
        removal.apply()
        for name in recipe.blocks:
            blocks[name].remove(graph)
        note = f"{len(components)} components and {len(recipe.blocks)} blocks removed"
        details = {"restricted": removal.restricted, "zeroed": [blocks[name].branch.name for name in recipe.blocks]}
        modified = bool(len(components) or recipe.blocks)
        return Changes(modified, {"components": len(components)}, (note,), removal.kept_constants, details)


def _components(coupling: ChannelCoupling, recipe: Recipe) -> np.ndarray:
    """The components whose removal leaves what the recipe keeps. Raises DataError when there are none such."""
    values = {value.name: value for value in coupling.graph.constants}
    gone = np.zeros(coupling.atoms.components, dtype=bool)
    wanted: dict[tuple[str, int], tuple[int, np.ndarray]] = {}
    for name, dims in recipe.kept.items():
        if name not in values:
            raise _misfit(f"the recipe prunes '{name}', which the model has not", name, values)
        for dim, indices in dims.items():
            extent = coupling.extents.of(values[name], dim)
            size = 0 if extent is None else coupling.extents.sizes[extent]
            if extent is None or not indices or max(indices) >= size or min(indices) < 0:
                raise DataError(
                    f"the recipe keeps index {max(indices, default=0)} of dimension {dim} of '{name}', size {size}",
                    where=name, hint="apply it to a model of the class and size that it was made from",
                )  # fmt: skip
            mask = np.zeros(size, dtype=bool)
            mask[indices] = True
            wanted[name, dim] = extent, mask
            for factor in coupling.atoms.factors[extent]:
                lost = ~mask.reshape(-1, factor.size, factor.stride).any((0, 2))
                gone[coupling.atoms.component[factor.first + np.flatnonzero(lost)]] = True
    components = np.flatnonzero(gone)
    masks = coupling.keep_masks(components)
    for (name, dim), (extent, mask) in wanted.items():
        got = masks.get(extent, np.ones(len(mask), dtype=bool))
        if not np.array_equal(got, mask) or coupling.atoms.frozen[components].any():
            raise DataError(
                f"the recipe keeps {int(mask.sum())} indices of dimension {dim} of '{name}' that are not free to stay "
                "alone in this model",
                where=name, hint="apply it to a model of the class that it was made from, after the same passes",
            )  # fmt: skip
    return components


def _misfit(what: str, name: str, known: Mapping[str, Any]) -> DataError:
    hint = nearest(name, known) or "apply it to a model of the class that it was made from, after the same passes"
    return DataError(what, where=name, hint=hint)


@register("load-weights")
@dataclass(frozen=True)
class LoadWeights(Pass):
    """Take the weights that a recipe was saved with.

    Attributes:
        file: the recipe (.safetensors), written by `save_recipe` with a graph.
    """

    contract: ClassVar[Contract] = Contract.TRAINED

    file: Path

    def run(self, graph: Graph, context: Context) -> Changes:
        unique_names(graph)
        weights = load_recipe(self.file).weights
        if not weights:
            raise DataError(f"{self.file} holds no weights", hint="save_recipe(report, path, graph) writes them")
        values: dict[str, Value] = {value.name: value for value in graph.constants if is_weight(value)}
        for name, value in values.items():
            if name not in weights:
                raise _misfit(f"the recipe has no weight '{name}'", name, weights)
            data = value.data
            if data is None or weights[name].shape != data.shape or weights[name].dtype != data.dtype:
                shape = None if data is None else list(data.shape)
                raise DataError(
                    f"'{name}' is {list(weights[name].shape)} in the recipe and {shape} in the model", where=name,
                    hint="run apply-recipe with the same file before it",
                )  # fmt: skip
        changed = 0
        for name, value in values.items():
            if value.data is not None and not torch.equal(value.data, weights[name]):
                value.data = weights[name]
                changed += 1
        return Changes(changed > 0, {"weights": changed})
