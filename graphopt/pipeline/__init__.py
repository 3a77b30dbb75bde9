"""Pipelines: passes, their registry and text form, the manager, its instruments and its report."""

from graphopt.pipeline.base import Changes, Contract, Pass
from graphopt.pipeline.context import Context
from graphopt.pipeline.data import Batch, Data
from graphopt.pipeline.manager import describe, resolve, run_pipeline
from graphopt.pipeline.optimize import optimize
from graphopt.pipeline.registry import Alias, all_aliases, all_passes, find_pass, register, register_alias
from graphopt.pipeline.report import CostSummary, PassReport, Report
from graphopt.pipeline.text import Step, parse_steps

__all__ = [
    "Alias", "Batch", "Changes", "Context", "Contract", "CostSummary", "Data", "Pass", "PassReport", "Report", "Step",
    "all_aliases", "all_passes", "describe", "find_pass", "optimize", "parse_steps", "register", "register_alias",
    "resolve", "run_pipeline",
]  # fmt: skip
