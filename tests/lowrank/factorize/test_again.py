"""A network that was compressed is compressed again: products of factors are the targets."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.lowrank import (
    SVD,
    Budget,
    Factorized,
    Fixed,
    LowRankError,
    PivotedTucker2,
    apply_,
    certify,
    compress_,
    load_,
    load_plan,
    plan,
    save,
    save_plan,
    to_dense_,
)
from pipeline.lowrank.factorize.refit import refit_
from pipeline.lowrank.methods import Method
from pipeline.lowrank.network.costs import count_params, network_totals

X = torch.randn(12, 4, 9, 9, generator=torch.Generator().manual_seed(0))
METHODS = [pytest.param(SVD(), id="svd"), pytest.param(PivotedTucker2(), id="pivoted")]
METRICS: list[Any] = ["weight", "input", "fisher"]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 24, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(24, 20, 3, 2, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(80, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    ).eval()


def compressed(method: Method) -> nn.Sequential:
    net = network()
    compress_(net, Fixed({"6": 0.6, "*": 0.8}), X[:1], methods=[method])
    assert all(isinstance(net[place], Factorized) for place in (0, 2, 6))
    return net


def data(metric: str) -> dict[str, Any]:
    return {"example": X[:1]} if metric == "weight" else {"calibration": [X[:6], X[6:]]}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("method", METHODS)
def test_the_product_is_factorized_as_the_dense_layer_would_be(
    method: Method, metric: str, tmp_path: Path
) -> None:
    """The same factors to the bit; the costs are those of the layers as they are."""
    net = compressed(method)
    dense = to_dense_(copy.deepcopy(net))
    before, totals = net(X), network_totals(net, X[:1])
    options: dict[str, Any] = {"methods": [method], "metric": metric, "held_out": []}
    made = plan(net, Fixed(3), **options, **data(metric))
    wanted = plan(dense, Fixed(3), **options, **data(metric))
    assert torch.equal(net(X), before), "nothing has changed"
    for name, one in made.layers.items():
        assert (one.method, one.ranks) == (wanted.layers[name].method, wanted.layers[name].ranks)
    assert "its factors' product" in made.layers["6"].why
    assert "its factors' product" not in wanted.layers["6"].why
    assert made.expected.dense == totals
    layer = made.expected.layers["6"]
    assert layer.dense_params == count_params(net[6]) < 80 * 64
    assert layer.dense_macs == network_totals(net[6], torch.randn(1, 80)).macs
    done, other = apply_(net, made), apply_(dense, wanted)
    state = dense.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    for name, report in done.layers.items():
        assert report.measured_relative_error == other.layers[name].measured_relative_error
    assert network_totals(net, X[:1]) == made.expected.planned
    save(net, tmp_path)
    assert torch.equal(load_(network(), tmp_path)(X), net(X))


@pytest.mark.parametrize("method", METHODS)
def test_after_training_it_is_compressed_again_and_trains_on(method: Method) -> None:
    net = compressed(method)
    net.train()(X).square().sum().backward()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.sub_(1e-3 * parameter.grad)
    seen: list[Tensor] = []
    net[6].register_forward_hook(lambda layer, given, output: seen.append(output))
    before, size = copy.deepcopy(net), count_params(net)
    made = plan(net, Budget(params=0.7), calibration=[X])
    done = apply_(net, made)
    assert count_params(net) <= 0.7 * size
    seen.clear()
    net.train()(X).square().sum().backward()
    assert len(seen) == 1 and all(p.grad is not None for p in net.parameters())
    bounds = certify(before, net.eval(), X, list(done.layers))
    assert bounds.network.certified and bounds.layers.keys() == done.layers.keys()


def test_a_layer_may_stay_factorized_as_it_is(tmp_path: Path) -> None:
    net = compressed(SVD())
    kept = net[6]
    made = plan(net, Fixed({"0": 2}), X[:1], methods=[SVD()])
    assert made.layers["6"].method == "dense" and list(made.factorized) == ["0"]
    save_plan(tmp_path / "plan.json", made)
    apply_(net, load_plan(tmp_path / "plan.json"), example=X[:1])
    assert net[6] is kept and isinstance(net[0], Factorized) and net[0].ranks == (2,)
    excluded = plan(net, Fixed(1), X[:1], methods=[SVD()], exclude=["6"])
    assert excluded.skipped["6"].share == pytest.approx(count_params(net[6]) / count_params(net))


def test_a_failed_second_round_leaves_the_first_as_it_was() -> None:
    net = compressed(SVD())
    layers, before = list(net), net(X)
    made = plan(net, Fixed(2), X[:1], methods=[SVD()])
    with torch.no_grad():
        net[6][0].weight.mul_(1 + torch.rand(net[6][0].weight.shape))
    after = net(X)
    with pytest.raises(LowRankError, match=r"layer '6'"):
        apply_(net, made)
    assert all(one is other for one, other in zip(net, layers, strict=True))
    assert torch.equal(net(X), after) and not torch.equal(after, before)


def test_a_root_is_compressed_again() -> None:
    net = compress_(nn.Linear(64, 64), Fixed(16), torch.randn(1, 64), methods=[SVD()]).network
    again = compress_(net, Fixed(4), torch.randn(1, 64), methods=[SVD()]).network
    assert isinstance(again, Factorized) and again.ranks == (4,) and again.replaced is nn.Linear


def test_layers_inside_of_packed_modules_are_compressed_again() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.series = nn.LSTM(24, 24, batch_first=True)
            self.mixed = nn.MultiheadAttention(24, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.series(x)[0]
            out: Tensor = self.mixed(x, x, x)[0]
            return out

    torch.manual_seed(0)
    net, x = Packed(), torch.randn(3, 5, 24)
    first = compress_(net, Fixed(8), x[:1], methods=[SVD()])
    size = count_params(net)
    again = compress_(net, Fixed(4), calibration=[x], metric="input", methods=[SVD()], held_out=[])
    assert again.layers.keys() == first.layers.keys() > {"series.input_l0", "mixed.q_proj"}
    assert count_params(net) == again.totals.params < size - 5 * 4 * 24
    net.train()(x).sum().backward()


def test_experts_are_compressed_again() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 24, 24))

        def forward(self, x: Tensor) -> Tensor:
            parts = [nn.functional.linear(x[e::3], self.weight[e]) for e in range(3)]
            return torch.cat(parts)

    torch.manual_seed(0)
    net, x = nn.Sequential(Experts(), nn.Linear(24, 24)), torch.randn(30, 24)
    first = compress_(net, Fixed(8), x, methods=[SVD()])
    assert "0.stacks.weight" in first.layers
    size, before = count_params(net), net(x)
    made = plan(net, Fixed(4), calibration=[x], metric="fisher", methods=[SVD()], held_out=[])
    assert torch.equal(net(x), before) and made.expected.dense.params == size
    again = apply_(net, made)
    assert again.layers.keys() == first.layers.keys()
    assert count_params(net) == again.totals.params == size - 3 * 4 * 48 - 4 * 48
    net.train()(x).sum().backward()


def test_a_second_round_is_refit() -> None:
    torch.manual_seed(0)
    block = [nn.Sequential(nn.Linear(24, 24), nn.ReLU()) for _ in range(3)]
    net, x = nn.Sequential(*block), torch.randn(200, 24)
    compress_(net, Fixed(10), x[:1], methods=[SVD()])
    first = copy.deepcopy(net)
    made = plan(net, Fixed(4), calibration=[x], metric="input", methods=[SVD()], held_out=[])
    apply_(net, made)
    off = (net(x) - first(x)).norm()
    assert made.analysis is not None
    reports = refit_(first, net, made, made.analysis, [x], share=1.0)
    assert list(reports) == list(made.factorized) and (net(x) - first(x)).norm() < off
    assert isinstance(first[0][0], Factorized) and first[0][0].ranks == (10,)
