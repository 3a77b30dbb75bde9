from collections import Counter

import pytest

from graphopt.pipeline import all_passes
from graphopt.rewrite import RewritePass
from tests.passes.fuse.cell_cases import CASES as CELLS
from tests.passes.fuse.conv_cases import CASES as CONVOLUTIONS
from tests.passes.fuse.recognition_cases import CASES as RECOGNITION
from tests.passes.fuse.rotary_cases import CASES as ROTARY
from tests.passes.fuse.rule_cases import CASES as FUSE
from tests.passes.rule_cases import check, check_instance
from tests.passes.runtime.rule_cases import CASES as RUNTIME
from tests.passes.simplify.quantized_cases import CASES as QUANTIZED
from tests.passes.simplify.rule_cases import CASES as SIMPLIFY
from tests.passes.simplify.selection_cases import CASES as SELECTIONS
from tests.passes.substitute.rule_cases import CASES as SUBSTITUTES

CASES = [
    *SIMPLIFY,
    *SELECTIONS,
    *FUSE,
    *CONVOLUTIONS,
    *RECOGNITION,
    *ROTARY,
    *QUANTIZED,
    *SUBSTITUTES,
    *RUNTIME,
    *CELLS,
]


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
