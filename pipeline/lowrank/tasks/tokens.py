"""Tasks with a prediction at some of the tokens: masked language models, taggers, and models that
write a text from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pipeline.lowrank.tasks.base import Examples, ExampleScores, Given, Labels
from pipeline.lowrank.tasks.intervals import bootstrap_ratio
from pipeline.lowrank.tasks.measure import ACCURACY, LOSS, Measure
from pipeline.lowrank.tasks.metrics import gather
from pipeline.lowrank.tasks.positions import _NONE, Positions, joined

_PERPLEXITY = Measure("perplexity", "perplexity", "minimize", "", "perplexity")
_F1 = Measure("f1", "F1, mean of classes", "maximize", "%", "percent")


class MaskedLM(Positions):
    """The network reads token ids (N, T), some of them masked, and gives logits (N, vocabulary,
    T); labels (N, T) are the tokens that were masked, and negative elsewhere. The divergence is
    that of the predictions at all tokens."""

    name = "masked_lm"
    unit = "nats per token"
    inputs = "tokens"
    labels: Labels | None = "masked token"
    measures = (_PERPLEXITY, ACCURACY, LOSS)

    def misfit(self, output: Any, examples: Examples) -> str | None:
        found, least = self.selected(output), examples.vocabulary or 0
        shape = tuple(found.shape) if isinstance(found, Tensor) else ()
        length = _length(examples)
        if len(shape) == 3 and shape[1] >= least and length in (None, shape[2]):
            return None
        return f"the tokenizer has {least} tokens: it must give [1, {least} or more, {length}]"

    def scores(self, output: Any, labels: Any) -> ExampleScores:
        return self.figures(*self.pairs(output, labels))

    def quality(
        self, scores: Sequence[ExampleScores], dense: Sequence[ExampleScores]
    ) -> dict[str, float]:
        """accuracy, loss (nats a labelled token), perplexity = exp(loss), and perplexity_ratio to
        the dense network's. `_low` and `_high` are 95 % bootstrap intervals over sequences, for the
        ratio over pairs (the same sequences in both networks)."""
        losses, tokens = (joined(scores, key) for key in ("loss", "positions"))
        others = losses - joined(dense, "loss")
        found = super().quality(scores, dense)
        for name, sums in (("perplexity", losses), ("perplexity_ratio", others)):
            mean = sums.sum() / tokens.sum().clamp(min=1)
            low, high = bootstrap_ratio(sums, tokens)
            for end, value in (("", mean), ("_low", low), ("_high", high)):
                found[f"{name}{end}"] = float(mean.new_tensor(float(value)).exp())
        return found


class Seq2Seq(MaskedLM):
    """The network reads the ids of a text and those of another, as a dict with `input_ids` (N, S)
    and `decoder_input_ids` (N, T), and gives logits (N, vocabulary, T): the next token of the
    second text at each of its places; labels (N, T), negative behind its end. Places that
    `decoder_attention_mask` or negative ids mark as padding are no units."""

    name = "seq2seq"
    labels = "target token"

    def mask(self, given: Given) -> Tensor | None:
        named = given.inputs if isinstance(given.inputs, Mapping) else {}
        text, ids = named.get("decoder_attention_mask"), named.get("decoder_input_ids")
        if isinstance(text, Tensor):
            return text.bool()
        return ids >= 0 if isinstance(ids, Tensor) else None


class TokenClassification(Positions):
    """The network reads token ids (N, T), perhaps padded, and gives logits (N, classes, T); labels
    (N, T) are negative where a token has none."""

    name = "token_classification"
    unit = "nats per token"
    inputs = "tokens"
    labels = "token class"
    measures = (_F1, ACCURACY, LOSS)

    def misfit(self, output: Any, examples: Examples) -> str | None:
        found, count = self.selected(output), examples.classes
        shape = tuple(found.shape) if isinstance(found, Tensor) else ()
        if len(shape) == 3 and count in (None, shape[1]) and shape[2] == _length(examples):
            return None
        return f"it must give [1, {count or 'classes'}, {_length(examples)}], logits at each token"

    def scores(self, output: Any, labels: Any) -> ExampleScores:
        from torchmetrics.classification import MulticlassF1Score

        logits, true = self.pairs(output, labels)
        every = MulticlassF1Score(logits.shape[1], average="macro", ignore_index=_NONE)
        return {**self.figures(logits, true), "f1": gather(every, logits.argmax(1), true)}


def _length(examples: Examples) -> int | None:
    """How many places there are predictions for: as many as labels, else as many as tokens."""
    for shape in (examples.label_shape, examples.shape):
        if isinstance(shape, tuple):
            return shape[0]
    return None
