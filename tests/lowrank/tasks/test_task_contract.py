"""What every task has to fulfil; a new one is a new row."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from torch.nn import functional

from pipeline.data.files import example_input
from pipeline.evaluation.quality import joined
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import padding_mask
from pipeline.lowrank.tasks import (
    TASKS,
    CausalLM,
    Encoder,
    Given,
    SequenceClassification,
    Task,
    get_task,
)
from pipeline.lowrank.tasks.base import Examples, ExampleScores, Inputs, Labels

ROWS = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def random_rows(count: int = 6, width: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64)


@ROWS
def test_divergence_is_zero_for_equal_predictions_alone(task: Task) -> None:
    dense, other = (task.normalised(random_rows(seed=seed)) for seed in (0, 1))
    assert dense.dtype == torch.float32
    assert task.divergence(dense, dense).item() == pytest.approx(0, abs=1e-6)
    assert task.divergence(dense, other).item() > 0.1
    if (same := task.agree(dense, dense)) is not None:
        apart = task.agree(dense, other)
        assert same.all() and apart is not None and not apart.all() and len(apart) == len(dense)
    halves = (task.divergence(dense[part], other[part]) for part in (slice(3), slice(3, None)))
    assert task.divergence(dense, other).item() == pytest.approx(sum(map(float, halves)), rel=1e-5)


@ROWS
def test_second_moment_of_the_sampled_gradient_is_the_hessian_of_the_divergence(task: Task) -> None:
    count = 200_000
    row = random_rows(1)
    rows = row.expand(count, -1).clone().requires_grad_()
    generator = torch.Generator().manual_seed(1)
    (gradient,) = torch.autograd.grad(task.sampled_loss(rows, generator), rows)
    sampled = gradient.T @ gradient / count
    dense = task.normalised(row)
    hessian = torch.autograd.functional.hessian(
        lambda other: task.divergence(dense, task.normalised(other)), row
    ).reshape(sampled.shape)
    # 200,000 samples: a standard error of about 0.3 %; the Hessian is computed in float32.
    assert torch.linalg.norm(sampled - hessian) < 0.02 * torch.linalg.norm(hessian)
    assert torch.linalg.norm(hessian) > 0.01


@ROWS
def test_the_same_seed_samples_the_same_loss(task: Task) -> None:
    first, second = (
        task.sampled_loss(random_rows(), torch.Generator().manual_seed(2)) for _ in range(2)
    )
    assert torch.equal(first, second) and task.unit


def test_rows_of_a_language_model_have_their_classes_last_and_no_padding() -> None:
    """Both forms of logits give the loss that torch computes with its ignored labels."""
    logits = random_rows(2 * 3, 11).view(2, 3, 11)
    mask = padding_mask(torch.tensor([[5, 0, 7], [3, -1, -1]]))
    labels = torch.tensor([[1, 2, 3], [4, -100, -100]])
    expected = functional.cross_entropy(logits.transpose(1, 2), labels)
    for output in (logits.transpose(1, 2), SimpleNamespace(logits=logits)):
        rows = CausalLM().rows(output, mask)
        assert rows.shape == (4, 11)
        torch.testing.assert_close(functional.cross_entropy(rows, labels[labels >= 0]), expected)


@pytest.mark.parametrize("task", [SequenceClassification(), Encoder()], ids=["classes", "encoder"])
def test_a_padded_sequence_has_one_prediction(task: Task) -> None:
    flat = random_rows(2, 3)
    mask = padding_mask(torch.tensor([[5], [-1]]))
    assert torch.equal(task.rows(flat, mask), flat)


@ROWS
def test_an_output_that_holds_no_prediction_is_refused(task: Task) -> None:
    with pytest.raises(LowRankError, match="the network gives SimpleNamespace") as caught:
        task.rows(SimpleNamespace(states=random_rows()), None)
    assert "\n" not in str(caught.value)


# {task: (shape of an output for three examples, shape of their labels)}; no labels where the input
# or the dense network takes their place.
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]] = {
    "classification": ((3, 4), (3,)),
    "sequence_classification": ((3, 4), (3,)),
    "multilabel": ((3, 4), (3, 4)),
    "segmentation": ((3, 4, 2, 5), (3, 2, 5)),
    "regression": ((3, 4), (3, 4)),
    "reconstruction": ((3, 5), None),
    "causal_lm": ((3, 11, 5), (3, 5)),
    "masked_lm": ((3, 11, 5), (3, 5)),
    "seq2seq": ((3, 11, 5), (3, 5)),
    "token_classification": ((3, 4, 5), (3, 5)),
    "encoder": ((3, 4), None),
    "custom": ((3, 4), None),
}


def examples_of(task: Task) -> Examples:
    shape = SHAPES[task.name][1]
    labels = None if shape is None else shape[1:]
    return Examples("planted", (5,), classes=4, vocabulary=11, label_shape=labels)


def outputs(task: Task, seed: int, count: int = 3) -> torch.Tensor:
    """The outputs of a network that fits the examples."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *SHAPES[task.name][0][1:], generator=generator)


def given(task: Task) -> Given:
    """Three examples with labels, where the task has some, and the dense network's outputs."""
    generator = torch.Generator().manual_seed(9)
    shape = SHAPES[task.name][1]
    labels = None if shape is None else torch.randint(4, shape, generator=generator)
    if task.labels == "value":
        labels = torch.randn(3, 4, generator=generator)
    if task.labels == "classes":
        labels = (labels > 1).long()  # type: ignore[operator]
    return Given(torch.randn(3, 5, generator=generator), labels, dense=outputs(task, 2))


def scores_of(task: Task, seed: int) -> ExampleScores:
    return task.scores(outputs(task, seed), task.target(given(task)))


@ROWS
def test_measures_have_direction_unit_and_words(task: Task) -> None:
    found = [scores_of(task, seed) for seed in (0, 1)]
    dense = [scores_of(task, seed) for seed in (2, 3)]
    values, same = task.quality(found, dense), task.quality(dense, dense)
    assert {measure.name for measure in task.measures} <= set(values)
    assert task.watched in task.measures
    for measure in task.measures:
        assert measure.direction in ("maximize", "minimize")
        assert measure.label and measure.show(values[measure.name])
        assert measure.change(measure.name, same, values)
        assert values[measure.name] == pytest.approx(
            task.quality([joined(found)], [joined(dense)])[measure.name], rel=1e-9
        ), "batches do not matter"


@ROWS
def test_the_watched_measure_is_among_the_results_of_a_training(task: Task) -> None:
    scores = [scores_of(task, seed) for seed in (0, 1)]
    watched, loss = task.progress(scores)
    quality = task.quality(scores, [scores_of(task, seed) for seed in (2, 3)])
    assert watched / 6 == pytest.approx(quality[task.watched.name], rel=1e-9)
    assert loss > 0
    if task.labels is None:
        _, least = task.progress([scores_of(task, 2)])
        assert least == pytest.approx(0, abs=1e-9)


@ROWS
def test_training_brings_an_output_to_the_labels_or_the_teacher(task: Task) -> None:
    output, dense = outputs(task, 0).requires_grad_(), outputs(task, 1)
    assert task.distillation(dense, dense, 2.0).item() == pytest.approx(0, abs=1e-6)
    soft = task.distillation(output, dense, 2.0)
    (gradient,) = torch.autograd.grad(soft, output)
    assert soft > 0 and gradient.abs().max() > 0
    assert task.distillation((output - 0.1 * gradient).detach(), dense, 2.0) < soft
    target = task.target(given(task))
    if task.labels is None:
        with pytest.raises(LowRankError, match="no labels"):
            task.loss(output, target, 0.0)
        return
    loss = task.loss(output, target, 0.0)
    _, total = task.progress([task.scores(output.detach(), target)])
    assert loss.item() == pytest.approx(total / 3, rel=1e-5), "the loss is the mean over examples"


@ROWS
def test_without_labels_quality_is_what_the_dense_network_says(task: Task) -> None:
    alone = task.unlabelled()
    assert (alone.name, alone.inputs) == (task.name, task.inputs)
    batch = replace(given(task), labels=None)
    if task.labels == "input":
        assert alone is task, "the input is its label"
        return
    assert alone.labels is None
    same = alone.quality([alone.scores(outputs(task, 2), alone.target(batch))], [])
    other = alone.quality([alone.scores(outputs(task, 1), alone.target(batch))], [])
    assert {measure.name for measure in alone.measures} <= set(same)
    for measure in alone.measures:
        sign = 1 if measure.direction == "maximize" else -1
        better = sign * (same[measure.name] - other[measure.name])
        assert better > 0 or (better == 0 and measure != alone.watched)
    _, least = alone.progress([alone.scores(outputs(task, 2), alone.target(batch))])
    assert least == pytest.approx(0, abs=1e-6)
    with pytest.raises(LowRankError, match=r"no labels for the task .*distill"):
        alone.loss(outputs(task, 0), alone.target(batch), 0.0)


@ROWS
def test_a_misfit_is_one_line_and_a_fit_is_none(task: Task) -> None:
    assert task.misfit(outputs(task, 0, count=1), examples_of(task)) is None
    assert task.unlabelled().misfit(outputs(task, 0, count=1), examples_of(task)) is None
    for wrong in (torch.zeros(7), torch.zeros(1, 2, 3, 4), SimpleNamespace(logits=None)):
        problem = task.misfit(wrong, examples_of(task))
        if task.name == "custom" and isinstance(wrong, torch.Tensor) and len(wrong) == 1:
            continue  # it takes what it gets
        assert problem and "\n" not in problem


@ROWS
def test_what_examples_hold_is_said(task: Task) -> None:
    assert task.inputs in get_args(Inputs)
    assert task.labels is None or task.labels in get_args(Labels)
    example = example_input(examples_of(task), task)
    assert example.shape == (1, 5)
    assert example.dtype == (torch.int64 if task.inputs == "tokens" else torch.float32)


def test_tasks_are_found_by_name() -> None:
    assert all(get_task(name) is task and task.name == name for name, task in TASKS.items())
    with pytest.raises(LowRankError, match="task 'encodr': unknown; did you mean 'encoder'"):
        get_task("encodr")
