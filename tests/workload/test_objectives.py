"""Distillation: the loss it states, and a teacher that answers the same with and without cache."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from pipeline.workload import objectives
from pipeline.workload.objectives import (
    Batch,
    Teacher,
    cross_entropy,
    distillation,
    embedding_distillation,
)
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
    first = sum(calls)
    assert first == len(split) + 1  # one tells the size
    cached = teacher.answers(batch)
    assert sum(calls) == first  # nothing computed anew
    augmented = Teacher(net, split, fabric, "crop").answers(batch)
    assert sum(calls) == first + len(EXAMPLES)
    monkeypatch.setattr(objectives, "_CACHE_BYTES", 70 * 6 * 4 - 1)
    too_large = Teacher(net, split, fabric, "none").answers(batch)
    assert calls[-1] == len(EXAMPLES)
    monkeypatch.setattr(objectives, "_CACHE_BYTES", 70 * 6 * 4)
    monkeypatch.setattr(objectives, "_TEACHER_BATCH", 16)
    in_parts = Teacher(net, split, fabric, "none").answers(batch)
    for other in (augmented, too_large, in_parts):
        assert torch.allclose(cached, other, rtol=0, atol=1e-6)
    assert not cached.requires_grad
    assert not net.training


def test_of_a_language_model_it_is_a_mean_over_tokens(split: Split, fabric: Fabric) -> None:
    torch.manual_seed(3)
    logits, answers = torch.randn(2, 3, 7, 5).double().unbind()
    labels = torch.randint(0, 7, (3, 5))
    teacher = Teacher(nn.Identity(), split, fabric, "crop")
    teacher.answers = lambda batch: answers  # type: ignore[method-assign]
    objective = distillation(teacher, temperature=1.0, weight=0.25, label_smoothing=0.0)
    found = objective(lambda inputs: logits, Batch(torch.zeros(3, 5), labels, torch.arange(3)))
    truth = answers.softmax(1)
    divergence = (truth * (truth.log() - logits.log_softmax(1))).sum(1)
    hard = -logits.log_softmax(1).gather(1, labels.unsqueeze(1))
    assert found.item() == pytest.approx(
        0.75 * hard.mean().item() + 0.25 * divergence.mean().item(), rel=1e-9
    )


def test_embeddings_are_brought_to_the_teachers_direction(split: Split, fabric: Fabric) -> None:
    teacher, student, batch = network(1), network(2), batch_of(split, EXAMPLES)
    objective = embedding_distillation(Teacher(teacher, split, fabric, "none"))
    truth, found = teacher(batch.inputs), student(batch.inputs)
    cosines = (truth * found).sum(1) / (truth.norm(dim=1) * found.norm(dim=1))
    assert objective(student, batch).item() == pytest.approx(1 - cosines.mean().item(), rel=1e-5)
    assert abs(objective(teacher, batch).item()) < 1e-6
