"""Distillation: the loss it states, and a teacher that answers the same with and without cache."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from pipeline.workload import objectives
from pipeline.workload.objectives import Batch, Teacher, cross_entropy, distillation
from pipeline.workload.splits import Split


@pytest.fixture
def split() -> Split:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(70, 1, 4, 4, generator=generator)
    return Split(inputs, torch.randint(0, 6, (70,), generator=generator), [0.1], [2.0])


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 6))


def batch_of(split: Split, examples: Tensor) -> Batch:
    return Batch(*split.batch(examples), examples)


EXAMPLES = torch.tensor([3, 69, 0, 12, 33])


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 1.0), (2.0, 0.5), (5.0, 0.3)])
def test_the_loss_is_the_stated_one(
    split: Split, fabric: Fabric, temperature: float, weight: float
) -> None:
    teacher, student, batch = network(1), network(2), batch_of(split, EXAMPLES)
    objective = distillation(
        Teacher(teacher, split, fabric, "none"),
        temperature=temperature,
        weight=weight,
        label_smoothing=0.1,
    )
    softened = (teacher(batch.inputs).double() / temperature).softmax(1)
    answers = student(batch.inputs).double()
    ratio = softened.log() - (answers / temperature).log_softmax(1)
    divergence = (softened * ratio).sum(1).mean()
    hard = functional.cross_entropy(answers, batch.labels, label_smoothing=0.1)
    expected = (1 - weight) * hard + weight * temperature**2 * divergence
    assert objective(student, batch).item() == pytest.approx(expected.item(), rel=1e-5)
    assert divergence > 1e-3


def test_the_ends_of_the_weight(split: Split, fabric: Fabric) -> None:
    batch = batch_of(split, EXAMPLES)
    teacher, student = network(1).eval(), network(2)
    answers = Teacher(teacher, split, fabric, "none")
    labels = distillation(answers, temperature=3.0, weight=0.0, label_smoothing=0.0)
    assert labels(student, batch).item() == cross_entropy(0.0)(student, batch).item()
    alone = distillation(answers, temperature=3.0, weight=1.0, label_smoothing=0.0)
    assert abs(alone(teacher, batch).item()) < 1e-6
    assert alone(student, batch).item() > 1e-3


def test_the_cache_changes_no_answer(
    split: Split, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    net = network(1)
    net.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    batch = batch_of(split, EXAMPLES)
    teacher = Teacher(net, split, fabric, "none")
    assert sum(calls) == len(split)
    cached = teacher.logits(batch)
    assert sum(calls) == len(split)  # nothing computed anew
    augmented = Teacher(net, split, fabric, "crop").logits(batch)
    assert sum(calls) == len(split) + len(EXAMPLES)
    monkeypatch.setattr(objectives, "_CACHE_BYTES", 70 * 6 * 4 - 1)
    too_large = Teacher(net, split, fabric, "none").logits(batch)
    assert calls[-1] == len(EXAMPLES)
    monkeypatch.setattr(objectives, "_CACHE_BYTES", 70 * 6 * 4)
    monkeypatch.setattr(objectives, "_TEACHER_BATCH", 16)
    in_parts = Teacher(net, split, fabric, "none").logits(batch)
    for other in (augmented, too_large, in_parts):
        assert torch.allclose(cached, other, rtol=0, atol=1e-6)
    assert not cached.requires_grad
    assert not net.training
