"""Why there is nothing to quantize: the types that operators have, where they are, and that none is there."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphopt as go

HEAD = '<ir_version: 8, opset_import: ["": 18]>\n'


def loaded(body, kind=np.float32):
    model = onnx.parser.parse_model(HEAD + body)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4), kind), "w"))
    return go.load(model)


INSIDE = """g (bool c, float[2, 4] x) => (float[2, 4] y) {
    y = If (c) <then_branch = t () => (float[2, 4] p) { p = MatMul (x, w) },
                else_branch = e () => (float[2, 4] q) { q = Neg (x) }> }"""


@pytest.mark.parametrize(
    ("graph", "words"),
    [(lambda: loaded("g (float16[2, 4] x) => (float16[2, 4] y) { y = MatMul (x, w) }", np.float16),
      "1 of float16, where float32 is quantized"),
     (lambda: loaded(INSIDE), "1 in bodies of control flow, where nothing is quantized"),
     (lambda: loaded("g (float[2, 4] x) => (float[2, 4] y) { y = Neg (x) }"), "the graph has none of "),
     (lambda: loaded("g (float[2, 4] x, float[4, 4] v) => (float[2, 4] y) { y = MatMul (x, v) }"),
      "1 ignored, or of weights that are no constants")],
)  # fmt: skip
@pytest.mark.parametrize("step", ["insert-qdq{target=openvino}", "insert-weight-qdq"])
def test_why(graph, words, step):
    if ("no constants" in words and "weight" not in step) or ("bodies" in words and "weight" in step):
        pytest.skip("that is quantized")
    with pytest.raises(go.GraphoptError) as error:
        go.optimize(graph(), step)
    assert words in str(error.value)
    assert "already" not in str(error.value)
