"""Causal language models: the next token at each place of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.lowrank.tasks.base import Examples, ExampleScores
from pipeline.lowrank.tasks.intervals import bootstrap
from pipeline.lowrank.tasks.logits import Logits, rows_of
from pipeline.lowrank.tasks.measure import ACCURACY, LOSS, Measure

_PERPLEXITY = Measure(
    "perplexity",
    "perplexity",
    "minimize",
    "",
    "perplexity",
    elsewhere="out of domain",
)


class CausalLM(Logits):
    """The network reads token ids (N, T) and gives logits (N, vocabulary, T); logits at padding
    count nowhere."""

    name = "causal_lm"
    unit = "nats per token"
    inputs = "tokens"
    labels = "next token"
    measures = (_PERPLEXITY, ACCURACY, LOSS)

    def rows(self, output: Any, mask: Tensor | None) -> Tensor:
        return rows_of(self.prediction(output), mask)

    def misfit(self, output: Any, examples: Examples) -> str | None:
        least, (length, *_) = examples.vocabulary or 0, examples.shape
        found = self.selected(output)
        shape = tuple(found.shape) if isinstance(found, Tensor) else ()
        if len(shape) == 3 and shape[1] >= least and shape[2] == length:
            return None
        return (
            f"the tokenizer has {least} tokens: it must give [1, {least} or more, {length}]; give "
            "the model's own tokenizer in data.text.tokenizer"
        )

    def scores(self, output: Any, labels: Any) -> ExampleScores:
        """For each sequence: the fraction of next tokens that get the largest logit, and the mean
        cross-entropy in nats a token."""
        rows = self.prediction(output).transpose(1, 2).flatten(0, 1).float()
        losses = functional.cross_entropy(rows, labels.flatten(), reduction="none")
        right = (rows.argmax(1) == labels.flatten()).double()
        return {
            "right": right.view(labels.shape).mean(1),
            "loss": losses.double().view(labels.shape).mean(1),
        }

    def progress(self, scores: Sequence[ExampleScores]) -> tuple[float, float]:
        right, loss = (sum(float(part[key].sum()) for part in scores) for key in ("right", "loss"))
        return right, loss

    def quality(
        self, scores: Sequence[ExampleScores], dense: Sequence[ExampleScores]
    ) -> dict[str, float]:
        """accuracy (of the next token), loss (nats a token), perplexity = exp(loss), and
        perplexity_ratio to the dense network's. `_low` and `_high` are 95 % bootstrap intervals
        over sequences, for the ratio over pairs (the same sequences in both networks)."""
        right, losses = (_joined(scores, key) for key in ("right", "loss"))
        return {
            "accuracy": float(right.mean()),
            "loss": float(losses.mean()),
            **_with_interval("perplexity", losses),
            **_with_interval("perplexity_ratio", losses - _joined(dense, "loss")),
        }


def _joined(scores: Sequence[ExampleScores], key: str) -> Tensor:
    found: Tensor = torch.cat([part[key] for part in scores]).cpu()
    return found


def _with_interval(name: str, logarithms: Tensor) -> dict[str, float]:
    low, high = bootstrap(logarithms)
    values = torch.tensor([float(logarithms.mean()), low, high], dtype=torch.float64).exp()
    return dict(zip((name, f"{name}_low", f"{name}_high"), values.tolist(), strict=True))
