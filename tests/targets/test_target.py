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
        ("[operators.Conv]", "[operators.Cnov]", "operators has 'Cnov', which is not an operator of ONNX"),
        ('doc = "A test."', 'doc = "A test."\nabsorb = ["Relo"]', "absorb has 'Relo'"),
        ('doc = "A test."', 'doc = "A test."\nopset = "13"', "opset is '13', and has to be a whole number"),
        ('doc = "A test."', 'doc = "A test."\nopset = true', "opset is True, and has to be a whole number"),
        ('doc = "A test."', 'doc = "A test."\nwithout = ["Conv"]', "extends is missing"),
        ('doc = "A test."', 'doc = "A test."\nweight_only = "Q"', "weight_only has 'Q', not one of Dequ"),
        ("symmetric = true", "symmetric = 1", "weight.symmetric is 1, and has to be true or false"),
        ("symmetric = true", "symmetric = true, block = 8, per_channel = true", "leave out per_channel"),
        ('dtype = "uint8"', 'dtype = "uint8", symmetric = true', "activation.symmetric is for signed types"),
        ('dtype = "uint8"', 'dtype = "uint8", per_channel = true', "per_channel and block are for weight"),
        ('dtype = "uint8"', 'dtype = "float8e4m3fn"', "activation.symmetric must be true"),
        ('dtype = "uint8"', 'dtype = "float16"', "integers of 2 to 16 bits, or to float8"),
        ('doc = "A test."', 'doc = "A test."\nopset = 13\nbias = {dtype = "int8"}', "bias.dtype has 'int8'"),
        ('role = "compute"', 'role = "compute"\nfloat_output = "yes"', "float_output is 'yes', and has to be true or"),
        ('role = "compute"', 'role = "compute"\nshare_scale = "all"', "share_scale has 'all', not one of no, alike"),
        ('role = "compute"', 'role = "compute"\naxis = "last"', "axis is 'last', and has to be a whole number or a t"),
        ('role = "compute"', 'role = "compute"\naxis = { 0 = 1 }', "operators.Conv.axis.attribute is missing"),
        ('role = "compute"', 'role = "compute"\nfloat_absorb.Swsh = { call = 1 }', "float_absorb has 'Swsh'"),
        ('role = "compute"', 'role = "compute"\nfloat_absorb.Tanh = { calls = 1 }', "float_absorb.Tanh.calls is not"),
        ('role = "compute"', 'role = "compute"\noutput = { scale = 0 }', "output.scale is 0, not above 0"),
        ('role = "compute"', 'role = "compute"\noutput = { zero_point = 0 }', "operators.Conv.output.scale is missing"),
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


def test_a_file_that_extends_another(tmp_path):
    (tmp_path / "base.toml").write_text(MINIMAL + 'min_outputs = 8\n[operators.Add]\nrole = "join"\ninputs = []\n')
    path = tmp_path / "mine.toml"
    path.write_text(
        'extends = "base.toml"\nname = "heir"\nwithout = ["Add"]\n[weight]\nbits = 5\n'
        '[operators.Conv]\nmin_outputs = 4\n[operators.MatMul]\nrole = "compute"\ninputs = ["operand"]\n'
    )
    target = load_target(str(path))
    assert (target.name, target.doc) == ("heir", "A test.")
    assert set(target.operators) == {"Conv", "MatMul"}
    assert target.operators["Conv"].min_outputs == 4
    assert target.operators["Conv"].inputs == ("activation", "weight")
    assert target.weight == Scheme(DType.INT8, symmetric=True, bits=5)


def test_a_file_that_extends_a_target_that_comes_along(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "ort-cpu"\nname = "mine"\n[operators.Conv.cost]\nintegers = { mac = 1.0 }\n')
    mine, base = load_target(str(path)), load_target("ort-cpu")
    assert mine.operators["Conv"].cost.integers == {**base.operators["Conv"].cost.integers, "mac": 1.0}
    assert mine.operators["Conv"].cost.floats == base.operators["Conv"].cost.floats
    assert mine.operators["Gemm"] == base.operators["Gemm"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('extends = "mine.toml"', "mine.toml extends itself"),
        ('extends = "yours.toml"', "extends itself"),
        ('extends = "ort-cup"', "no target 'ort-cup'"),
        ('extends = "ort-cpu"\nwithout = ["Cnov"]', "without has 'Cnov', which ort-cpu has no rule for"),
        (
            'extends = "ort-cpu"\nopset = 19\nweight = { dtype = "int4" }',
            "weight needs opset 21 (int4), and opset",
        ),
        ('extends = "ort-cpu"\nopset = 19\n[weight]\nblock = 32\nper_channel = false', "needs opset 21 (int8, blocks)"),
    ],
)
def test_inheritance_that_does_not_work_out(tmp_path, text, complaint):
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\n{text}\n')
    (tmp_path / "yours.toml").write_text('name = "yours"\nextends = "mine.toml"\n')
    with pytest.raises(OptionError) as caught:
        load_target(str(path))
    assert complaint in str(caught.value)


def test_costs_decide_only_where_the_target_has_some():
    assert {name for name in available() if load_target(name).costed} == {"ort-cpu", "ort-cpu-avx2"}


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
        (Scheme(DType.FLOAT8E4M3FN, symmetric=True), (-448, 448)),
    ],
)
def test_limits(scheme, limits):
    assert scheme.limits == limits
