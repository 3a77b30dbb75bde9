from collections import Counter

import pytest

from graphopt.pipeline import all_passes
from graphopt.rewrite import RewritePass
from tests.passes.fuse import (
    activation_cases,
    affine_cases,
    attention_cases,
    batch_norm_cases,
    cell_cases,
    conv_cases,
    linear_cases,
    norm_cases,
    pad_cases,
    rotary_cases,
)
from tests.passes.rule_cases import check, check_instance
from tests.passes.runtime import rule_cases as runtime_cases
from tests.passes.simplify import quantized_cases, selection_cases, strength_cases, transpose_cases
from tests.passes.simplify import rule_cases as simplify_cases
from tests.passes.substitute import rule_cases as substitute_cases

TABLES = (
    simplify_cases, selection_cases, transpose_cases, strength_cases, quantized_cases, batch_norm_cases, affine_cases,
    pad_cases, linear_cases, conv_cases, activation_cases, norm_cases, attention_cases, rotary_cases, cell_cases,
    substitute_cases, runtime_cases,
)  # fmt: skip
CASES = [case for table in TABLES for case in table.CASES]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rule(case):
    check(case)


@pytest.mark.parametrize("case", [case for case in CASES if case.hits], ids=str)
def test_twenty_random_instances(case):
    for seed in range(1, 21):
        check_instance(case, seed)


def test_every_rule_has_a_match_and_a_near_miss():
    rules = {
        rule
        for cls in all_passes().values()
        if issubclass(cls, RewritePass) and cls.__module__.startswith("graphopt.passes.")
        for rule in cls.rules
    }
    matches = Counter(case.kind for case in CASES if case.hits)
    misses = Counter(case.kind for case in CASES if not case.hits)
    assert rules
    assert not [rule.__name__ for rule in rules if not matches[rule]], "rules without a match"
    assert not [rule.__name__ for rule in rules if not misses[rule]], "rules without a near miss"


def test_every_rule_says_what_it_does_and_is_named_once():
    named = Counter()
    for cls in all_passes().values():
        if issubclass(cls, RewritePass) and cls.__module__.startswith("graphopt.passes."):
            for rule in cls.rules:
                named[rule.name] += 1
                assert (rule.__doc__ or "").strip(), rule
    assert not [name for name, count in named.items() if count > 1]
