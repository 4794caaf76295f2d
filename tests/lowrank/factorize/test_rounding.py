"""Rounding of stored factors is measured, so that certificates mean something in bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pipeline.lowrank as lr

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def layer(dtype: torch.dtype, size: int = 96) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(size, size)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", ["weight", "input"])
@pytest.mark.parametrize("method", [lr.SVD(), lr.PivotedSVD()])
def test_rounding_is_that_of_the_number_format(
    dtype: torch.dtype, metric: str, method: lr.Method
) -> None:
    net = layer(dtype)
    x = torch.randn(300, 96).to(dtype)
    calibration = [] if metric == "weight" else [x]
    made = lr.plan(
        net,
        lr.Budget(params=0.6),
        x[:1],
        calibration=calibration,
        held_out=[],
        metric=metric,  # type: ignore[arg-type]
        methods=[method],
    )
    report = lr.apply_(net, made).layers["0"]
    assert 0 < report.rounding <= 1.1e-7 + 8 * torch.finfo(dtype).eps
    assert abs(report.measured_relative_error - report.predicted_relative_error) <= report.rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plan_of_other_weights_is_refused_in_every_format(dtype: torch.dtype) -> None:
    net = layer(dtype, 512)
    made = lr.plan(net, lr.Budget(params=0.6), torch.randn(1, 512).to(dtype))
    weight = net[0].weight
    noise = 0.3 * weight.float().std() * torch.randn(512, 512)
    with torch.no_grad():
        weight.add_(noise.to(dtype))
    before = weight.clone()
    with pytest.raises(lr.LowRankError, match=r"^layer '0': [^\n]* other weights"):
        lr.apply_(net, made)
    assert isinstance(net[0], nn.Linear) and torch.equal(net[0].weight, before)
