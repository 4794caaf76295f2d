"""Plans chosen by measurement, and limits that are kept by what is measured."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.lowrank import (
    Budget,
    Loss,
    LowRankError,
    PivotedSVD,
    apply_,
    compress_,
    load_plan,
    plan,
    save_plan,
)
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.factorize.contest import hold_contest, hold_limit
from pipeline.lowrank.planning.plan import Plan
from pipeline.lowrank.planning.policies import Policy

FORM: dict[str, Any] = {"methods": [PivotedSVD()], "contest_examples": 0, "held_out": []}


@pytest.fixture(scope="module")
def inputs() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    # Inputs of unequal directions, so that the metrics disagree about what matters.
    scales = torch.logspace(0, -2, 24)
    return torch.randn(512, 24, generator=generator) * scales


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Linear(24, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 10))
    net = nn.Sequential(*layers)
    with torch.no_grad():
        for layer in (net[0], net[2], net[4]):
            layer.weight.mul_(3.0)
    return net.eval()


def fisher_plan(net: nn.Module, inputs: torch.Tensor, policy: Policy) -> Plan:
    batches = list(inputs[:256].split(64))
    return plan(net, policy, inputs[:1], metric="fisher", calibration=batches, **FORM)


@pytest.fixture(scope="module")
def divergence(net: nn.Module, inputs: torch.Tensor) -> Divergence:
    return Divergence(net, list(inputs[256:].split(64)))


def test_a_network_does_not_diverge_from_itself(net: nn.Module, divergence: Divergence) -> None:
    assert divergence.of(net) == pytest.approx(0.0, abs=1e-7)
    worse = nn.Sequential(*list(net)[:-1], nn.Linear(48, 10))
    assert divergence.of(worse) > 0.1


def test_the_plan_that_measures_best_wins_and_never_loses_to_the_uniform_one(
    net: nn.Module, inputs: torch.Tensor, divergence: Divergence
) -> None:
    before = {k: v.clone() for k, v in net.state_dict().items()}
    plans = [
        fisher_plan(net, inputs, Budget(params=0.3, error_scale=scale))  # type: ignore[arg-type]
        for scale in ("absolute", "relative")
    ]
    won = hold_contest(net, plans, divergence)
    measured = {entry.allocation: entry.measured_divergence for entry in won.contest}
    assert list(measured) == ["absolute", "relative", "uniform"]
    assert len({round(value, 6) for value in measured.values()}) > 1, "a contest of equals"
    built = apply_(nn.Sequential(*net), won).network
    assert divergence.of(built) == pytest.approx(min(measured.values()), rel=1e-5)
    answers = [torch.cat([one(b) for b in divergence.batches]).argmax(1) for one in (net, built)]
    best = min(won.contest, key=lambda entry: entry.measured_divergence)
    assert best.agreement == pytest.approx((answers[0] == answers[1]).double().mean().item())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(e.params <= 0.3 * won.expected.dense.params for e in won.contest)
    again = hold_contest(net, plans, divergence)
    assert again == won


def test_the_fisher_metric_beats_the_weights_norm_at_the_same_size(
    net: nn.Module, inputs: torch.Tensor, divergence: Divergence
) -> None:
    results = {}
    for metric in ("weight", "input", "fisher"):
        budget = Budget(params=0.45, error_scale="absolute" if metric == "fisher" else "relative")
        batches = list(inputs[:256].split(64))
        options = FORM | {"metric": metric, "calibration": batches}
        torch.manual_seed(0)
        built = compress_(nn.Sequential(*net), budget, inputs[:1], **options).network
        results[metric] = divergence.of(built)
    assert results["fisher"] < results["input"] < results["weight"]


def test_the_prediction_is_right_for_small_changes(
    net: nn.Module, inputs: torch.Tensor, divergence: Divergence
) -> None:
    chosen = fisher_plan(net, inputs, Loss(nats=0.003))
    predicted = chosen.expected.loss_increase
    assert predicted is not None and 0.0 < predicted <= 0.003
    built = apply_(nn.Sequential(*net), chosen).network
    assert 0.3 < divergence.of(built) / predicted < 3.0, "within the damping and the factors"


@pytest.mark.parametrize("nats", [0.02, 0.2])
def test_a_limit_is_kept_by_measurement_and_used(
    net: nn.Module, inputs: torch.Tensor, divergence: Divergence, nats: float
) -> None:
    whole = fisher_plan(net, inputs, Loss(nats))
    of = partial(fisher_plan, net, inputs)
    found = hold_limit(net, Loss(nats), of, divergence)
    built = apply_(nn.Sequential(*net), found).network
    assert 0.3 * nats < divergence.of(built) <= nats
    assert len(found.contest) == 5 and found.expected.planned.params < whole.expected.dense.params


def test_stricter_limits_give_larger_networks(net: nn.Module, inputs: torch.Tensor) -> None:
    plans = [fisher_plan(net, inputs, Loss(n)) for n in (1.0, 0.1, 0.01, 1e-9)]
    sizes = [chosen.expected.planned.params for chosen in plans]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1] == sum(
        p.numel() for p in net.parameters()
    )


def test_what_cannot_be_is_an_error(
    net: nn.Module, inputs: torch.Tensor, divergence: Divergence, tmp_path: object
) -> None:
    with pytest.raises(LowRankError, match="only the metric fisher predicts"):
        plan(net, Loss(0.1), inputs[:1], **FORM)
    with pytest.raises(LowRankError, match=r"nats=0: choose a number above 0"):
        Loss(0)
    with pytest.raises(LowRankError, match="no calibration data is held out"):
        Divergence(net, [])
    coarse = fisher_plan(net, inputs, Budget(params=0.3))
    with pytest.raises(LowRankError, match="no plan keeps a measured loss increase of 1e-09"):
        hold_limit(net, Loss(1e-9), lambda policy: coarse, divergence)


def test_a_plan_in_a_metric_travels_with_its_analysis(
    net: nn.Module, inputs: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chosen = fisher_plan(net, inputs, Budget(params=0.45))
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    save_plan(path, chosen)
    read = load_plan(path)
    assert replace(read, uniform=None) == replace(chosen, uniform=None)
    assert read.damping == pytest.approx(0.1)
    with pytest.raises(LowRankError, match="give the analysis"):
        apply_(nn.Sequential(*net), read)
    first = apply_(nn.Sequential(*net), chosen).network
    second = apply_(nn.Sequential(*net), read, chosen.analysis).network
    assert torch.equal(first(inputs), second(inputs))
