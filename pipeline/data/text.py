"""Token splits: documents → sequences of token ids, by task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from pipeline.data.files import DataFacts
from pipeline.data.generation import generate_sequences
from pipeline.data.options import DataOptions, TextOptions
from pipeline.data.sources.texts import Corpus, read_texts
from pipeline.data.splits import TokenSplits, Values
from pipeline.data.text_rows import KINDS, NUMBERED, read_rows, whole
from pipeline.data.text_streams import Masked, Passages, Stream, by_document
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks import Task
from pipeline.lowrank.tasks.base import DType, Shape
from pipeline.models.huggingface import load_tokenizer
from pipeline.models.processors import classes_of

_STREAMS = ("next token", "masked token", None)


def read_token_splits(
    options: DataOptions, task: Task, sizes: Mapping[str, int | None], seed: int
) -> tuple[TokenSplits, DataFacts]:
    """(the splits with inputs (N, T) int64, what data.json says of them but for their sizes).

    By the task's labels the examples are
    "next token": the documents of a split joined (a blank line between them) and cut into T
    tokens; labels (N, T) are the next tokens, so that every token is predicted once;
    "masked token": the same stream without the last token, of which 15 % are masked; labels (N, T)
    are the masked tokens, and negative elsewhere;
    None: paragraphs, cut off after T tokens; no labels;
    others: rows with labels (`text_rows.read_rows`), cut off after T tokens.
    Documents go to one split whole and in their order (train first, test last); labelled ones
    are independent, drawn by `seed`, and of classes stratified. A second text (`ood_path`) is a
    split "ood". `generated` sequences that the language model itself writes are spread over
    "calibration".
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
        input_dtype="int64",
        label_shape=None if task.labels is None else (text.sequence_length,),
        sizes={},
        sha256={corpus.name: corpus.sha256},
        vocabulary=len(tokenizer),
    )
    if task.labels not in _STREAMS:
        return _rows(corpus, tokenizer, options, task, sizes, seed, facts)
    make = _maker(task, tokenizer, text, seed)
    splits = by_document(corpus, make, sizes)
    if text.generated:
        own = _generated(text, task, seed)
        splits["calibration"] = {k: _spread(v, own[k]) for k, v in splits["calibration"].items()}
    if text.ood_path is not None:
        other = _read(text.ood_path, text.ood_sha256, text)
        units: Iterable[Any] = chain.from_iterable(
            make.units(whole(one.text)) for one in other.documents
        )
        splits["ood"] = make.examples("text.ood", units, text.ood)
        named = facts.sha256 | {f"out of domain: {other.name}": other.sha256}
        facts = replace(facts, sha256=named)
    return splits, facts


def _rows(
    corpus: Corpus,
    tokenizer: Any,
    options: DataOptions,
    task: Task,
    sizes: Mapping[str, int | None],
    seed: int,
    facts: DataFacts,
) -> tuple[TokenSplits, DataFacts]:
    """Splits of rows with labels; their classes are the user's, or the network's own."""
    text = options.text
    assert text is not None
    own = options.class_names or classes_of(text.tokenizer, text.tokenizer_sha256)
    rows = read_rows(corpus, tokenizer, text, task, own if task.labels in NUMBERED else None)
    names = None if rows.numbering is None else rows.numbering.names
    return rows.split(sizes, seed), replace(
        facts,
        input_shape=_shape(rows.inputs),
        input_dtype=_int64(rows.inputs),
        label_shape=_shape(rows.labels),
        class_names=names,
        classes=None if names is None else len(names),
    )


def _shape(values: Values) -> Shape:
    if isinstance(values, dict):
        return {key: tuple(value.shape[1:]) for key, value in values.items()}
    return tuple(values.shape[1:])


def _int64(values: Values) -> DType | dict[str, DType]:
    return dict.fromkeys(values, "int64") if isinstance(values, dict) else "int64"


def _maker(task: Task, tokenizer: Any, text: TextOptions, seed: int) -> Stream | Passages:
    if task.labels == "masked token":
        return Masked(tokenizer, text.sequence_length, seed)
    return (Passages if task.labels is None else Stream)(tokenizer, text.sequence_length)


def _check_task(text: TextOptions, task: Task) -> None:
    if task.inputs == "values" or task.labels not in (*_STREAMS, *KINDS):
        raise LowRankError(
            f"data=text: the task {task.name} reads no text, or labels that text has not; choose "
            "other data, or another task (docs/data.md)"
        )
    if text.generated and task.labels != "next token":
        raise LowRankError(
            f"data.text.generated={text.generated}: a model of the task {task.name} writes no "
            "text; set it to 0"
        )
    for key in ("label_column", "target_column"):
        if getattr(text, key) is not None and task.labels in _STREAMS:
            raise LowRankError(
                f"data.text.{key}={getattr(text, key)}: not used by the task {task.name}; set it "
                "to null"
            )


def _read(path: str, sha256: str | None, text: TextOptions) -> Corpus:
    return read_texts(
        path,
        sha256,
        text_column=text.text_column,
        label_column=text.label_column,
        target_column=text.target_column,
    )


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
