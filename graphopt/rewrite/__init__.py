"""Rewriting: the pattern language, its driver, and passes made of rules."""

from graphopt.rewrite.driver import apply_rules
from graphopt.rewrite.language import Patterns
from graphopt.rewrite.listing import RuleInfo, all_rules
from graphopt.rewrite.pattern import Pattern, Var, Variadic, is_trainable
from graphopt.rewrite.replace import replace, sweep
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Failure, Match, Result, Rule
from graphopt.rewrite.statistics import Statistics

__all__ = [
    "Failure", "Match", "Pattern", "Patterns", "Result", "RewritePass", "Rule", "RuleInfo", "Statistics", "Var",
    "Variadic", "all_rules", "apply_rules", "is_trainable", "replace", "sweep",
]  # fmt: skip
