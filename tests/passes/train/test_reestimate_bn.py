import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.errors import DataError, OptionError


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5), nn.BatchNorm1d(5)
    return nn.Sequential(*layers).eval()


def images(count=4, rows=16):
    generator = torch.Generator().manual_seed(2)
    return [(2 + 3 * torch.randn(rows, 3, 6, 6, generator=generator),) for _ in range(count)]


def captured(module):
    return go.capture(module, (torch.randn(2, 3, 6, 6),), dynamic=[{0: "batch"}])


def test_statistics_are_those_of_the_data():
    module, data = network(), images()
    graph = captured(module)
    report = go.optimize(graph, "reestimate-bn", data)
    assert report.passes[-1].counts == {"statistics": 2}
    got = go.to_torch(graph)
    first = torch.cat([module[0](x) for (x,) in data]).detach()
    torch.testing.assert_close(got.state_dict()["1.running_mean"], first.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    with torch.no_grad():  # behind the first one's batch statistics, as torch's own training mode has it
        module.train()
        for norm in (module[1], module[5]):
            norm.reset_running_stats()
            norm.momentum = None
        for (x,) in data:
            module(x)
        module.eval()
        torch.testing.assert_close(got(data[0][0]), module(data[0][0]), rtol=1e-4, atol=1e-5)


def test_an_onnx_model_and_what_it_wins():
    """Weights scaled by half are made up for by new statistics."""
    module, data = network(), images()
    want = go.load(go.to_onnx(captured(module)))
    go.optimize(want, "reestimate-bn", data)
    with torch.no_grad():
        module[0].weight *= 0.5
        module[0].bias *= 0.5
    graph = go.load(go.to_onnx(captured(module)))
    go.optimize(graph, "reestimate-bn", data)
    for x in data[0]:
        torch.testing.assert_close(go.to_torch(graph)(x), go.to_torch(want)(x), rtol=1e-3, atol=1e-3)


def test_nothing_to_measure():
    graph = captured(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()))
    assert go.optimize(graph, "reestimate-bn", images(1)).passes[-1].skipped
    with pytest.raises(DataError, match="needs data"):
        go.optimize(captured(network()), "reestimate-bn")


def test_batches_of_one_are_refused_and_undone():
    graph = captured(network())
    before = go.to_torch(graph).state_dict()["1.running_mean"]
    with pytest.raises(DataError, match="gives no statistics"):
        go.optimize(graph, "reestimate-bn", images(2, rows=1))
    assert torch.equal(go.to_torch(graph).state_dict()["1.running_mean"], before)
    with pytest.raises(OptionError, match="batches"):
        go.optimize(graph, "reestimate-bn{batches=-1}", images(1))
