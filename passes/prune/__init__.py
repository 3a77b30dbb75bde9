"""Pruning passes."""

from graphopt.passes.prune.channels import PruneChannels
from graphopt.passes.prune.config import fit_config, rebuild
from graphopt.passes.prune.criteria import (
    Criterion,
    Evidence,
    all_criteria,
    criterion,
    find_criterion,
    flow_criterion,
    slice_criterion,
)
from graphopt.passes.prune.depth import PruneDepth
from graphopt.passes.prune.recipe import ApplyRecipe, LoadWeights, Recipe, load_recipe, save_recipe
from graphopt.passes.prune.regularise import Regularise
from graphopt.passes.prune.schedule import iterative
from graphopt.passes.prune.sensitivity import Sensitivity, allocate
from graphopt.passes.prune.sparsify import Sparsify

__all__ = [
    "ApplyRecipe", "Criterion", "Evidence", "LoadWeights", "PruneChannels", "PruneDepth", "Recipe", "Regularise",
    "Sensitivity", "Sparsify", "all_criteria", "allocate", "criterion", "find_criterion", "fit_config",
    "flow_criterion", "iterative", "load_recipe", "rebuild", "save_recipe", "slice_criterion",
]  # fmt: skip
