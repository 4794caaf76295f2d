"""Every weight is in a target or is named, once, with its reason and its share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.lowrank import (
    Analysis,
    Budget,
    LowRankError,
    analyze,
    load_analysis,
    load_plan,
    plan,
    save_plan,
)
from pipeline.lowrank.analysis.files import save_analysis
from pipeline.lowrank.network.costs import count_params
from pipeline.lowrank.network.skipped import Skipped, largest


class Mixed(nn.Module):
    """A target, and weights of many kinds that are none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.places = nn.Parameter(torch.randn(1, 7, 12))
        self.scale = nn.Parameter(torch.randn(1, 1, 12))
        self.experts = nn.ParameterList([torch.randn(3, 12, 4), torch.randn(5)])
        self.ids, self.bag = nn.Embedding(50, 12), nn.EmbeddingBag(30, 12, mode="max")
        self.body, self.unused = nn.Linear(12, 12), nn.Linear(12, 20)
        self.normed = nn.utils.weight_norm(nn.Linear(12, 12))
        self.pairs = nn.Bilinear(12, 12, 2)
        self.head = nn.Linear(12, 50, bias=False)
        self.head.weight = self.ids.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.ids(ids) + self.places[:, : ids.shape[1]] * self.scale + self.bag(ids)[:, None]
        x = self.normed(self.body(x) + (x @ self.experts[0].sum(0)).mean())
        out: Tensor = self.head(x + self.pairs(x, x).mean())
        return out


IDS = torch.tensor([[3, 1, 4, 1, 5]])


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyze(Mixed(), IDS)


def test_every_weight_has_one_entry(analysis: Analysis) -> None:
    model, total = Mixed(), count_params(Mixed())
    assert list(analysis.targets) == ["body"]
    sizes = {
        "ids": 50 * 12,
        "bag": 30 * 12,
        "pairs": 2 * 12 * 12 + 2,
        "unused": 12 * 20 + 20,
        "normed": 12 * 12 + 12 + 12,
        "experts.0": 3 * 12 * 4,
        "places": 7 * 12,
        "head": 0,
    }
    found = {name: one.share for name, one in analysis.skipped.items()}
    assert found == pytest.approx({name: size / total for name, size in sizes.items()})
    assert list(found.values()) == sorted(found.values(), reverse=True)
    vectors = model.scale.numel() + model.experts[1].numel()
    assert sum(sizes.values()) + analysis.targets["body"].params + vectors == total


def test_the_reason_says_what_holds_it(analysis: Analysis) -> None:
    for name, reason in {
        "ids": "weight is tied to head",
        "head": "weight is tied to ids",
        "bag": "EmbeddingBag with mode='max'",
        "normed": "it computes its weight anew in every call",
        "unused": "not used in the forward pass",
        "places": "a parameter of Mixed, which is no layer",
        "experts.0": "a parameter of ParameterList, which is no layer",
    }.items():
        assert reason in analysis.skipped[name].reason


def test_tables_and_files_keep_it(analysis: Analysis, tmp_path: Path) -> None:
    save_analysis(tmp_path, analysis)
    assert load_analysis(tmp_path).skipped == analysis.skipped
    made = plan(Mixed(), Budget(params=0.99), IDS)
    save_plan(tmp_path / "plan.json", made)
    assert load_plan(tmp_path / "plan.json").skipped == made.skipped == analysis.skipped
    for text in (str(analysis), str(made)):
        note = " ".join(text.split()).rpartition("skipped: ")[2]
        assert note.startswith("ids (weight is tied to head;") and "and 3 more (" in note


def test_a_budget_that_cannot_be_met_names_the_largest() -> None:
    share = 50 * 12 / count_params(Mixed())
    with pytest.raises(LowRankError) as failure:
        plan(Mixed(), Budget(params=0.3), IDS)
    told = str(failure.value)
    assert "a budget of 0.3 of the params cannot be met" in told and "\n" not in told
    assert f"stays as it is: ids (weight is tied to head; {share:.1%} of the parameters), " in told
    with pytest.raises(LowRankError) as failure:
        plan(Mixed(), Budget(params=0.01, scope="targets"), IDS)
    assert "stays as it is" not in str(failure.value)


class Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def test_what_is_skipped_later_has_its_share_too() -> None:
    net = nn.Sequential(nn.Linear(16, 16), Cut(), nn.Linear(16, 10))
    made = plan(net, Budget(params=0.99), calibration=[torch.randn(20, 16)], metric="fisher")
    assert "no gradient of the loss reaches it" in made.skipped["0"].reason
    assert made.skipped["0"].share == pytest.approx(272 / 442)


def test_the_rest_is_counted_together() -> None:
    found = {name: Skipped("why", share) for name, share in [("a", 0.1), ("b", 0.25), ("", 0.2)]}
    assert largest(found, 1) == "b (why; 25.0% of the parameters), and 2 more (30.0%)"
    assert largest(found, 2).startswith("b (why; 25.0% of the parameters), (root) (why; 20.0%")
