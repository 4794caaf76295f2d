"""benchmarks.rivals: several ways to make one network smaller, under one budget."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from benchmarks.rivals import OURS, RIVALS, Given, bare, compare
from pipeline.data.splits import Split
from pipeline.lowrank.analysis.analysis import analyze
from pipeline.lowrank.factorize.options import RefitOptions
from pipeline.lowrank.planning.policies import Budget
from pipeline.lowrank.tasks import Classification


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(12, 24), nn.Linear(24, 12)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.down(self.up(x).tanh())
        return found


@pytest.fixture(scope="module")
def given() -> Given:
    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block(), nn.Linear(12, 4)).eval()
    inputs = torch.randn(160, 12)
    return Given(
        model=model,
        task=Classification(),
        splits={"test": Split(inputs[:64], torch.randint(4, (64,)))},
        statistics=list(inputs[64:128].split(32)),
        held_out=[inputs[128:]],
        example=inputs[:1],
        refit=RefitOptions(steps=20, learning_rate=5e-3),
        batch=64,
    )


def test_every_way_keeps_the_budget_and_ours_is_closest(given: Given) -> None:
    fisher = analyze(given.model, calibration=given.statistics, task=given.task)
    budget = Budget(params=0.6)
    dense = sum(p.numel() for p in given.model.parameters())
    found = {rival: figures for rival, _, figures in compare(given, fisher, [budget])}
    assert set(found) == set(RIVALS)
    measured = {}
    for rival, figures in found.items():
        assert not isinstance(figures, str), f"{rival.label}: {figures}"
        assert figures["params"] <= 0.6 * dense and 0 < figures["agreement"] <= 1
        measured[rival.label] = figures["divergence"]
    assert measured[OURS.label] < measured["whitening (SVD-LLM)"]
    assert measured[OURS.label] <= measured["ours without training"], "kept where it is closer"
    assert measured["whitening, trained (AA-SVD-like)"] < measured["whitening (SVD-LLM)"]
    assert measured[OURS.label] <= measured["ours without inner dimensions"]
    out_of_reach = [f for *_, f in compare(given, fisher, [Budget(params=0.01)], RIVALS[1:2])]
    assert "cannot be met" in out_of_reach[0], "it is said, and not left out"


def test_a_bare_way_differs_in_training_and_contest_alone() -> None:
    found = bare(OURS)
    assert (found.trained, found.allocation) == (False, "absolute")
    assert replace(found, trained=True, allocation="contest") == OURS
    assert bare(RIVALS[0]) == RIVALS[0]
