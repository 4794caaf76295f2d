"""Distillation: the loss it states, and a teacher that answers the same with and without cache."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.splits import Channels, Split, TokenSplit
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.blocks import BlockOutputs
from pipeline.lowrank.network.calling import PADDING
from pipeline.lowrank.tasks import CausalLM, Classification, Encoder
from pipeline.training import losses as objectives
from pipeline.training.losses import (
    Batch,
    Teacher,
    distillation,
    label_loss,
    with_states,
)

TASK = Classification()
WHOLE = {"temperature": 1.0, "weight": 1.0, "label_smoothing": 0.0}


@pytest.fixture
def split() -> Split:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(70, 1, 4, 4, generator=generator)
    return Split(
        inputs,
        torch.randint(0, 6, (70,), generator=generator),
        {"inputs": Channels((0.1,), (2.0,))},
    )


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
        TASK,
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
    labels = distillation(TASK, answers, temperature=3.0, weight=0.0, label_smoothing=0.0)
    assert labels(student, batch).item() == label_loss(TASK, 0.0)(student, batch).item()
    alone = distillation(TASK, answers, temperature=3.0, weight=1.0, label_smoothing=0.0)
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
    objective = distillation(CausalLM(), teacher, temperature=1.0, weight=0.25, label_smoothing=0.0)
    found = objective(lambda inputs: logits, Batch(torch.zeros(3, 5), labels, torch.arange(3)))
    truth = answers.softmax(1)
    divergence = (truth * (truth.log() - logits.log_softmax(1))).sum(1)
    hard = -logits.log_softmax(1).gather(1, labels.unsqueeze(1))
    assert found.item() == pytest.approx(
        0.75 * hard.mean().item() + 0.25 * divergence.mean().item(), rel=1e-9
    )


def test_embeddings_are_brought_to_the_teachers_direction(split: Split, fabric: Fabric) -> None:
    teacher, student, batch = network(1), network(2), batch_of(split, EXAMPLES)
    objective = distillation(Encoder(), Teacher(teacher, split, fabric, "none"), **WHOLE)
    truth, found = teacher(batch.inputs), student(batch.inputs)
    cosines = (truth * found).sum(1) / (truth.norm(dim=1) * found.norm(dim=1))
    assert objective(student, batch).item() == pytest.approx(1 - cosines.mean().item(), rel=1e-5)
    assert abs(objective(teacher, batch).item()) < 1e-6


def test_states_add_their_relative_squared_error(split: Split, fabric: Fabric) -> None:
    teacher, student, batch = network(1).eval(), network(2).eval(), batch_of(split, EXAMPLES)
    blocks = ["1", "3"]
    answers = Teacher(teacher, split, fabric, "none", keep=False)
    objective = distillation(TASK, answers, temperature=1.0, weight=1.0, label_smoothing=0.0)
    plain = objective(student, batch).item()
    states = with_states(
        objective, BlockOutputs(student, blocks), BlockOutputs(teacher, blocks), 0.3
    )
    expected = []
    for end in (2, 4):
        found, state = student[:end](batch.inputs), teacher[:end](batch.inputs)
        expected.append((((found - state) ** 2).sum() / (state**2).sum()).item())
    for _ in range(2):
        found = states(student, batch).item()
        assert found == pytest.approx(plain + 0.3 * sum(expected) / 2, rel=1e-5)
    assert min(expected) > 0.1
    student(split.batch(EXAMPLES)[0][:2])  # a validation in between leaves nothing behind
    assert states(student, batch).item() == found


def test_states_of_other_sizes_are_refused(split: Split, fabric: Fabric) -> None:
    """Where channels between blocks were narrowed."""
    layers = (nn.Flatten(), nn.Linear(16, 3), nn.Identity(), nn.Linear(3, 6))
    teacher, student, batch = network(1).eval(), nn.Sequential(*layers), batch_of(split, EXAMPLES)
    answers = Teacher(teacher, split, fabric, "none", keep=False)
    objective = distillation(TASK, answers, **WHOLE)
    states = with_states(objective, *(BlockOutputs(m, ["1"]) for m in (student, teacher)), 0.3)
    with pytest.raises(LowRankError, match=r"were narrowed; set fine_tune\.states_weight=0"):
        states(student, batch)


def test_states_of_padding_do_not_count(fabric: Fabric) -> None:
    tokens = torch.tensor([[5, 7, PADDING, PADDING], [1, 2, 3, PADDING], [9, PADDING, 4, 4]])
    split = TokenSplit(tokens, torch.zeros(3, 0, dtype=torch.int64))

    class Reader(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Embedding(20, 6), nn.Linear(6, 6))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.layers(inputs.clamp(min=0)).mean(1)  # type: ignore[no-any-return]

    student, teacher = Reader(1), Reader(2)
    batch = Batch(tokens, split.labels, torch.arange(3))
    objective = distillation(
        Encoder(), Teacher(teacher, split, fabric, "none", keep=False), **WHOLE
    )
    plain = objective(student, batch).item()
    states = with_states(
        objective, *(BlockOutputs(m, ["layers.1"]) for m in (student, teacher)), 1.0
    )
    text = tokens[tokens != PADDING]
    found, state = student.layers(text), teacher.layers(text)
    expected = plain + ((found - state) ** 2).sum().item() / (state**2).sum().item()
    assert states(student, batch).item() == pytest.approx(expected, rel=1e-5)
