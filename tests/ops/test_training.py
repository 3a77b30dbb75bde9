"""Optimizer steps against onnx.reference and torch.optim."""

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from graphopt.errors import OptionError, ShapeError
from graphopt.ir import DType, TensorType
from graphopt.ops import execute, record_of
from graphopt.ops.training import DOMAIN, adam
from tests.ops.values import check, model_of, node_of

RNG = np.random.default_rng(0)
RATE = np.array(0.1, np.float32)


def arrays(*shapes):
    return [np.abs(RNG.standard_normal(shape)).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize("shapes", [[(2, 3)], [(2, 3), (4,)]])
@pytest.mark.parametrize(
    ("op", "kinds", "attributes"),
    [("Adagrad", 3, {"norm_coefficient": 0.01, "epsilon": 1e-3, "decay_factor": 0.1}),
     ("Adam", 4, {"norm_coefficient": 0.01, "alpha": 0.95, "beta": 0.85, "epsilon": 1e-2,
                  "norm_coefficient_post": 0.02}),
     ("Momentum", 3, {"norm_coefficient": 0.01, "alpha": 0.95, "beta": 0.1, "mode": "standard"}),
     ("Momentum", 3, {"norm_coefficient": 0.01, "alpha": 0.95, "beta": 1.0, "mode": "nesterov"})],
)  # fmt: skip
def test_steps(op, kinds, attributes, shapes, step):
    inputs = [RATE, np.array(step, np.int64), *arrays(*shapes * kinds)]
    outputs = (kinds - 1) * len(shapes)
    model = model_of(op, inputs, outputs, DOMAIN, **attributes)
    want = ReferenceEvaluator(model).run(None, {f"x{i}": each for i, each in enumerate(inputs)})
    check(op, inputs, outputs, [each.astype(np.float32) for each in want], DOMAIN, **attributes)


def test_adam_as_torch():
    x, gradient = (torch.from_numpy(a) for a in arrays((5,), (5,)))
    parameter = torch.nn.Parameter(x.clone())
    parameter.grad = gradient
    torch.optim.Adam([parameter], lr=0.1, betas=(0.9, 0.999), eps=0.0).step()
    got, _, _ = adam(torch.tensor(0.1), torch.tensor(1), x, gradient, torch.zeros(5), torch.zeros(5))
    torch.testing.assert_close(got, parameter.detach(), rtol=1e-4, atol=1e-5)


def test_what_is_refused():
    kinds = [TensorType(DType.FLOAT32, ())] * 4
    node = node_of("Adagrad", *kinds, domain=DOMAIN)
    with pytest.raises(ShapeError, match="2 tensors are not 3"):
        record_of(node).infer(node)
    attributes = {"alpha": 0.9, "beta": 1.0, "norm_coefficient": 0.0, "mode": "heavy"}
    with pytest.raises(OptionError, match="standard or nesterov"):
        execute(node_of("Momentum", *kinds, domain=DOMAIN, **attributes), [torch.zeros(())] * 5)
