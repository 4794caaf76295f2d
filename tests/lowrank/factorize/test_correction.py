"""Predictions corrected by measurement, against factors that are planted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pipeline import lowrank as lr
from pipeline.lowrank.analysis.analysis import Analysis, analyze
from pipeline.lowrank.analysis.divergence import Distance, Divergence
from pipeline.lowrank.factorize.correction import corrections, evened
from pipeline.lowrank.factorize.deciding import plan_from
from pipeline.lowrank.network.targets import dense_weight

TRUTH = {"up": 4.0, "down": 0.25}
BUDGET = lr.Budget(params=0.5, scope="targets", error_scale="absolute")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.down(self.up(x).tanh())
        return found


class Planted(Divergence):
    """Each layer costs as many times what its metric predicts as its kind says."""

    net: nn.Module
    analysis: Analysis

    def distance(self, model: nn.Module) -> Distance:
        total = 0.0
        for name in self.analysis.targets:
            weights = (dense_weight(m.get_submodule(name)) for m in (self.net, model))
            change = self.analysis.whiten(name, torch.sub(*weights))
            total += TRUTH[name.rpartition(".")[2]] * float(change.square().sum()) / 2
        return Distance(total)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(5))).eval()


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    return torch.randn(256, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def analysis(net: nn.Module, inputs: Tensor) -> Analysis:
    return analyze(net, calibration=list(inputs.split(64)))


@pytest.fixture(scope="module")
def planted(net: nn.Module, inputs: Tensor, analysis: Analysis) -> Planted:
    found = Planted(net, [inputs[:8]])
    found.net, found.analysis = net, analysis
    return found


def test_planted_factors_are_found_and_spend_the_budget_better(
    net: nn.Module, analysis: Analysis, planted: Planted
) -> None:
    before = {k: v.clone() for k, v in net.state_dict().items()}
    factors = corrections(net, plan_from(net, analysis, BUDGET), planted)
    assert factors == pytest.approx({n: TRUTH[n.rpartition(".")[2]] for n in factors}, rel=1e-3)
    assert factors.keys() == analysis.targets.keys()
    exact = replace(BUDGET, allocation="exact")
    won = plan_from(net, analysis, exact, divergence=lambda: planted)
    contest = {one.allocation: one for one in won.contest}
    plain, better = contest["absolute"], contest["absolute, corrected"]
    assert better.measured_divergence == min(one.measured_divergence for one in won.contest)
    assert better.measured_divergence < 0.8 * plain.measured_divergence
    assert better.corrected_loss_increase == pytest.approx(better.measured_divergence, rel=1e-3)
    assert plain.corrected_loss_increase is None
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_layers_of_an_inner_dimension_are_one_kind(
    net: nn.Module, inputs: Tensor, analysis: Analysis
) -> None:
    methods = (lr.PivotedTucker2(), lr.Interpolative())
    divergence = Divergence(net, [inputs])
    plan = plan_from(net, analysis, BUDGET, methods=methods)
    assert plan.widths, "some are narrowed"
    factors = corrections(net, plan, divergence)
    assert all(factors[f"{block}.up"] == factors[f"{block}.down"] for block in range(5))
    assert len({*factors.values()}) > 1, "few places change: each is a kind"


def test_nothing_is_corrected_where_no_nats_are_predicted(
    net: nn.Module, inputs: Tensor, planted: Planted
) -> None:
    plan = plan_from(net, analyze(net, inputs[:1]), BUDGET)
    assert corrections(net, plan, planted) == {}


def test_the_way_to_the_uniform_plan(net: nn.Module, analysis: Analysis, planted: Planted) -> None:
    plan = plan_from(net, analysis, BUDGET)
    uniform = plan.uniform
    assert uniform is not None
    assert evened(plan, 0.0) == pytest.approx(dict.fromkeys(plan.layers, 1.0))
    half, whole = evened(plan, 0.5), evened(plan, 1.0)
    assert whole == pytest.approx({name: value**2 for name, value in half.items()})
    # With these weights every layer loses as much for what it costs as every other one.
    lost = [
        whole[name] * (one.loss_increase or 0) / one.dense_params
        for name, one in uniform.expected.layers.items()
    ]
    assert lost == pytest.approx([lost[0]] * len(lost))
    weighed = plan_from(net, analysis, BUDGET, divergence=lambda: planted)
    contest = {one.allocation: one for one in weighed.contest}
    ways = [contest[f"{name}, corrected"] for name in ("absolute", "half uniform", "uniform")]
    predicted = [one.predicted_loss_increase or 0 for one in (contest["absolute"], *ways)]
    assert predicted[0] == min(predicted)
    assert all(one.params <= contest["absolute"].params * 1.01 for one in ways)


def test_evening_knows_the_layers_of_a_dimension_together(
    net: nn.Module, analysis: Analysis
) -> None:
    methods = (lr.PivotedTucker2(), lr.Interpolative())
    weights = evened(plan_from(net, analysis, BUDGET, methods=methods), 1.0)
    assert all(weights[f"{block}.up"] == weights[f"{block}.down"] for block in range(5))
    assert len({*weights.values()}) == 5
