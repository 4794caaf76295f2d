"""Measures and losses of the tasks against scikit-learn and figures counted by hand; what a task
does not understand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn import metrics
from torch import Tensor, nn

import pipeline.lowrank as lr
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.tasks import Given, Task, get_task


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quality(task: Task, output: Tensor, labels: Any, *, parts: int = 2) -> dict[str, float]:
    """Measured in batches of several sizes, which change nothing."""
    pairs = zip(output.split(parts), labels.split(parts), strict=True)
    scores = [task.scores(out, task.target(Given(None, true))) for out, true in pairs]
    return task.quality(scores, scores)


def test_regression_is_measured_as_by_scikit_learn() -> None:
    found, true = drawn(9, 3), drawn(9, 3, seed=1)
    values = quality(lr.tasks.Regression(), found, true)
    assert values["r2"] == pytest.approx(
        metrics.r2_score(true, found, multioutput="variance_weighted"), rel=1e-6
    )
    assert values["mae"] == pytest.approx(metrics.mean_absolute_error(true, found), rel=1e-6)
    assert values["mse"] == pytest.approx(metrics.mean_squared_error(true, found), rel=1e-6)
    assert values["rmse"] == pytest.approx(values["mse"] ** 0.5, rel=1e-12)
    # (N, 1) against (N,) is no matrix of all pairs.
    one = quality(lr.tasks.Regression(), found[:, :1], true[:, 0])
    assert one["mse"] == pytest.approx(float((found[:, 0] - true[:, 0]).square().mean()), rel=1e-6)


def test_multilabel_is_measured_as_by_scikit_learn() -> None:
    found, true = drawn(40, 3), (drawn(40, 3, seed=1) > 0).long()
    values = quality(lr.tasks.Multilabel(), found, true, parts=7)
    assert values["average_precision"] == pytest.approx(
        metrics.average_precision_score(true, found, average="macro"), rel=1e-5
    )
    assert values["f1"] == pytest.approx(metrics.f1_score(true, found > 0, average="macro"))
    assert values["accuracy"] == pytest.approx(float(((found > 0) == true).float().mean()))
    assert values["loss"] == pytest.approx(metrics.log_loss(
        true.flatten(), found.sigmoid().flatten().double()
    ), rel=1e-5)  # fmt: skip


def test_segmentation_leaves_out_what_has_no_label() -> None:
    found, true = drawn(6, 3, 4, 5), torch.randint(3, (6, 4, 5))
    true[:, 0], true[0] = -100, 255
    values = quality(lr.tasks.Segmentation(ignore_index=255), found, true)
    kept = (true >= 0) & (true < 3)
    best = found.argmax(1)[kept]
    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(true[kept], best))
    iou = metrics.jaccard_score(true[kept], best, average="macro")
    assert values["mean_iou"] == pytest.approx(iou, rel=1e-6)
    logits = found.movedim(1, -1)[kept]
    mean = nn.functional.cross_entropy(logits, true[kept]).item()
    assert values["loss"] == pytest.approx(mean, rel=1e-5)
    task = lr.tasks.Segmentation(ignore_index=255)
    assert task.loss(found, true, 0.0).item() == pytest.approx(mean, rel=1e-5)
    with pytest.raises(lr.LowRankError, match=r"label 255 where the network has 3 classes"):
        lr.tasks.Segmentation().loss(found, true, 0.0)


def test_a_masked_language_model_counts_at_masked_tokens() -> None:
    found, true = drawn(5, 7, 4), torch.randint(7, (5, 4))
    true[:, 1:3], true[2] = -100, -1  # a sequence without any
    values = quality(lr.tasks.MaskedLM(), found, true)
    mean = nn.functional.cross_entropy(found, true.masked_fill(true < 0, -100)).item()
    assert values["loss"] == pytest.approx(mean, rel=1e-5)
    assert values["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
    assert values["perplexity_low"] < values["perplexity"] < values["perplexity_high"]
    assert values["perplexity_ratio"] == 1


def test_taggers_have_the_f1_of_scikit_learn() -> None:
    found, true = drawn(6, 3, 4), torch.randint(3, (6, 4))
    true[:, 3] = -100
    values = quality(lr.tasks.TokenClassification(), found, true)
    kept = true >= 0
    best = found.argmax(1)[kept]
    assert values["f1"] == pytest.approx(metrics.f1_score(true[kept], best, average="macro"))


def test_a_second_text_has_its_own_padding() -> None:
    task, logits = lr.tasks.Seq2Seq(), drawn(2, 7, 3)
    written = torch.tensor([[4, 2, -1], [1, -1, -1]])
    batch = {"input_ids": torch.ones(2, 3, dtype=torch.int64), "decoder_input_ids": written}
    text = torch.ones(2, 3, dtype=torch.bool)  # of the first text, as long as the second
    rows = task.rows(logits, task.mask(Given(batch, padding=text)))
    assert torch.equal(rows, logits.transpose(1, 2)[written >= 0])


def test_an_autoencoder_is_compared_with_its_input() -> None:
    task, x = lr.tasks.Reconstruction(), drawn(4, 2, 3)
    assert task.loss(x + 0.5, task.target(Given(x)), 0.0).item() == pytest.approx(0.25)
    with pytest.raises(lr.LowRankError, match="reads a, b, and only a single input"):
        task.target(Given({"a": x, "b": x}))


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_a_divergence_of_numbers_is_half_of_the_lost_share_of_their_variance(size: float) -> None:
    """Whatever their scale, their mean and their number; batches don't matter."""
    net, x = nn.Linear(6, 5).double(), drawn(90, 6).double()
    net.weight.data *= size
    net.bias.data += 100 * size
    other = nn.Linear(6, 5).double()
    other.load_state_dict(net.state_dict())
    other.weight.data[2] *= 0.9
    with torch.no_grad():
        y, z = net(x), other(x)
    lost = float((y - z).square().sum() / (y - y.mean(0)).square().sum())
    for task in (lr.tasks.Regression(), lr.tasks.Custom()):
        found = Divergence(net, list(x.split(40)), task).of(other)
        assert found == pytest.approx(lost / 2, rel=1e-3)
    known = lr.tasks.Regression(variance=4.0 * size**2)
    assert Divergence(net, [x], known).of(other) == pytest.approx(
        float((y - z).square().sum()) / (2 * 90 * 4.0 * size**2), rel=1e-3
    )


def test_each_tensor_of_an_output_counts_by_its_own_variance() -> None:
    """Boxes in 0…1 beside logits of a hundred; a tensor that never varies has its mean square."""
    large, small = 100 * drawn(50, 4), 0.01 * drawn(50, 2, seed=1)
    fixed = torch.full((50, 3), 7.0)
    task = lr.tasks.Custom().fitted([(large, small, fixed)])
    dense = task.normalised(task.rows((large, small, fixed), None))
    for moved in ((1.1 * large, small, fixed), (large, 1.1 * small, fixed)):
        apart = task.divergence(dense, task.normalised(task.rows(moved, None)))
        assert float(apart) / 50 == pytest.approx(0.01 / 2, rel=0.1)
    apart = task.divergence(dense, task.normalised(task.rows((large, small, 1.1 * fixed), None)))
    assert float(apart) / 50 == pytest.approx(0.01 / 2, rel=1e-4)


@pytest.mark.parametrize(
    ("task", "output", "message"),
    [
        ("classification", drawn(8, 1), r"\[8, 1\].* choose the task regression"),
        ("classification", drawn(8), r"\[8\].* choose the task regression"),
        ("classification", drawn(8, 6, 5), r"cannot tell classes from positions.* segmentation"),
        ("classification", {"boxes": drawn(8, 4)}, r"dict \(boxes: \[8, 4\]\).* output=…"),
        ("regression", (drawn(8, 2), drawn(8)), r"tuple \(\[8, 2\], \[8\]\).* the task custom"),
        ("regression", torch.ones(8, 2).long(), r"\[8, 2\] of int64"),
        ("multilabel", drawn(8, 2, 4, 4), r"a class at each position is the task segmentation"),
        ("segmentation", drawn(8, 2), r"a class for each example is the task classification"),
        ("custom", (drawn(8, 2), drawn(900, 4)), r"tensors of several lengths"),
        ("custom", {"n": torch.ones(3).long()}, r"finds no numbers"),
    ],
)
def test_outputs_are_refused_with_the_task_that_fits(task: str, output: Any, message: str) -> None:
    with pytest.raises(lr.LowRankError, match=message) as caught:
        get_task(task).rows(output, None)
    assert "\n" not in str(caught.value) and "docs/tasks.md" in str(caught.value)


def test_a_part_of_an_output_is_chosen_by_key_index_or_function() -> None:
    logits = drawn(4, 3)
    for chosen, output in (
        ("scores", {"scores": logits}),
        ("scores", SimpleNamespace(scores=logits)),
        (1, (drawn(4, 2), logits)),
        (lambda output: output[0]["x"], [{"x": logits}]),
    ):
        task = lr.tasks.Classification(output=chosen)
        assert torch.equal(task.rows(output, None), logits)
    both = lr.tasks.Custom(output=["a", "b"])
    assert both.rows({"a": logits, "b": logits, "c": 1.0}, None).shape == (4, 6)
    with pytest.raises(lr.LowRankError, match=r"task\.output=z: the network gives dict \(a: \[4"):
        lr.tasks.Custom(output="z").rows({"a": logits}, None)
