"""Targets: which layers are found, which are skipped and why; costs counted on real modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pipeline.lowrank import SVD, AnalysisOptions, Budget, Compute, Energy, compress_, plan
from pipeline.lowrank.analysis.analysis import analyze
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import METHODS, make_method
from pipeline.lowrank.network.costs import (
    count_params,
    layer_macs,
    network_totals,
    trace_positions,
)
from pipeline.lowrank.network.finding import find_targets
from pipeline.lowrank.network.opening import opened
from pipeline.lowrank.network.targets import dense_weight

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
ATTENTION_LAYERS = [
    *(f"attention.{name}" for name in PROJECTIONS),
    *(f"encoder.self_attn.{name}" for name in PROJECTIONS),
    "encoder.linear1",
    "encoder.linear2",
]


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
        self.pairs = nn.Bilinear(8, 8, 4)
        self.bag = nn.EmbeddingBag(5, 8, mode="max")
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
    model = Breakers()
    with opened(model):
        targets, skipped = find_targets(model)
    others = ["grouped", "transposed", "normed", "plain", "unused"]
    assert list(targets) == ["shared", *ATTENTION_LAYERS, *others]
    reasons = {
        "embedding": "weight is tied to head",
        "pairs": "Bilinear has no factorized form",
        "bag": "EmbeddingBag with mode='max'",
        "head": "weight is tied to embedding",
    }
    for name, reason in reasons.items():
        assert reason in skipped[name]


def test_a_layer_used_twice_counts_both_calls_and_an_unused_one_is_skipped() -> None:
    analysis = analyze(Breakers(), torch.arange(5)[None])
    assert list(analysis.targets) == [
        "shared",
        *ATTENTION_LAYERS,
        "grouped",
        "transposed",
        "normed",
        "plain",
    ]
    assert analysis.targets["shared"].out_positions == 10
    assert analysis.targets["plain"].out_positions == 5
    assert "not used in the forward pass" in analysis.skipped["unused"].reason


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
    with pytest.raises(LowRankError, match=r"all are skipped.*Bilinear"):
        find_targets(nn.Bilinear(4, 4, 3))


def test_nan_in_a_weight_names_the_layer() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with torch.no_grad():
        model[1].weight[0, 0] = float("nan")
    with pytest.raises(LowRankError, match=r"layer '1': the weight holds NaN or Inf"):
        analyze(model, torch.randn(1, 3))


def test_an_unknown_metric_is_an_error() -> None:
    with pytest.raises(LowRankError, match=r"metric='fischer': unknown; did you mean 'fisher'"):
        AnalysisOptions(metric="fischer")  # type: ignore[arg-type]
    with pytest.raises(LowRankError, match=r"metric='fischer': unknown; did you mean 'fisher'"):
        plan(nn.Linear(3, 3), Energy(), torch.randn(1, 3), metric="fischer")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_norm": 1.0}, "max_norm=1.0"),
        ({"sparse": True}, "sparse=True"),
        ({"scale_grad_by_freq": True}, "scale_grad_by_freq=True"),
    ],
)
def test_an_embedding_whose_options_act_on_its_rows_is_skipped(
    options: dict[str, Any], reason: str
) -> None:
    model = nn.Sequential(nn.Embedding(9, 4, **options), nn.Linear(4, 4))
    assert reason in find_targets(model)[1]["0"]


def test_an_embedding_saves_params_and_never_wins_where_macs_count() -> None:
    """Its lookup has no MACs; its factors multiply."""
    torch.manual_seed(0)
    model, tokens = nn.Embedding(200, 32, padding_idx=7), torch.arange(6)[None]
    smaller = plan(model, Budget(params=0.5), tokens, methods=[SVD()]).expected.layers[""]
    assert smaller.params <= 0.5 * 200 * 32
    assert (smaller.dense_macs, smaller.macs) == (0, 6 * 32 * smaller.ranks[0])
    for policy in (Energy(0.5, "macs"), Compute(4.0, "macs")):
        assert plan(model, policy, tokens).layers[""].method == "dense"
    layer = compress_(model, Energy(0.9), tokens).network
    assert isinstance(layer, nn.Sequential)
    assert layer[0].padding_idx == 7
    assert layer(torch.tensor([7])).abs().max() < 1e-6, "the padding row is zero and stays so"


def test_the_conv1d_of_transformers_is_a_linear_layer() -> None:
    real = pytest.importorskip("transformers.pytorch_utils")
    torch.manual_seed(0)
    layer, x = real.Conv1D(24, 16), torch.randn(2, 5, 16)
    assert torch.equal(dense_weight(layer), layer.weight.T)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(16, 2) @ torch.randn(2, 24))
    dense = layer(x)
    built = compress_(layer, Energy(1 - 1e-9), x[:1, :1], methods=[SVD()]).network
    assert [type(part) for part in built] == [nn.Linear, nn.Linear]
    assert torch.allclose(built(x), dense, atol=1e-4)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_depthwise_convolution_has_nothing_to_gain(method: str) -> None:
    """But for `spatial_svd`, for which each filter is a matrix of its own: 3 + 3 of 9 taps."""
    torch.manual_seed(0)
    model = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    one = make_method(method, {"cp_rank_grid": 2})
    found = plan(model, Energy(0.3), torch.randn(1, 6, 5, 5), methods=[one]).layers[""]
    assert (found.method, found.ranks) == (
        ("spatial_svd", (1,)) if method == "spatial_svd" else ("dense", ())
    )


def test_positions_between_the_axes_of_a_strided_kernel() -> None:
    model = nn.Conv2d(3, 4, (3, 5), stride=(2, 3))
    assert trace_positions(model, torch.randn(1, 3, 9, 11)) == {"": (9 * 11, 4 * 11, 4 * 3)}


def test_macs_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 4×4 outputs
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=4),
        nn.ConvTranspose2d(8, 5, 2, stride=2),  # from 4×4 inputs
        nn.Flatten(),
        nn.Linear(5 * 64, 10),
    )
    example = torch.randn(1, 3, 8, 8)
    layers = layer_macs(model, trace_positions(model, example))
    assert layers == {
        "0": 16 * 8 * 3 * 9,
        "2": 16 * 8 * 2 * 9,
        "3": 16 * 8 * 5 * 4,
        "5": 320 * 10,
    }
    assert network_totals(model, example).macs == sum(layers.values())
    assert count_params(model) == 224 + 152 + 165 + 3210


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert trace_positions(model, torch.randn(1, 4)) == {"0": (1, 1)}
    assert model.training
    assert model[1].training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not model[0]._forward_hooks
