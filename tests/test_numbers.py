"""benchmarks.numbers: some of its layers in every run, and that it notices what is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

import pipeline.lowrank as lr
from benchmarks.numbers import checking
from benchmarks.numbers.__main__ import run
from benchmarks.numbers.checking import FailedError, Tally, check
from benchmarks.numbers.drawing import Draw
from tests.lowrank.planning.offer_cases import offers_of, seeded_weights


def test_random_layers_keep_every_promise() -> None:
    tally, failures = run(104, seed=0)
    assert failures == 0
    assert tally.counts["layers"] == 104 and tally.counts["factorized"] > 50
    assert tally.counts["networks by two threads"] == 1
    assert 0 < tally.largest["rounding of ‖W‖"] <= checking.VACUOUS
    drawn = {"huge", "denormal", "zero", "deficient", "ill", "normal", "float16", "bfloat16"}
    assert all(tally.counts[f"of {word}"] for word in drawn)
    assert {word for word in tally.counts if word.startswith("in ")} == {
        "in weight",
        "in input",
        "in fisher",
    }


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"lower_bound": 2.0, "upper_bound": 3.0}, "violates the certificate"),
        ({"predicted_relative_error": 0.123}, "is not what was predicted"),
        ({"rounding": 0.011}, "vacuous"),
    ],
)
def test_a_broken_promise_is_noticed(
    wrong: dict[str, float], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = replace(Draw(5).case(8), method=lr.SVD(), policy=lr.Error(relative_error=0.5))
    check(case, Tally(Counter(), {}), threads=False)
    applied = lr.apply_

    def apply_(*given: object) -> lr.Compression:
        done = applied(*given)  # type: ignore[arg-type]
        return replace(done, layers={n: replace(r, **wrong) for n, r in done.layers.items()})

    monkeypatch.setattr(lr, "apply_", apply_, raising=False)
    with pytest.raises(FailedError, match=told):
        check(case, Tally(Counter(), {}), threads=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_pivots_beyond_the_number_format_are_named(dtype: torch.dtype) -> None:
    """A pivot is a channel of the product, whose numbers may be larger than all of the weight."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 40)).to(dtype)
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(40, 40).sign() * torch.finfo(dtype).max)
    policy, example = lr.Fixed(ranks=8), torch.zeros(1, 40).to(dtype)
    made = lr.plan(net, policy, example, methods=[lr.PivotedSVD()])
    with pytest.raises(lr.LowRankError, match=r"^layer '0': a factor by pivoted_svd [^\n]*svd"):
        lr.apply_(net, made)
    assert isinstance(net[0], nn.Linear)
    report = lr.apply_(net, lr.plan(net, policy, example, methods=[lr.SVD()])).layers["0"]
    assert report.rounding < 0.01


def test_errors_that_are_rounding_decide_nothing() -> None:
    """Of a weight of rank 3 no policy buys more ranks, and none counts their noise."""
    weights = seeded_weights()
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(s, generator=generator).double() for s in ((64, 3), (3, 16)))
    weights["layer1"] = left @ right
    offers, totals = offers_of(weights)
    for allocation in ("greedy", "exact"):
        policy = lr.Budget(params=0.95, allocation=allocation)  # type: ignore[arg-type]
        chosen = policy.select(offers, totals).choices["layer1"].candidate
        assert chosen.ranks == (3,) and chosen.squared_error == 0.0
        exact = analysis_error(weights["layer1"], 3)
        assert 0 < exact < 1e-14


def analysis_error(weight: torch.Tensor, rank: int) -> float:
    values = torch.linalg.svdvals(weight)
    return float(values[rank:].square().sum() / values.square().sum())


@pytest.mark.parametrize("allocation", ["greedy", "exact"])
def test_the_order_of_equal_layers_decides_nothing(allocation: str) -> None:
    one = seeded_weights()["layer0"]
    weights = {f"layer{index}": one for index in (4, 0, 2, 6)}
    offers, totals = offers_of(weights)
    turned = dict(reversed(offers.items()))
    unlike = 0
    for kept in (0.3, 0.37, 0.45, 0.5, 0.58, 0.7):
        policy = lr.Budget(params=kept, allocation=allocation)  # type: ignore[arg-type]
        choices = [policy.select(given, totals).choices for given in (offers, turned)]
        assert choices[0] == choices[1]
        unlike += len({choice.candidate.ranks for choice in choices[0].values()}) > 1
    assert unlike, "else any order gives the same"
