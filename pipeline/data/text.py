"""Token splits: documents → sequences of token ids, by task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from pipeline.data.files import DataFacts
from pipeline.data.generation import generate_sequences
from pipeline.data.labels import IGNORED
from pipeline.data.options import DataOptions, TextOptions
from pipeline.data.sources.texts import Corpus, read_texts
from pipeline.data.splits import TokenSplits, consecutive_ranges, stratified_indices
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import PADDING
from pipeline.lowrank.tasks import Task
from pipeline.models.huggingface import load_tokenizer

_KINDS = ("next token", "masked token", "class", None)
_MASKED = 0.15  # of the tokens, as BERT was trained
_FEWEST_WORDS = 8  # of a passage: headings and captions are none


def read_token_splits(
    options: DataOptions, task: Task, sizes: Mapping[str, int | None], seed: int
) -> tuple[TokenSplits, DataFacts]:
    """(the splits with inputs (N, T) int64, what data.json says of them but for their sizes).

    By the task's labels the examples are
    "next token": the documents of a split joined (a blank line between them) and cut into T
    tokens; labels (N, T) are the next tokens, so that every token is predicted once;
    "class": documents, cut off after T tokens; labels (N,) are their classes;
    "masked token": the same stream without the last token, of which 15 % are masked; labels (N, T)
    are the masked tokens, and negative elsewhere;
    None: paragraphs, cut off after T tokens; no labels (N, 0).
    Documents go to one split whole and in their order (train first, test last); labelled ones
    are independent and stratified by `seed`. A second text (`ood_path`) is a split "ood".
    `generated` sequences that the language model itself writes are spread over "calibration".
    """
    path, text = options.path, options.text
    if path is None or text is None:
        raise LowRankError("data.path is null: the source text needs files; set data.path")
    _check_task(text, task)
    corpus = _read(path, options.sha256, text)
    tokenizer = load_tokenizer(text.tokenizer, text.tokenizer_sha256)
    facts = DataFacts(
        name=options.name,
        task=task.name,
        source=corpus.name,
        input_shape=(text.sequence_length,),
        label_shape=_label_shape(task, text),
        sizes={},
        sha256={corpus.name: corpus.sha256},
        vocabulary=len(tokenizer),
    )
    if task.labels == "class":
        splits, names = _labelled(corpus, tokenizer, text, sizes, seed)
        return splits, replace(facts, class_names=names, classes=len(names))
    passages = task.labels is None
    if task.labels == "masked token":
        make: _Stream | _Passages = _Masked(tokenizer, text.sequence_length, seed)
    else:
        make = (_Passages if passages else _Stream)(tokenizer, text.sequence_length)
    splits = _by_document(corpus, make, sizes)
    if text.generated:
        own = _generated(text, task, seed)
        splits["calibration"] = {k: _spread(v, own[k]) for k, v in splits["calibration"].items()}
    if text.ood_path is not None:
        other = _read(text.ood_path, text.ood_sha256, text)
        units: Iterable[Any] = chain.from_iterable(make.units(d.text) for d in other.documents)
        splits["ood"] = make.examples("text.ood", units, text.ood)
        named = facts.sha256 | {f"out of domain: {other.name}": other.sha256}
        facts = replace(facts, sha256=named)
    return splits, facts


def _check_task(text: TextOptions, task: Task) -> None:
    if task.inputs != "tokens" or task.labels not in _KINDS:
        raise LowRankError(
            f"data=text: the task {task.name} reads no text, or labels that plain text has not; "
            "choose data=tensors, dataset or hub, or a task of causal_lm, masked_lm, encoder, "
            "sequence_classification"
        )
    if text.generated and task.labels != "next token":
        raise LowRankError(
            f"data.text.generated={text.generated}: a model of the task {task.name} writes no "
            "text; set it to 0"
        )
    if text.label_column is not None and task.labels != "class":
        raise LowRankError(
            f"data.text.label_column={text.label_column}: not used by the task {task.name}; set it "
            "to null"
        )


def _label_shape(task: Task, text: TextOptions) -> tuple[int, ...] | None:
    if task.labels is None:
        return None
    return () if task.labels == "class" else (text.sequence_length,)


def _read(path: str, sha256: str | None, text: TextOptions) -> Corpus:
    return read_texts(path, sha256, text_column=text.text_column, label_column=text.label_column)


def _generated(text: TextOptions, task: Task, seed: int) -> dict[str, Tensor]:
    tokens = generate_sequences(
        text.tokenizer,
        text.tokenizer_sha256,
        text.generated,
        text.sequence_length + 1,
        seed,
        task=task.name,
    )
    return {"inputs": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous()}


def _spread(some: Tensor, others: Tensor) -> Tensor:
    """The rows of both tensors in their order, evenly mixed, so that every part holds its share of
    each."""
    place = [(torch.arange(len(rows)) + 0.5) / len(rows) for rows in (some, others)]
    return torch.cat([some, others])[torch.cat(place).argsort(stable=True)]


class _Stream:
    """Sequences for a causal language model, from a stream of tokens."""

    unit = "tokens"

    def __init__(self, tokenizer: Any, length: int) -> None:
        self._tokenizer, self._length = tokenizer, length

    def units(self, text: str) -> list[int]:
        """The document's tokens, and those of a blank line."""
        text = f"{text.strip()}\n\n"
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def needed(self, size: int) -> int:
        return size * self._length + 1

    def examples(self, split: str, units: Iterable[int], size: int | None) -> dict[str, Tensor]:
        """A token more than the inputs: the last one is a label only."""
        ids = torch.tensor(list(islice(units, None if size is None else self.needed(size))))
        count = _enough(split, (len(ids) - 1) // self._length, size)
        used = count * self._length
        shape = (count, self._length)
        # Two copies: safetensors refuses tensors that share memory.
        return {"inputs": ids[:used].view(shape), "labels": ids[1 : used + 1].view(shape).clone()}


class _Masked(_Stream):
    """Sequences for a masked language model: some of their tokens are masked, by `seed`."""

    def __init__(self, tokenizer: Any, length: int, seed: int) -> None:
        super().__init__(tokenizer, length)
        self._mask, self._seed = tokenizer.mask_token_id, seed
        if self._mask is None:
            raise LowRankError(
                "data.text.tokenizer: has no mask token, which the task masked_lm needs; give the "
                "tokenizer of a masked language model"
            )

    def examples(self, split: str, units: Iterable[int], size: int | None) -> dict[str, Tensor]:
        ids = super().examples(split, units, size)["inputs"]
        chosen = torch.rand(ids.shape, generator=torch.Generator().manual_seed(self._seed))
        masked = chosen < _MASKED
        return {
            "inputs": ids.masked_fill(masked, self._mask),
            "labels": ids.masked_fill(~masked, IGNORED),
        }


class _Passages:
    """Passages for a sentence encoder: paragraphs of at least a few words."""

    unit = "passages"

    def __init__(self, tokenizer: Any, length: int) -> None:
        self._tokenizer, self._length = tokenizer, length

    def units(self, text: str) -> list[str]:
        return [p for p in text.split("\n\n") if len(p.split()) >= _FEWEST_WORDS]

    def needed(self, size: int) -> int:
        return size

    def examples(self, split: str, units: Iterable[str], size: int | None) -> dict[str, Tensor]:
        passages = list(islice(units, size))
        count = _enough(split, len(passages), size)
        inputs = padded(self._tokenizer, passages, self._length)
        return {"inputs": inputs, "labels": torch.zeros(count, 0, dtype=torch.int64)}


def _by_document(
    corpus: Corpus, make: _Stream | _Passages, sizes: Mapping[str, int | None]
) -> TokenSplits:
    held: list[list[Any]] = [make.units(document.text) for document in corpus.documents]
    needed = {k: make.needed(v) for k, v in sizes.items() if k != "train" and v is not None}
    ranges = consecutive_ranges([len(one) for one in held], needed, rest="train", unit=make.unit)
    return {
        split: make.examples(split, chain.from_iterable(held[i] for i in chosen), sizes[split])
        for split, chosen in ranges.items()
    }


def _labelled(
    corpus: Corpus,
    tokenizer: Any,
    text: TextOptions,
    sizes: Mapping[str, int | None],
    seed: int,
) -> tuple[TokenSplits, tuple[str, ...]]:
    """Stratified splits of labelled documents, and the classes' names in sorted order."""
    for key, wanted in (("label_column", True), ("ood_path", False)):
        if (getattr(text, key) is not None) != wanted:
            remedy = "name the column of the labels" if wanted else "set it to null"
            raise LowRankError(
                f"data.text.{key}={getattr(text, key)}: the task sequence_classification "
                f"{'needs it' if wanted else 'has no use for it'}; {remedy}"
            )
    found = {document.label for document in corpus.documents}
    if None in found or len(found) < 2:
        raise LowRankError(
            f"{corpus.name}: the column {text.label_column!r} must give every row a label, "
            "of at least two; correct data.text.label_column"
        )
    # Numbers by size (10 after 9), anything else by its text.
    names = sorted(found, key=lambda label: (not isinstance(label, int), label))
    place = {label: index for index, label in enumerate(names)}
    labels = torch.tensor([place[document.label] for document in corpus.documents])
    inputs = padded(tokenizer, [d.text for d in corpus.documents], text.sequence_length)
    indices = stratified_indices(labels, sizes, rest="train", seed=seed)
    splits = {
        k: {"inputs": inputs[chosen], "labels": labels[chosen]} for k, chosen in indices.items()
    }
    return splits, tuple(str(name) for name in names)


def padded(tokenizer: Any, texts: Sequence[str], length: int) -> Tensor:
    """(N, length) int64: each text's tokens with the tokenizer's special ones, cut off after
    `length`, and PADDING behind them."""
    inputs = torch.full((len(texts), length), PADDING, dtype=torch.int64)
    for row, ids in enumerate(tokenizer(texts, truncation=True, max_length=length)["input_ids"]):
        inputs[row, : len(ids)] = torch.tensor(ids)
    return inputs


def _enough(split: str, count: int, size: int | None) -> int:
    if count < max(size or 1, 1):
        raise LowRankError(
            f"data.{split}={size}: its documents give {count} examples only; ask for fewer, or "
            "give more text"
        )
    return count
