"""Simplification: fewer nodes, the same numbers. One pass, one file; importing this package registers them."""

from graphopt.passes.simplify.cancel_transposes import CancelTransposes
from graphopt.passes.simplify.eliminate_dead import EliminateDead
from graphopt.passes.simplify.eliminate_identity import EliminateIdentity
from graphopt.passes.simplify.fix_shapes import FixShapes
from graphopt.passes.simplify.fold_constants import FoldConstants
from graphopt.passes.simplify.inline_if import InlineIf
from graphopt.passes.simplify.merge_chains import MergeChains
from graphopt.passes.simplify.merge_qdq import MergeQuantizers
from graphopt.passes.simplify.merge_selections import MergeSelections
from graphopt.passes.simplify.reduce_strength import ReduceStrength
from graphopt.passes.simplify.resolve_shapes import ResolveShapes
from graphopt.passes.simplify.share_constants import ShareConstants
from graphopt.passes.simplify.share_subexpressions import ShareSubexpressions
from graphopt.passes.simplify.unroll_loops import UnrollLoops
from graphopt.pipeline import register_alias

register_alias(
    "simplify",
    "inline-if,resolve-shapes,fold-constants,unroll-loops,eliminate-identity,merge-qdq,merge-selections,merge-chains,"
    "cancel-transposes,reduce-strength,share-constants,share-subexpressions,eliminate-dead",
    repeat=4,
    doc="Make the graph smaller without changing what it computes, again and again until nothing changes.",
    levels={
        "fuse": "simplify,fuse",
        # For inference alone: what a module would need to be trained again goes, too.
        "max": "simplify{dropout=true,parameters=true,captured=true},fuse",
    },
)

__all__ = [
    "CancelTransposes", "EliminateDead", "EliminateIdentity", "FixShapes", "FoldConstants", "InlineIf", "MergeChains",
    "MergeQuantizers", "MergeSelections", "ReduceStrength", "ResolveShapes", "ShareConstants", "ShareSubexpressions",
    "UnrollLoops",
]  # fmt: skip
