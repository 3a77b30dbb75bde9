import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import PipelineError
from graphopt.pipeline import Step, parse_steps

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=6
)
names = st.from_regex(r"[a-z][a-z0-9]*(-[a-z0-9]+){0,2}", fullmatch=True)
steps = st.lists(st.builds(Step, names, st.dictionaries(names, values, max_size=3)), min_size=1, max_size=4)


@given(steps)
def test_text_form_reads_back(pipeline):
    assert parse_steps(",".join(map(str, pipeline))) == pipeline


@given(st.text(alphabet="ab-{}[],=:\"'1.\\ \n"))
def test_any_text_is_read_or_refused_at_a_column(text):
    try:
        parse_steps(text)
    except PipelineError as error:
        column = int(re.search(r"at column (\d+)", error.what)[1])
        assert 1 <= column <= len(text) + 1


def test_what_values_mean():
    (step,) = parse_steps(
        "a{i=1,f=.5,e=1e-3,t=true,n=none,w=word,q=\"two words\",s='1',l=[1,[x]],m={k:1,2:v},p=layer1.*}"
    )
    assert step.options == {
        "i": 1, "f": 0.5, "e": 1e-3, "t": True, "n": None, "w": "word", "q": "two words", "s": "1", "l": [1, ["x"]],
        "m": {"k": 1, 2: "v"}, "p": "layer1.*",
    }  # fmt: skip
    assert isinstance(step.options["i"], int)


def test_spaces_and_emptiness():
    assert parse_steps(" a , b { x = 1 } ") == [Step("a"), Step("b", {"x": 1})]
    assert parse_steps("") == parse_steps("  \n") == []
    assert parse_steps("a{}") == [Step("a")]
    assert str(Step("a", {"round_to": 8})) == "a{round-to=8}"


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [("a,", 3, "expected a pass name"), (",a", 1, "expected a pass name"), ("a{", 3, "expected an option name"),
     ("a{x}", 4, "expected '='"), ("a{x=}", 5, "expected a value"), ("a{x=1", 6, "expected ','"),
     ("a{x=1 y=2}", 7, "expected ','"), ("a b", 3, "unexpected 'b'"), ("a{x=[1,}", 8, "expected a value"),
     ("a}", 2, "unexpected '}'"), ("a{x='1}", 5, "unreadable"), ("a{x=1,y=2,x=3}", 11, "'x' is given twice"),
     ("a{round-to=1,round_to=2}", 14, "'round_to' is given twice"), ("a{x={k=1}}", 7, "expected ':'")],
)  # fmt: skip
def test_errors_name_the_column(text, column, words):
    with pytest.raises(PipelineError, match=re.escape(words)) as caught:
        parse_steps(text)
    assert f"at column {column} of the pipeline '{text}'" in caught.value.what
    assert "name{option=value" in caught.value.hint
