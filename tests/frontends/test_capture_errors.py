"""Capture: what cannot be captured, and what people are told of it."""

import pytest
import torch
from torch import nn

from graphopt.errors import CaptureError
from graphopt.frontends.capture import capture
from tests.frontends.oracle import Wrap

torch.manual_seed(0)
X = torch.randn(4, 6)


class Decides(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


class Counts(nn.Module):
    def forward(self, x):
        for _ in range(int(x.argmax())):
            x = x + 1
        return x


class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, x):
        self.steps += 1
        return x + self.steps


class Leaves(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy())


class Fixes(nn.Module):
    def forward(self, x):
        return x + torch.ones(4, 6)


@pytest.mark.parametrize(
    ("module", "dynamic", "message"),
    [
        (Decides(), None, r"data-dependent control flow.*test_capture_errors.py:\d+\); use torch.where or torch.cond"),
        (Counts(), None, r"data-dependent control flow.*test_capture_errors.py:\d+\)"),
        (Remembers(), None, r"forward writes the module's own 'steps'; a graph keeps no state"),
        (Leaves(), None, r"numpy.*test_capture_errors.py:\d+\)"),
        (Fixes(), {"x": {0: "n"}}, r"dimension 0 of input 'x' \('n'\) cannot be dynamic.*test_capture_errors.py:\d+\)"),
        (nn.Linear(5, 3), None, r"torch.export: .*\(at .*test_capture_errors.py|torch.export: "),
        (Fixes(), {"y": {0: "n"}}, r"dynamic names 'y', which is no input; the inputs are x"),
        (Fixes(), {"x": {3: "n"}}, r"dynamic names dimension 3 of input 'x', whose shape is \(4, 6\)"),
        (Fixes(), {1: {0: "n"}}, r"dynamic names input 1; there are 1 positional inputs"),
        (Fixes(), {"x": "n"}, r"dynamic for input 'x' is 'n'; write it as"),
        (Fixes(), 7, r"dynamic is a int; write it as"),
    ],
)
def test_errors(module, dynamic, message, capfd):
    with pytest.raises(CaptureError, match=message) as caught:
        capture(module, (X,), dynamic=dynamic)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_wrong_arguments():
    with pytest.raises(CaptureError, match=r"do not fit Fixes\.forward: missing a required argument: 'x'"):
        capture(Fixes(), ())
    with pytest.raises(CaptureError, match=r"the examples disagree about 'n': 4 in input 'args\.0', 3 in 'args\.1'"):
        capture(Wrap(torch.add), (X, X[:3]), dynamic={"args": [{0: "n"}, {0: "n"}]})
