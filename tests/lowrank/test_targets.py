"""What is a target, what is not, and why; costs counted on real modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.lowrank.analysis import analyze
from pipeline.lowrank.cost import count_params, network_macs, trace_positions
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.target import find_targets


class Breakers(nn.Module):
    """Everything that a naive search would get wrong, in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.shared = nn.Linear(8, 8)
        self.again = self.shared
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.grouped = nn.Conv1d(8, 8, 3, groups=4)
        self.transposed = nn.ConvTranspose1d(8, 8, 3)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.plain = nn.Linear(8, 6)
        self.unused = nn.Linear(8, 6)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.again(self.shared(self.embedding(tokens)))
        x = self.encoder(self.attention(x, x, x)[0])
        y = self.transposed(self.grouped(x.transpose(1, 2))).transpose(1, 2)
        self.plain(self.normed(y))
        return self.head(x)


def test_only_plain_layers_are_targets_and_every_other_one_has_a_reason() -> None:
    targets, skipped = find_targets(Breakers())
    assert list(targets) == ["shared", "plain", "unused"]
    reasons = {
        "embedding": "Embedding has no factorized form",
        "attention.out_proj": "NonDynamicallyQuantizableLinear has no factorized form",
        "encoder.linear1": "TransformerEncoderLayer reads this layer's weight",
        "grouped": r"grouped convolution (groups=4)",
        "transposed": "ConvTranspose1d has no factorized form",
        "normed": "ParametrizedLinear has no factorized form",
        "head": "weight is tied to embedding",
    }
    for name, reason in reasons.items():
        assert reason in skipped[name]


def test_a_layer_used_twice_counts_both_calls_and_an_unused_one_is_skipped() -> None:
    analysis = analyze(Breakers(), torch.arange(5)[None])
    assert list(analysis.targets) == ["shared", "plain"]
    assert analysis.targets["shared"].out_positions == 10
    assert analysis.targets["plain"].out_positions == 5
    assert "not used in the forward pass" in analysis.skipped["unused"]


def test_patterns_choose_and_exclude_wins() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "c": nn.Linear(2, 2)})
    targets, skipped = find_targets(model, include=["a", "b"], exclude=["b*"])
    assert list(targets) == ["a"]
    assert skipped == {"b": "excluded by analyze.exclude", "c": "not in analyze.include"}


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    model = nn.ModuleDict({"first": nn.Linear(2, 2)})
    with pytest.raises(LowRankError, match=r"pattern 'fist' matches no layer.*first"):
        find_targets(model, exclude=["fist"])


def test_a_model_without_targets_is_an_error() -> None:
    with pytest.raises(LowRankError, match="no layer to factorize: it has no Linear"):
        find_targets(nn.Sequential(nn.ReLU()))
    with pytest.raises(LowRankError, match=r"all are skipped.*grouped"):
        find_targets(nn.Conv2d(4, 4, 3, groups=2))


def test_nan_in_a_weight_names_the_layer() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with torch.no_grad():
        model[1].weight[0, 0] = float("nan")
    with pytest.raises(LowRankError, match=r"layer '1': the weight holds NaN or Inf"):
        analyze(model, torch.randn(1, 3))


def test_an_unknown_metric_is_an_error() -> None:
    with pytest.raises(LowRankError, match="metric is 'fischer': choose one of weight"):
        analyze(nn.Linear(3, 3), torch.randn(1, 3), metric="fischer")


def test_macs_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 4×4 outputs
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=4),
        nn.ConvTranspose2d(8, 5, 2, stride=2),  # from 4×4 inputs
        nn.Flatten(),
        nn.Linear(5 * 64, 10),
    )
    counted = network_macs(model, torch.randn(1, 3, 8, 8))
    assert counted["layers"] == {
        "0": 16 * 8 * 3 * 9,
        "2": 16 * 8 * 2 * 9,
        "3": 16 * 8 * 5 * 4,
        "5": 320 * 10,
    }
    assert counted["total"] == sum(counted["layers"].values())
    assert count_params(model) == 224 + 152 + 165 + 3210


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert trace_positions(model, torch.randn(1, 4)) == {"0": (1, 1)}
    assert model.training
    assert model[1].training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not model[0]._forward_hooks
