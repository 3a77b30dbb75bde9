"""Targets: the ones that come with graphopt, and files that are not as they should be."""

import pytest

from graphopt.errors import OptionError
from graphopt.ir import DType
from graphopt.targets import Scheme, available, load_target

MINIMAL = """
name = "mine"
doc = "A test."
activation = { dtype = "uint8" }
weight = { dtype = "int8", symmetric = true }
[operators.Conv]
role = "compute"
inputs = ["activation", "weight"]
"""


def test_every_target_that_comes_along_loads():
    assert "ort-cpu" in available()
    for name in available():
        target = load_target(name)
        assert target.name == name
        assert target.doc
        assert any(rule.role == "compute" for rule in target.operators.values())


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    target = load_target(str(path))
    assert target.bias is None
    assert target.operators["Conv"].input_role(1) == "weight"
    assert target.operators["Conv"].cost.floats == {}
    path.write_text(MINIMAL.replace("mine", "yours"))
    assert load_target(str(path)).name == "yours"  # read anew


def test_unknown_target_names_the_nearest():
    with pytest.raises(OptionError, match=r"no target 'ort-cpy'.*did you mean 'ort-cpu'"):
        load_target("ort-cpy")
    with pytest.raises(OptionError, match=r"no target 'nowhere\.toml'"):
        load_target("nowhere.toml")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('name = "mine"', "", "name is missing"),
        ('dtype = "uint8"', 'dtype = "uint9"', "activation.dtype is 'uint9'"),
        ('dtype = "uint8"', 'dtypes = "uint8"', "activation.dtypes is not a key; did you mean 'dtype'"),
        ("symmetric = true", "symmetric = true, bits = 9", "weight.bits is 9; int8 has 2 to 8"),
        ('role = "compute"', 'role = "works"', "operators.Conv.role has 'works'"),
        ('role = "compute"', "", "operators.Conv.role is missing"),
        ('"weight"]', '"weights"]', "operators.Conv.inputs has 'weights'"),
        ('role = "compute"', 'role = "compute"\ncost.floats = { macs = 1 }', "cost.floats.macs is not a key"),
        ('role = "compute"', 'role = "compute"\nacsis = 1', "operators.Conv.acsis is not a key; did you mean 'axis'"),
        ('doc = "A test."', 'doc = "A test."\nabsorbs = []', "absorbs is not a key; did you mean 'absorb'"),
        ("[operators.Conv]", "[operators.Conv", "not valid"),
    ],
)
def test_a_file_that_is_not_valid_names_the_key(tmp_path, old, new, complaint):
    path = tmp_path / "mine.toml"
    assert old in MINIMAL
    path.write_text(MINIMAL.replace(old, new))
    with pytest.raises(OptionError) as caught:
        load_target(str(path))
    assert complaint in str(caught.value)
    assert "mine.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "limits"),
    [
        (Scheme(DType.UINT8), (0, 255)),
        (Scheme(DType.UINT8, bits=7), (0, 127)),
        (Scheme(DType.INT8), (-128, 127)),
        (Scheme(DType.INT8, symmetric=True), (-127, 127)),
        (Scheme(DType.INT8, symmetric=True, bits=7), (-63, 63)),
        (Scheme(DType.UINT16), (0, 65535)),
        (Scheme(DType.INT4, symmetric=True), (-7, 7)),
    ],
)
def test_limits(scheme, limits):
    assert scheme.limits == limits
