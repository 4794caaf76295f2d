"""Measures of language models and encoders, against figures known beforehand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.data.splits import TokenSplit
from pipeline.evaluation.networks import compare_networks
from pipeline.lowrank.network.calling import PADDING
from pipeline.lowrank.tasks import CausalLM, Encoder
from pipeline.lowrank.tasks.encoder import recall
from pipeline.lowrank.tasks.intervals import bootstrap
from pipeline.reporting.run.measures import measures

CLASSES = 50


class Sure(nn.Module):
    """Gives the token after t (t + 1) the probability p, the others the rest in equal parts."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        rest = (1 - probability) / (CLASSES - 1)
        self.gap = nn.Parameter(torch.tensor(math.log(probability / rest), dtype=torch.float64))

    def forward(self, tokens: Tensor) -> Tensor:
        following = nn.functional.one_hot((tokens + 1) % CLASSES, CLASSES)
        return (self.gap * following).transpose(1, 2)


def sequences(count: int, wrong: int = 0) -> TokenSplit:
    """Counting up; the labels of the first `wrong` sequences are another token."""
    inputs = (torch.arange(count)[:, None] * 7 + torch.arange(20)) % CLASSES
    labels = (inputs + 1) % CLASSES
    labels[:wrong] = (labels[:wrong] + 1) % CLASSES
    return TokenSplit(inputs, labels)


def test_perplexity_is_one_over_the_probability() -> None:
    networks = {"dense": Sure(0.8), "compressed": Sure(0.4)}
    scores = compare_networks(networks, {"test": sequences(9)}, CausalLM(), batch_size=2)
    assert scores["dense"]["perplexity"] == pytest.approx(1 / 0.8, rel=1e-5)  # float32 logits
    assert scores["compressed"]["perplexity"] == pytest.approx(1 / 0.4, rel=1e-5)
    assert scores["compressed"]["loss"] == pytest.approx(-math.log(0.4), rel=1e-5)
    assert scores["compressed"]["perplexity_ratio"] == pytest.approx(2, rel=1e-5)
    assert scores["dense"]["accuracy"] == 1.0
    # All sequences alike: nothing to be unsure of.
    for end in ("_low", "_high"):
        assert scores["compressed"][f"perplexity_ratio{end}"] == pytest.approx(2, rel=1e-5)
        assert scores["dense"][f"perplexity{end}"] == pytest.approx(1 / 0.8, rel=1e-5)


def test_the_distance_to_the_dense_network_stands_beside_the_perplexity() -> None:
    """KL of the two probabilities by hand, per token that is not padding; a network that finds the
    right token least likely of all never has the dense network's answer."""
    split = sequences(6)
    split.stored[0, 15:] = PADDING
    networks = {"dense": Sure(0.8), "less sure": Sure(0.4), "wrong": Sure(0.001)}
    scores = compare_networks(networks, {"test": split}, CausalLM(), batch_size=4)
    assert (scores["dense"]["divergence"], scores["dense"]["agreement"]) == (0, 1)
    for name, other in (("less sure", 0.4), ("wrong", 0.001)):
        expected = 0.8 * math.log(0.8 / other) + 0.2 * math.log(0.2 / (1 - other))
        assert scores[name]["divergence"] == pytest.approx(expected, rel=1e-5)
    assert (scores["less sure"]["agreement"], scores["wrong"]["agreement"]) == (1, 0)
    assert [m.name for m in measures(scores["dense"])][-2:] == ["agreement", "divergence"]


def test_out_of_domain_stands_beside_it_and_intervals_hold_the_value() -> None:
    splits = {"test": sequences(40, wrong=10), "ood": sequences(40, wrong=20)}
    scores = compare_networks({"dense": Sure(0.5)}, splits, CausalLM(), batch_size=16)["dense"]
    assert (scores["accuracy"], scores["ood_accuracy"]) == (0.75, 0.5)
    wrong = math.log(49 / 0.5)
    expected = math.exp(0.5 * math.log(2) + 0.5 * wrong)
    assert scores["ood_perplexity"] == pytest.approx(expected, rel=1e-4)
    for prefix in ("", "ood_"):
        low, value, high = (scores[f"{prefix}perplexity{end}"] for end in ("_low", "", "_high"))
        assert low < value < high


def test_the_bootstrap_interval_has_the_width_of_a_normal_one() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    low, high = bootstrap(values)
    standard_error = float(values.std()) / 400**0.5
    # 2,000 resamples: the quantiles themselves are uncertain by a few percent.
    assert (high - low) / (2 * 1.96 * standard_error) == pytest.approx(1, abs=0.1)
    assert bootstrap(values) == (low, high), "seeded"


class Embed(nn.Module):
    """An embedding by token, times a matrix; the mean over what is no padding."""

    def __init__(self, table: Tensor, matrix: Tensor) -> None:
        super().__init__()
        self.table, self.matrix = nn.Parameter(table), matrix

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens != PADDING).unsqueeze(-1)
        return ((self.table[tokens.clamp(min=0)] * mask).sum(1) / mask.sum(1)) @ self.matrix


def test_fidelity_of_turned_mirrored_and_unrelated_embeddings() -> None:
    generator = torch.Generator().manual_seed(0)
    table, other = torch.randn(2, CLASSES, 16, generator=generator)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
    inputs = torch.randint(CLASSES, (120, 6), generator=generator)
    inputs[::3, 4:] = PADDING
    split = TokenSplit(inputs, torch.zeros(120, 0, dtype=torch.int64))
    eye = torch.eye(16)
    networks = {
        "dense": Embed(table, eye),
        "longer": Embed(table, 3 * eye),
        "turned": Embed(table, turn),
        "mirrored": Embed(table, -eye),
        "unrelated": Embed(other, eye),
    }
    scores = compare_networks(networks, {"test": split}, Encoder(), batch_size=50)
    for name in ("dense", "longer"):
        same = {"cosine": 1, "recall_at_10": 1, "divergence": 0}
        assert scores[name] == pytest.approx(same, abs=1e-6)
    # Nearest neighbours don't mind a rotation; the cosine to the dense embedding does.
    assert scores["turned"]["recall_at_10"] > 0.99 and abs(scores["turned"]["cosine"]) < 0.5
    assert scores["mirrored"]["cosine"] == pytest.approx(-1, abs=1e-6)
    assert scores["mirrored"]["divergence"] == pytest.approx(2, abs=1e-6)
    chance = 10 / 119
    assert scores["unrelated"]["recall_at_10"] < 3 * chance


def test_recall_by_hand() -> None:
    """Four points on a circle: the neighbours by angle, and with two of them swapped."""

    def at(*degrees: float) -> Tensor:
        angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
        return torch.stack([angles.cos(), angles.sin()], 1)

    truth, found = at(0, 10, 90, 101), at(0, 90, 10, 101)
    assert recall(truth, truth, 1) == 1.0
    assert recall(truth, found, 1) == 0.0
    assert recall(truth, found, 2) == 0.75
    assert recall(truth, found, 10) == 1.0, "three others are all there are"
