"""The user's own loss and measures, in a notebook and by a section of the configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor, nn

import pipeline.lowrank as lr
from pipeline.data.splits import Split
from pipeline.evaluation.networks import compare_networks
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.tasks.base import Given
from pipeline.lowrank.tasks.options import TaskOptions
from pipeline.lowrank.typed import options_from


class Detector(nn.Module):
    """Two inputs by keyword; a tuple with a dict of boxes and logits, and a scalar."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU())
        self.boxes, self.classes = nn.Linear(48, 5 * 4), nn.Linear(48, 5 * 3)

    def forward(self, image: Tensor, depth: Tensor) -> Any:
        state = self.body(torch.cat([image.flatten(1), depth], 1))
        boxes, logits = self.boxes(state).sigmoid(), self.classes(state)
        found = {"boxes": boxes.view(-1, 5, 4), "logits": logits.view(-1, 5, 3)}
        return found, boxes.mean()


def inputs(count: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randn(count, 4, 4, generator=generator),
        "depth": torch.randn(count, 8, generator=generator),
    }


def labels(count: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {"boxes": torch.rand(count, 5, 4, generator=generator)}


def box_loss(output: Any, batch: Given) -> Tensor:
    assert batch.inputs["image"].shape[0] == len(output[0]["boxes"])
    return (output[0]["boxes"] - batch.labels["boxes"]).abs().mean()


def box_error(output: Any, true: Any) -> Tensor:
    return (output[0]["boxes"] - true["boxes"]).square().mean()


@pytest.mark.parametrize("metric", ["fisher", "input", "weight"])
def test_a_detector_is_planned_and_compressed(metric: Any) -> None:
    net, task = Detector(), lr.tasks.Custom()
    batches = [inputs(60, seed) for seed in range(4)]
    plan = lr.plan(net, lr.Budget(params=0.6), calibration=batches, task=task, metric=metric)
    assert {"body.2", "boxes", "classes"} <= set(plan.layers)
    measured = [one.measured_divergence for one in plan.contest]
    assert 0 < min(measured) < (2.0 if metric == "weight" else 0.5)
    small = lr.apply_(net, plan).network
    with torch.no_grad():
        found, _ = small(**inputs(3))
    assert found["boxes"].shape == (3, 5, 4)
    assert sum(p.numel() for p in small.parameters()) <= 0.6 * plan.expected.dense.params


def test_its_own_loss_and_measures_are_in_the_results() -> None:
    task = lr.tasks.Custom(
        loss=box_loss, measures={"box_error": (box_error, "minimize")}, output=[0]
    )
    with pytest.raises(lr.LowRankError, match=r"task\.loss: .*called with tuple"):
        task.loss((torch.ones(3),), Given(inputs(3), labels(3)), 0.0)
    task = lr.tasks.Custom(loss=box_loss, measures={"box_error": (box_error, "minimize")})
    split = Split(inputs(50, 5), labels(50))
    networks = {"dense": Detector(), "other": Detector(1)}
    found = compare_networks(networks, {"test": split}, task, batch_size=20)
    for name, net in networks.items():
        with torch.no_grad():
            output = net(**inputs(50, 5))
        assert found[name] == pytest.approx(
            {
                "box_error": box_error(output, labels(50)).item(),
                "loss": box_loss(output, Given(inputs(50, 5), labels(50))).item(),
                "divergence": Divergence(networks["dense"], [inputs(50, 5)], task).of(net),
            },
            rel=1e-5,
        )
    assert [m.direction for m in task.measures] == ["minimize", "minimize"]
    alone = compare_networks(networks, {"test": Split(inputs(50, 5))}, task.unlabelled(), 20)
    assert alone["dense"]["mse"] == 0 < alone["other"]["mse"]


def test_metrics_of_torchmetrics_work_as_they_are() -> None:
    """One that is a sum, one that keeps all examples, and one whose states cannot be merged."""

    class Largest(torchmetrics.Metric):
        higher_is_better = False

        def __init__(self) -> None:
            super().__init__()
            self.add_state("largest", torch.tensor(0.0), dist_reduce_fx="max")

        def update(self, prediction: Tensor, target: Tensor) -> None:
            self.largest = torch.maximum(self.largest, (prediction - target).abs().max())

        def compute(self) -> Tensor:
            return self.largest

    kept = {
        "mae": torchmetrics.MeanAbsoluteError(),
        "rank": torchmetrics.SpearmanCorrCoef(),
        "largest": Largest(),
    }
    task = lr.tasks.Custom(loss=nn.HuberLoss(), measures=kept)
    found, true = torch.randn(2, 30, generator=torch.Generator().manual_seed(0)).unbind()
    scores = [
        task.scores(one[:, None], task.target(Given(None, other)))
        for one, other in zip(found.split(8), true.split(8), strict=True)
    ]
    values = task.quality(scores, scores)
    assert values == task.quality(scores, scores), "measuring changes no state"
    for name, metric in kept.items():
        assert values[name] == pytest.approx(float(metric(found, true)), rel=1e-5)
    assert {m.name: m.direction for m in task.measures} == {
        "mae": "minimize", "rank": "maximize", "largest": "minimize", "loss": "minimize",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"loss": {"_target_": "torch.nn.NoLoss"}}, r"task\.loss\._target_=torch\.nn\.NoLoss: can"),
        ({"loss": {"_target_": "torch.nn.HuberLoss", "d": 1}}, r"unexpected keyword.*correct its"),
        ({"loss": {"_target_": "subprocess.Popen"}}, r"is a class, but no module of torch"),
        ({"measures": {"m": {"_target_": "math.hypot"}}}, r"measures\.m: which way is better"),
        ({"measures": {"m": {}}}, r"measures\.m\._target_ is not set"),
        ({"measures": {"loss": {"_target_": "torchmetrics.R2Score"}}}, r"loss: the name is taken"),
        ({"measures": {"mAP@50": {"_target_": "torchmetrics.R2Score"}}}, r"of letters, digits"),
        ({"output": {"_target_": "math.pi"}}, r"task\.output\._target_=math\.pi: is no function"),
    ],
)
def test_a_wrong_section_is_told_in_one_line(section: dict[str, Any], message: str) -> None:
    with pytest.raises(lr.LowRankError, match=message) as caught:
        options_from(TaskOptions, {"name": "custom", **section}, "task").made()
    assert "\n" not in str(caught.value)


def test_a_section_makes_the_task_that_a_notebook_would() -> None:
    section = {
        "name": "custom",
        "output": "y",
        "loss": {"_target_": "torch.nn.HuberLoss", "delta": 0.5},
        "measures": {
            "mae": {"_target_": "torchmetrics.MeanAbsoluteError"},
            "l1": {
                "_target_": "torch.nn.functional.smooth_l1_loss",
                "beta": 2.0,
                "direction": "minimize",
            },
        },
    }
    made = options_from(TaskOptions, section, "task").made()
    found, true = torch.zeros(4, 1), torch.full((4,), 3.0)
    given = made.target(Given(None, true))
    assert made.loss({"y": found}, given, 0.0).item() == pytest.approx(0.5 * (3 - 0.25))
    values = made.quality([made.scores({"y": found}, given)], [])
    assert values == pytest.approx({"mae": 3, "l1": 2, "loss": 0.5 * (3 - 0.25)})
    with pytest.raises(lr.LowRankError, match=r"task\.loss=.*not used by the task regression"):
        options_from(TaskOptions, section | {"name": "regression"}, "task")
