"""Quality of one network on one split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.files import example_input
from pipeline.data.splits import Split, TokenSplit
from pipeline.lowrank.errors import LowRankError

_MOST_TOKENS = 1024  # of one forward pass: the logits of a large vocabulary are 0.2 MB a token


def evaluate_quality(model: nn.Module, split: Split, batch_size: int) -> dict[str, float]:
    """{"accuracy": fraction correct, "loss": mean cross-entropy in nats} of all labels, which
    of a language model are the next tokens.

    Runs in eval mode on the model's own device and restores the mode; sums are float64.
    """
    correct, loss = quality_sums(model, split, torch.arange(len(split)), batch_size)
    return {"accuracy": correct / len(split), "loss": loss / len(split)}


def quality_sums(
    model: nn.Module, split: Split, chosen: Tensor, batch_size: int
) -> tuple[float, float]:
    """(number correct, summed cross-entropy) over the chosen examples; a sequence of tokens
    counts with its mean. Raises LowRankError where the examples have no labels."""
    if not split.labels.numel():
        raise LowRankError(
            "this data has no labels, as an encoder's text: there is no loss to train on; choose "
            "baseline=pretrained, and fine_tune.objective=distill"
        )
    correct, loss = 0.0, 0.0
    for logits, labels in _answers(model, split, chosen, batch_size):
        if labels.dim() == 2:
            right, losses = _token_quality(logits, labels)
            correct, loss = correct + float(right.sum()), loss + float(losses.sum())
            continue
        loss += float(functional.cross_entropy(logits.double(), labels, reduction="sum"))
        correct += float((logits.argmax(1) == labels).sum())
    return correct, loss


def fidelity_sums(
    reference: Tensor, model: nn.Module, split: Split, chosen: Tensor, batch_size: int
) -> tuple[float, float]:
    """Of an encoder on the chosen examples: (summed cosine of its embeddings and the rows of
    `reference` (N, width), summed 1 − cosine)."""
    answers = [answer.cpu().double() for answer, _ in _answers(model, split, chosen, batch_size)]
    found = torch.cat(answers) if answers else reference[chosen]
    cosine = float(functional.cosine_similarity(found, reference[chosen]).sum())
    return cosine, len(chosen) - cosine


def sequence_quality(model: nn.Module, split: Split, batch_size: int) -> tuple[Tensor, Tensor]:
    """A language model on every sequence: (fraction of next tokens that it puts first, mean
    cross-entropy in nats a token), both (N,) float64."""
    parts = [
        _token_quality(logits, labels)
        for logits, labels in _answers(model, split, torch.arange(len(split)), batch_size)
    ]
    right, losses = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    return right, losses


def embeddings(model: nn.Module, split: Split, batch_size: int) -> Tensor:
    """(N, width) float64: what an encoder makes of every example."""
    answers = _answers(model, split, torch.arange(len(split)), batch_size)
    return torch.cat([answer.double().cpu() for answer, _ in answers])


def _answers(
    model: nn.Module, split: Split, chosen: Tensor, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(what the model gives, labels) batch by batch, in eval mode and without gradients; a
    batch of tokens is cut to what fits the memory."""
    if batch_size < 1:
        raise LowRankError(f"batch_size={batch_size}: give at least 1")
    if isinstance(split, TokenSplit):
        batch_size = max(1, min(batch_size, _MOST_TOKENS // split.stored.shape[1]))
    reference = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for part in torch.split(chosen, batch_size):
                inputs, labels = split.batch(part)
                dtype = reference.dtype if inputs.is_floating_point() else inputs.dtype
                answer = model(inputs.to(reference.device, dtype))
                yield answer, labels.to(reference.device)
    finally:
        model.train(training)


def _token_quality(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(fraction right, mean cross-entropy) of each sequence, from (n, vocabulary, T), (n, T)."""
    rows = logits.transpose(1, 2).flatten(0, 1).float()
    losses = functional.cross_entropy(rows, labels.flatten(), reduction="none")
    right = (rows.argmax(1) == labels.flatten()).double()
    return right.view(labels.shape).mean(1), losses.double().view(labels.shape).mean(1)


def check_fit(model: nn.Module, meta: dict[str, Any]) -> None:
    """Raises LowRankError unless the model maps the data's shape to one logit a class; for
    text without classes, one logit a token of the vocabulary, or an embedding."""
    shape = meta["input_shape"]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(example_input(meta))
    except (RuntimeError, IndexError) as error:
        raise LowRankError(
            f"the model doesn't take the data {meta['name']}, examples of shape {shape}: "
            f"{str(error).splitlines()[0]}; correct the arguments of the model section"
        ) from error
    finally:
        model.train(training)
    if problem := _misfit(logits, meta):
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise LowRankError(f"the model gives {got} for one example, {problem}")
    if not math.isfinite(float(logits.double().sum())):
        raise LowRankError(
            "the model gives NaN or Inf for an input of zeros; its weights are damaged"
        )


def _misfit(logits: Any, meta: Mapping[str, Any]) -> str | None:
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else ()
    if (classes := meta["classes"]) is not None:
        return (
            None
            if shape == (1, classes)
            else f"the data {meta['name']} has {classes} classes: it must give [1, {classes}]; "
            f"set the model's number of classes to {classes}"
        )
    if meta["task"] == "encoder":
        return None if len(shape) == 2 else "an encoder must give [1, width]; set model.task"
    least, (length,) = meta["vocabulary"], meta["input_shape"]
    if len(shape) == 3 and shape[1] >= least and shape[2] == length:
        return None
    return (
        f"the tokenizer has {least} tokens: it must give [1, {least} or more, {length}]; give "
        "the model's own tokenizer in data.text.tokenizer"
    )
