"""The cycle of the learning rate is torch's, and a time budget ends it in time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from pipeline.data.splits import Split
from pipeline.lowrank import LowRankError
from pipeline.lowrank.tasks import Classification
from pipeline.training.muon import orthogonalized
from pipeline.training.optimizers import Clock, make_optimizer, one_cycle
from pipeline.training.options import TrainingOptions
from pipeline.training.train import train

OPTIONS = TrainingOptions(epochs=3, batch_size=10, learning_rate=0.05, augment="crop_flip")


@pytest.mark.parametrize("total", [1, 2, 3, 10, 77, 1000])
def test_the_cycle_is_torchs_to_the_bit(total: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.3, total_steps=total + 1, cycle_momentum=False
    )
    for step in range(total):
        assert optimizer.param_groups[0]["lr"] == one_cycle(step, total, 0.3)
        optimizer.step()
        schedule.step()


def test_biases_are_not_decayed_and_frozen_parameters_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[1].weight.requires_grad_(False)
    for name, kind in (("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)):
        optimizer = make_optimizer(model, name, 0.1, 0.9, 0.01)
        assert isinstance(optimizer, kind)
        matrices, vectors = optimizer.param_groups
        assert [p.shape for p in matrices["params"]] == [(4, 3)]
        assert [p.shape for p in vectors["params"]] == [(4,), (2,)]
        assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.01, 0.0)


def test_muon_is_torchs_for_matrices_and_adamw_for_vectors() -> None:
    shapes = [(5, 3), (4,), (3, 60), (2, 3, 3, 3), ()]
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    found, expected = ([nn.Parameter(t.clone()) for t in start] for _ in range(2))
    one = make_optimizer(nn.ParameterList(found), "muon", 1.0, 0.8, 0.1)
    matrices = [nn.Parameter(p.detach().flatten(1)) for p in expected if p.dim() >= 2]
    muon = torch.optim.Muon(
        matrices, momentum=0.8, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    vectors = [p for p in expected if p.dim() < 2]
    adamw = torch.optim.AdamW(vectors, betas=(0.8, 0.99), weight_decay=0.0)
    for rate in (0.01, 0.03, 0.02):
        for optimizer in (one, muon, adamw):
            for group in optimizer.param_groups:
                group["lr"] = rate
        for parameter in found:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for theirs, ours in (
            (matrices, [p for p in found if p.dim() >= 2]),
            (vectors, [p for p in found if p.dim() < 2]),
        ):
            for a, b in zip(theirs, ours, strict=True):
                a.grad = b.grad.clone().view_as(a)  # type: ignore[union-attr]
        for optimizer in (one, muon, adamw):
            optimizer.step()
    again = iter(matrices)
    for ours, before, vector in zip(found, start, expected, strict=True):
        moved = ours.detach() - before
        if ours.dim() < 2:
            assert torch.equal(ours, vector)
        else:  # theirs is rounded to bfloat16
            theirs = next(again).detach().view_as(ours) - before
            assert (moved - theirs).norm() < 0.05 * moved.norm()


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (7, 7), (1, 5)])
def test_orthogonalized_has_singular_values_near_1(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.mT @ orthogonalized(matrix) @ right.mT
    assert torch.allclose(inner, torch.diag(inner.diagonal()), atol=1e-5)
    assert ((inner.diagonal() > 0.6) & (inner.diagonal() < 1.3)).all()
    assert not orthogonalized(torch.zeros(shape)).any()


def test_the_clock_counts_steps_or_time(fabric: Fabric) -> None:
    assert Clock(100, None, fabric).position(40) == 40
    clock = Clock(100, 1.0, fabric)
    assert clock.position(40) == 40  # no minute has passed
    clock.resume(45.0)
    assert clock.position(40) == pytest.approx(75, abs=1)
    clock.resume(600.0)
    assert clock.position(40) == 100


@pytest.fixture
def splits() -> tuple[Split, Split]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (130,), generator=generator)
    images = torch.randn(130, 1, 6, 6, generator=generator) + labels.view(-1, 1, 1, 1)
    return Split(images[:100], labels[:100]), Split(images[100:], labels[100:])


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(36, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(16, 4),
    )


def test_a_training_ends_with_its_time(splits: tuple[Split, Split], fabric: Fabric) -> None:
    options = replace(OPTIONS, epochs=100_000, minutes=0.02)
    model = network()
    curve = train(model, *splits, options, Classification(), fabric=fabric, seed=0)
    last = curve.steps[-1]
    assert 0 < last.step < 100_000
    assert curve.epochs[-1].step == last.step
    assert last.learning_rate < 0.01 * options.learning_rate  # the cycle is complete
    assert curve.epochs[curve.best_epoch].validation_loss < curve.epochs[0].validation_loss


def test_no_time_is_refused() -> None:
    with pytest.raises(LowRankError, match=r"minutes=0: choose a number above 0"):
        replace(OPTIONS, minutes=0)
    with pytest.raises(
        LowRankError, match=r"optimizer='lion': unknown; choose one of sgd, adamw, muon"
    ):
        replace(OPTIONS, optimizer="lion")  # type: ignore[arg-type]
