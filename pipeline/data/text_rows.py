"""Rows of text that have labels of their own: every row is an example, whatever its neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.data.labels import IGNORED, Numbering, number_classes, read_labels, several_of
from pipeline.data.options import TextOptions
from pipeline.data.sources.texts import Corpus
from pipeline.data.splits import TokenSplits, Values, named, stratified_indices, taken
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import PADDING
from pipeline.lowrank.tasks import Task
from pipeline.models.processors import decoder_start

# Kinds of labels (`Task.labels`) that rows have.
KINDS = ("class", "classes", "value", "token class", "target token")
NUMBERED = ("class", "classes", "token class")  # which of them are classes
_TOGETHER = 1000  # texts that are tokenised at once
_LONG = 2**16  # letters beyond those that can matter: no more of a text is tokenised


@dataclass(frozen=True)
class LabelledRows:
    """Rows as tensors: ids of tokens and labels, and the classes where labels are numbers of
    such."""

    inputs: Values
    labels: Values
    numbering: Numbering | None

    def split(self, sizes: Mapping[str, int | None], seed: int) -> TokenSplits:
        """Disjoint splits; those of classes are stratified."""
        strata = self.labels if isinstance(self.labels, Tensor) else torch.zeros(0)
        if strata.dim() > 1 or strata.is_floating_point():
            strata = torch.zeros(len(strata), dtype=torch.int64)
        indices = stratified_indices(strata, sizes, rest="train", seed=seed)
        return {
            split: named("inputs", taken(self.inputs, chosen))
            | named("labels", taken(self.labels, chosen))
            for split, chosen in indices.items()
        }


def read_rows(
    corpus: Corpus, tokenizer: Any, text: TextOptions, task: Task, given: Sequence[str] | None
) -> LabelledRows:
    """The rows of a corpus by the task's labels (KINDS). given: the names of the classes.

    Raises LowRankError, with its number, for a row whose label is no such.
    """
    length = text.sequence_length
    _check_columns(text, task)
    labels = [document.label for document in corpus.documents]
    if task.labels == "token class":
        return _tagged(corpus, tokenizer, length, given)
    texts = [whole(document.text) for document in corpus.documents]
    inputs = padded(tokenizer, texts, length)
    if task.labels == "target token":
        targets = [document.target or "" for document in corpus.documents]
        return _answered(inputs, padded(tokenizer, targets, text.target_length), text)
    found, numbering = _labels(labels, task, corpus.name, given)
    if task.labels == "class" and (numbering is None or len(numbering.names) < 2):
        raise LowRankError(
            f"{corpus.name}: the column {text.label_column!r} must give every row a label, "
            "of at least two; correct data.text.label_column"
        )
    return LabelledRows(inputs, found, numbering)


def padded(tokenizer: Any, texts: Sequence[str], length: int) -> Tensor:
    """(N, length) int64: each text's tokens with the tokenizer's special ones, cut off after
    `length`, and PADDING behind them."""
    inputs = torch.full((len(texts), length), PADDING, dtype=torch.int64)
    for start in range(0, len(texts), _TOGETHER):
        part = [_beginning(tokenizer, one, length) for one in texts[start : start + _TOGETHER]]
        found = tokenizer(part, truncation=True, max_length=length)["input_ids"]
        for row, ids in enumerate(found, start):
            inputs[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return inputs


def _beginning(tokenizer: Any, text: str, length: int) -> str:
    """As much of a very long text as gives `length` tokens."""
    letters = 32 * length + _LONG
    while len(text) > letters:
        if len(tokenizer(text[:letters], verbose=False)["input_ids"]) > length:
            return text[:letters]
        letters *= 2
    return text


def whole(text: str | list[str]) -> str:
    """A text, whose words may be a list."""
    return text if isinstance(text, str) else " ".join(text)


def _check_columns(text: TextOptions, task: Task) -> None:
    target = task.labels == "target token"
    for key, wanted in (
        ("label_column", not target),
        ("target_column", target),
        ("ood_path", False),
    ):
        if (getattr(text, key) is not None) != wanted:
            remedy = "name the column" if wanted else "set it to null"
            needs = "needs it" if wanted else "has no use for it"
            raise LowRankError(
                f"data.text.{key}={getattr(text, key)}: the task {task.name} {needs}; {remedy}"
            )


def _labels(
    labels: list[Any], task: Task, source: str, given: Sequence[str] | None
) -> tuple[Values, Numbering | None]:
    if task.labels == "class":
        return number_classes(labels, given, source)
    if task.labels == "classes":
        return several_of(labels, given, source)
    for row, value in enumerate(labels):
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e38:
            raise LowRankError(
                f"{source}: the label of row {row} is {value!r:.40}; the task {task.name} reads "
                "numbers: correct it, or data.text.label_column"
            )
    values = torch.tensor([float(value) for value in labels])
    bad = (~torch.isfinite(values)).nonzero()
    if len(bad):
        raise LowRankError(
            f"{source}: the label of row {int(bad[0])} is {float(values[bad[0]])}; give a number"
        )
    found, _ = read_labels(values, task.labels, source)
    assert found is not None
    return found, None


def _tagged(
    corpus: Corpus, tokenizer: Any, length: int, given: Sequence[str] | None
) -> LabelledRows:
    """Words with a tag each: the first token of a word has its tag, the others none."""
    words: list[list[str]] = []
    tags: list[Any] = []
    for row, document in enumerate(corpus.documents):
        fits = isinstance(document.text, list) and isinstance(document.label, list)
        if not fits or len(document.text) != len(document.label):
            raise LowRankError(
                f"{corpus.name}: row {row} has no list of words with a list of as many tags; give "
                "both, in data.text.text_column and data.text.label_column"
            )
        words.append(list(document.text))
        tags += document.label
    numbers, numbering = number_classes(tags, given, corpus.name, "word")
    inputs = torch.full((len(words), length), PADDING, dtype=torch.int64)
    labels = torch.full((len(words), length), IGNORED, dtype=torch.int64)
    before = 0
    for row, sentence in enumerate(words):
        made = tokenizer(sentence, is_split_into_words=True, truncation=True, max_length=length)
        inputs[row, : len(made["input_ids"])] = torch.tensor(made["input_ids"])
        places = made.word_ids()
        for place, word in enumerate(places):
            if word is not None and (place == 0 or places[place - 1] != word):
                labels[row, place] = numbers[before + word]
        before += len(sentence)
    return LabelledRows(inputs, labels, numbering)


def _answered(inputs: Tensor, targets: Tensor, text: TextOptions) -> LabelledRows:
    """A text and the text that answers it: the decoder reads its tokens one place later."""
    start = decoder_start(text.tokenizer, text.tokenizer_sha256)
    fed = targets.roll(1, dims=1).masked_fill(targets == PADDING, PADDING)
    fed[:, 0] = start
    labels = torch.where(targets == PADDING, IGNORED, targets)
    return LabelledRows({"input_ids": inputs, "decoder_input_ids": fed}, labels, None)
