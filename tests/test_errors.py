import copy
import inspect
import pickle

import pytest

from graphopt import errors
from graphopt.errors import GraphoptError, LoadError, PipelineError, nearest

ALL_ERRORS = [member for _, member in inspect.getmembers(errors, inspect.isclass) if issubclass(member, GraphoptError)]


@pytest.mark.parametrize(
    ("where", "hint", "expected"),
    [
        (None, None, "no such file"),
        ("m.onnx", None, "no such file (at m.onnx)"),
        (None, "check the path", "no such file; check the path"),
        ("m.onnx", "check the path", "no such file (at m.onnx); check the path"),
        ("", "", "no such file"),
    ],
)
def test_text_has_the_parts_that_are_known(where, hint, expected):
    assert str(LoadError("no such file", where=where, hint=hint)) == expected


def test_text_is_one_line_whatever_the_parts():
    error = GraphoptError("first\n\n  second\r\n", where="a\nb", hint="x\n  y")
    assert str(error) == "first second (at a b); x y"
    assert error.what == "first\n\n  second\r\n"


def test_where_and_hint_are_keyword_only():
    with pytest.raises(TypeError):
        GraphoptError("what", "where")


@pytest.mark.parametrize("kind", ALL_ERRORS)
@pytest.mark.parametrize("duplicate", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_survives_copy_and_pickle_as_between_processes(kind, duplicate):
    error = kind("what", where="where", hint="hint")
    twin = duplicate(error)
    assert type(twin) is kind
    assert (twin.what, twin.where, twin.hint) == ("what", "where", "hint")
    assert str(twin) == str(error)


def test_all_names_every_error():
    assert set(errors.__all__) == {kind.__name__ for kind in ALL_ERRORS} | {"nearest"}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("prune-chanels", "did you mean 'prune-channels'?"),
        ("prune_channels", "did you mean 'prune-channels'?"),
        ("FUSE", "did you mean 'fuse'?"),
        ("quant", "did you mean 'Quantize'?"),
        ("zzz", None),
        ("", None),
    ],
)
def test_nearest_name(name, hint):
    assert nearest(name, iter(["fuse", "prune-channels", "Quantize"])) == hint


def test_nearest_of_nothing():
    assert nearest("fuse", []) is None


def test_nearest_serves_as_a_hint():
    error = PipelineError("unknown pass 'fuze'", where="fuze", hint=nearest("fuze", ["fuse"]))
    assert str(error) == "unknown pass 'fuze' (at fuze); did you mean 'fuse'?"
