"""Quality against figures counted by hand; and whether a model fits its data."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pipeline.data.splits import Split
from pipeline.evaluation.quality import check_fit, evaluate_quality
from pipeline.lowrank import LowRankError
from pipeline.lowrank.tasks import Classification
from pipeline.lowrank.tasks.base import Examples
from pipeline.models.resnet import ResNet

PLANTED, TASK = Examples("planted", (1, 8, 8), classes=10), Classification()


def test_accuracy_and_loss_by_hand() -> None:
    """Inputs are the logits: log 3 for the class named, so that its probability is 3/4."""
    named = torch.tensor([0, 1, 1, 0, 1])
    logits = torch.nn.functional.one_hot(named, 2) * math.log(3)
    split = Split(logits.float(), torch.tensor([0, 1, 1, 0, 0]))  # the last one is wrong
    quality = evaluate_quality(nn.Identity(), split, TASK, batch_size=2)
    assert quality["accuracy"] == 0.8
    expected = (4 * math.log(4 / 3) + math.log(4)) / 5
    assert quality["loss"] == pytest.approx(expected, rel=1e-6)


def test_batches_do_not_matter_and_the_mode_stays() -> None:
    torch.manual_seed(0)
    split = Split(torch.rand(50, 1, 8, 8), torch.arange(50) % 10)
    model = ResNet(widths=(8,), blocks=(1,), hidden=16).train()
    whole, parts = (evaluate_quality(model, split, TASK, size) for size in (50, 7))
    assert whole["accuracy"] == parts["accuracy"]
    assert whole["loss"] == pytest.approx(parts["loss"], rel=1e-5)
    assert whole["loss"] > 1
    assert model.training
    assert int(model.get_buffer("stem.1.num_batches_tracked")) == 0


def test_half_precision_networks_are_evaluated_in_their_own_type() -> None:
    split = Split(torch.rand(6, 1, 8, 8), torch.arange(6))
    model = ResNet(widths=(8,), blocks=(1,)).to(torch.bfloat16)
    assert math.isfinite(evaluate_quality(model, split, TASK, 6)["loss"])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ResNet(classes=7), r"gives \[1, 7\] .* planted has 10 classes: it must give \[1, 10\]"),
        (ResNet(in_channels=3), r"doesn't take the data planted, examples of shape \[1, 8, 8\]"),
        (nn.Flatten(0), r"the model gives \[64\] for one example"),
    ],
)
def test_a_model_that_does_not_fit_the_data(model: nn.Module, message: str) -> None:
    with pytest.raises(LowRankError, match=message):
        check_fit(model, PLANTED, TASK)


def test_a_model_with_damaged_weights() -> None:
    model = ResNet()
    nn.init.constant_(model.get_parameter("head.2.bias"), float("nan"))
    with pytest.raises(LowRankError, match=r"gives NaN or Inf for an input of zeros"):
        check_fit(model, PLANTED, TASK)
    check_fit(ResNet(), PLANTED, TASK)


def test_resnet_groups_must_agree() -> None:
    with pytest.raises(LowRankError, match=r"widths=\[8, 16\] and blocks=\[1\] must name the same"):
        ResNet(widths=(8, 16), blocks=(1,))
