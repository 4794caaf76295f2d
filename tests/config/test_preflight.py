"""What cannot be is told before any stage runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.config.compose import compose_params
from pipeline.config.preflight import check_budget, check_network
from pipeline.lowrank import Budget, plan
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import make_method
from pipeline.models.resnet import ResNet
from tests.imports import ROOT

BUDGET = {"policy": "budget", "cost_unit": "params", "scope": "network"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.pool=0", r"model\.pool=0: choose a number of at least 1"),
        ("model.classes=0", r"model\.classes=0: choose a number of at least 1"),
        ("model.widths=[0]", r"widths=\[0\] and blocks"),
        (
            "rank_select.budget=0.001",
            r"a budget of 0\.001 of the params cannot be met",
        ),
        ("model._target_=my_net.Nothing", r"cannot be imported"),
        ("+model.pools=3", r"unexpected keyword argument 'pools'"),
    ],
)
def test_a_network_that_cannot_be_is_told_in_one_line(override: str, message: str) -> None:
    with pytest.raises(LowRankError, match=message) as caught:
        check_network(compose_params(ROOT / "conf", [override]))
    assert "\n" not in str(caught.value)


def test_the_configuration_as_it_stands_passes() -> None:
    check_network(compose_params(ROOT / "conf"))


def test_a_whole_model_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    own = ["model=custom", "model._target_=torch.nn.Linear", "+model.in_features=2"]
    weights = f"baseline.weights={tmp_path / 'whole.pt'}"
    params = compose_params(
        ROOT / "conf", [*own, "baseline=checkpoint", "data.normalise=none", weights]
    )
    with pytest.raises(LowRankError, match=r"not a state dict that loads with weights_only"):
        check_network(params)


@pytest.mark.parametrize("method", ["pivoted_tucker2", "svd", "cp"])
def test_no_plan_is_below_the_least_that_is_told(method: str) -> None:
    """What the check refuses no method could have kept."""
    torch.manual_seed(0)
    net = ResNet(widths=(8, 12), blocks=(1, 1), hidden=16).eval()
    with pytest.raises(LowRankError, match=r"choose at least (0\.\d+)") as caught:
        check_budget(net, BUDGET | {"budget": 0.0001})
    least = float(str(caught.value).rpartition(" ")[2])
    check_budget(net, BUDGET | {"budget": least})
    with pytest.raises(LowRankError, match="cannot be met"):
        plan(
            net,
            Budget(params=least - 0.01),
            example=torch.zeros(1, 1, 8, 8),
            metric="weight",
            methods=[make_method(method, {})],
        )


def test_other_units_are_left_to_the_policy() -> None:
    net = nn.Linear(100, 100)
    check_budget(net, BUDGET | {"budget": 0.0001}, ["interpolative"])
    for changed in ({"policy": "energy"}, {"cost_unit": "macs"}, {"scope": "targets"}):
        check_budget(net, BUDGET | {"budget": 0.0001} | changed)
