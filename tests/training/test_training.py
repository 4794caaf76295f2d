"""The loop learns, repeats itself to the bit, keeps the best state, and says what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.files import load_split
from pipeline.data.splits import Split
from pipeline.evaluation.quality import evaluate_quality
from pipeline.lowrank import LowRankError
from pipeline.lowrank.tasks import Classification
from pipeline.machine.devices import FabricOptions, make_fabric
from pipeline.models.resnet import ResNet
from pipeline.training.curve import Curve
from pipeline.training.losses import Batch
from pipeline.training.options import TrainingOptions
from pipeline.training.train import train

TASK = Classification()
OPTIONS = TrainingOptions(
    epochs=6, batch_size=32, learning_rate=0.1, label_smoothing=0.05, augment="crop"
)


def small_network(seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(widths=(16, 32), blocks=(1, 1), hidden=32, pool=2)


@pytest.fixture
def splits(digits: Path) -> tuple[Split, Split]:
    return load_split(digits, "train"), load_split(digits, "validation")


@pytest.fixture
def few(splits: tuple[Split, Split]) -> tuple[Split, Split]:
    """128 examples for training: enough for all that isn't about accuracy."""
    first = splits[0]
    return Split(first.inputs[:128], first.labels[:128]), splits[1]


def test_digits_are_learned(digits: Path, splits: tuple[Split, Split], fabric: Fabric) -> None:
    model = small_network()
    test = load_split(digits, "test")
    before = evaluate_quality(model, test, TASK, 100)["accuracy"]
    curve = train(model, *splits, OPTIONS, TASK, fabric=fabric, seed=0)
    after = evaluate_quality(model, test, TASK, 100)
    assert before < 0.3
    assert after["accuracy"] > 0.95
    assert after["loss"] < 0.3
    losses = [step.train_loss for step in curve.steps]
    assert losses[-1] < 0.8 < losses[0]
    assert curve.epochs[0].validation_accuracy < 0.3
    assert len(curve.epochs) == 7
    assert not model.training


def test_same_seed_same_bits_another_seed_others(few: tuple[Split, Split]) -> None:
    options = replace(OPTIONS, epochs=2, augment="crop_flip")

    def trained(seed: int) -> tuple[dict[str, Tensor], dict[str, object]]:
        fabric = make_fabric(FabricOptions(threads=1), seed)
        model = small_network()
        curve = train(model, *few, options, TASK, fabric=fabric, seed=seed)
        return model.state_dict(), curve

    (first, first_curve), (again, again_curve), (other, _) = trained(4), trained(4), trained(5)
    assert first_curve == again_curve
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.0.weight"], other["head.0.weight"])


def test_an_absurd_learning_rate_gives_the_network_back(
    splits: tuple[Split, Split], fabric: Fabric
) -> None:
    model = small_network()
    train(model, *splits, replace(OPTIONS, epochs=4), TASK, fabric=fabric, seed=0)
    good = {name: value.clone() for name, value in model.state_dict().items()}
    loss = evaluate_quality(model, splits[1], TASK, 500)["loss"]
    spoiled = replace(OPTIONS, epochs=1, learning_rate=3.0, augment="none")
    curve = train(model, *splits, spoiled, TASK, fabric=fabric, seed=1)
    assert curve.best_epoch == 0
    assert curve.epochs[1].validation_loss > 2 * loss
    assert curve.epochs[0].validation_loss == pytest.approx(loss, rel=1e-6)
    assert all(torch.equal(good[name], value) for name, value in model.state_dict().items())


def test_the_best_epoch_is_the_state_that_comes_back(
    few: tuple[Split, Split], fabric: Fabric
) -> None:
    model = small_network()
    curve = train(model, *few, replace(OPTIONS, epochs=5), TASK, fabric=fabric, seed=2)
    losses = [epoch.validation_loss for epoch in curve.epochs]
    assert losses[curve.best_epoch] == min(losses)
    assert curve.best_epoch > 0
    assert evaluate_quality(model, few[1], TASK, 500)["loss"] == pytest.approx(
        min(losses), rel=1e-5
    )


def test_a_loss_that_explodes_names_step_and_rate(few: tuple[Split, Split], fabric: Fabric) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10))
    options = replace(OPTIONS, epochs=3, learning_rate=1e6)
    message = r"the loss became (nan|inf) at step \d+ \(learning rate [\d.e+]+\); lower"
    with pytest.raises(LowRankError, match=message):
        train(model, *few, options, TASK, fabric=fabric, seed=0)


def test_the_step_of_a_nan_is_exact(few: tuple[Split, Split], fabric: Fabric) -> None:
    calls = []

    def objective(network: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
        calls.append(len(batch.labels))
        loss = functional.cross_entropy(network(batch.inputs), batch.labels)
        return loss * float("nan") if len(calls) == 301 else loss

    options = replace(OPTIONS, epochs=200, batch_size=64, learning_rate=1e-4, augment="none")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(LowRankError, match=r"the loss became nan at step 301 "):
        train(model, *few, options, TASK, fabric=fabric, seed=0, objective=objective)
    assert set(calls) == {64}


def test_curve_is_told_as_it_grows_and_stays_short(
    few: tuple[Split, Split], fabric: Fabric
) -> None:
    told: list[tuple[int, dict[str, float]]] = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    options = replace(OPTIONS, epochs=100, batch_size=16, augment="none")
    curve = train(
        model,
        *few,
        options,
        TASK,
        fabric=fabric,
        seed=0,
        on_step=lambda metrics, step: told.append((step, dict(metrics))),
    )
    assert 150 < len(curve.steps) <= 200
    assert curve.steps[-1].step == 800
    assert curve.steps[-1].epoch == 100
    rates = [step.learning_rate for step in curve.steps]
    assert max(rates) == pytest.approx(0.1, rel=0.01)
    assert rates[0] < 0.01 > rates[-1]
    steps = {step: m["train_loss"] for step, m in told if "train_loss" in m}
    assert steps == {entry.step: entry.train_loss for entry in curve.steps}
    epochs = [m["validation_loss"] for _, m in told if "validation_loss" in m]
    assert epochs == [entry.validation_loss for entry in curve.epochs]
    assert [entry.epoch for entry in curve.epochs] == list(range(101))


def test_gradient_norms_are_those_of_the_batches(few: tuple[Split, Split], fabric: Fabric) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    gradients: list[float] = []

    def objective(network: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
        loss = functional.cross_entropy(network(batch.inputs), batch.labels)
        found = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        gradients.append(sum(float(g.double().square().sum()) for g in found))
        return loss

    options = replace(OPTIONS, epochs=2, augment="none")
    curve = train(model, *few, options, TASK, fabric=fabric, seed=0, objective=objective)
    told = [step.gradient_squared_norm for step in curve.steps]
    assert told == pytest.approx(gradients, rel=1e-5)
    assert min(told) > 0


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_measuring_descent_changes_no_bit(
    few: tuple[Split, Split], fabric: Fabric, dropout: float
) -> None:
    def trained(points: int) -> tuple[dict[str, Tensor], Curve]:
        model = nn.Sequential(small_network(), nn.Dropout(dropout), nn.Linear(10, 10))
        options = replace(OPTIONS, epochs=2)
        torch.manual_seed(1)
        curve = train(model, *few, options, TASK, fabric=fabric, seed=0, descent_points=points)
        return model.state_dict(), curve

    (plain, off), (probed, on) = trained(0), trained(3)
    assert off.descent == []
    rows = on.descent
    assert [row.step for row in rows] == [0, 4, 8]
    assert [row.epoch for row in rows] == [0, 1, 2]
    assert replace(on, descent=[]) == off
    assert all(torch.equal(plain[name], probed[name]) for name in plain)
    first = rows[0]
    assert first.subset_loss == first.printed_false == first.descent == first.descent_sgd
    for before, row in pairwise(rows):
        assert row.subset_gradient_squared_norm > 0 and row.smoothness > 0
        assert row.printed_false < before.printed_false
        assert row.descent < before.descent and row.descent < row.descent_sgd


def test_frozen_parameters_and_3d_kernels(few: tuple[Split, Split], fabric: Fabric) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Unflatten(1, (1, 1)), nn.Conv3d(1, 4, (1, 3, 3)), nn.Flatten(), nn.Linear(4 * 36, 10)
    )
    kernel, matrix = model.get_parameter("1.weight"), model.get_parameter("3.weight")
    kernel.requires_grad_(False)
    kernel_before, matrix_before = kernel.clone(), matrix.clone()
    train(model, *few, replace(OPTIONS, epochs=1), TASK, fabric=fabric, seed=0)
    assert torch.equal(kernel, kernel_before)
    assert not torch.equal(matrix, matrix_before)


def test_kernels_come_back_contiguous(few: tuple[Split, Split], fabric: Fabric) -> None:
    model = small_network()
    train(model, *few, replace(OPTIONS, epochs=1), TASK, fabric=fabric, seed=0)
    assert all(parameter.is_contiguous() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "epochs=0: choose a number of at least 1"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1: choose a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan: choose a number above 0"),
        (
            {"augment": "mixup"},
            "augment='mixup': unknown; choose one of none, flip, crop",
        ),
    ],
)
def test_impossible_options(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(LowRankError, match=message):
        replace(OPTIONS, **changed)


def test_a_machine_without_the_accelerator() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(
        LowRankError, match=r"fabric: .*accelerator=cuda.*correct the fabric section"
    ):
        make_fabric(FabricOptions(accelerator="cuda"), seed=0)
    with pytest.raises(LowRankError, match=r"threads=0: choose a number of at least 1"):
        FabricOptions(threads=0)
