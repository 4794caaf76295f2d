"""Sequences of tokens of whole documents: streams for language models, passages for encoders."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data.labels import IGNORED
from pipeline.data.sources.texts import Corpus
from pipeline.data.splits import TokenSplits, consecutive_ranges
from pipeline.data.text_rows import padded, whole
from pipeline.lowrank.errors import LowRankError

_MASKED = 0.15  # of the tokens, as BERT was trained
_FEWEST_WORDS = 8  # of a passage: headings and captions are none
_LETTERS = 2**20  # of a document that are tokenised at once


class Stream:
    """Sequences for a causal language model, from a stream of tokens."""

    unit = "tokens"

    def __init__(self, tokenizer: Any, length: int) -> None:
        self._tokenizer, self._length = tokenizer, length

    def units(self, text: str) -> Sequence[int]:
        """The document's tokens, and those of a blank line."""
        ids = array("i")
        for part in _parts(f"{text.strip()}\n\n"):
            ids.extend(self._tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"])
        return ids

    def needed(self, size: int) -> int:
        return size * self._length + 1

    def examples(self, split: str, units: Iterable[int], size: int | None) -> dict[str, Tensor]:
        """A token more than the inputs: the last one is a label only."""
        taken = islice(units, None if size is None else self.needed(size))
        ids = torch.from_numpy(np.fromiter(taken, dtype=np.int64))
        count = _enough(split, (len(ids) - 1) // self._length, size)
        used = count * self._length
        shape = (count, self._length)
        # Two copies: safetensors refuses tensors that share memory.
        return {"inputs": ids[:used].view(shape), "labels": ids[1 : used + 1].view(shape).clone()}


class Masked(Stream):
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


class Passages:
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
        _enough(split, len(passages), size)
        return {"inputs": padded(self._tokenizer, passages, self._length)}


def by_document(
    corpus: Corpus, make: Stream | Passages, sizes: Mapping[str, int | None]
) -> TokenSplits:
    """Splits of whole documents, in their order: train first, test last."""
    needed = {k: make.needed(v) for k, v in sizes.items() if k != "train" and v is not None}
    if len(corpus.documents) <= len(needed):  # tokens of a long text take minutes
        raise LowRankError(
            f"{corpus.name}: {len(corpus.documents)} documents are too few for {len(needed) + 1} "
            "splits, which share none; give more texts, or mark the chapters of a long one (a form "
            "feed starts a document)"
        )
    held: list[Sequence[Any]] = [make.units(whole(one.text)) for one in corpus.documents]
    ranges = consecutive_ranges([len(one) for one in held], needed, rest="train", unit=make.unit)
    return {
        split: make.examples(split, chain.from_iterable(held[i] for i in chosen), sizes[split])
        for split, chosen in ranges.items()
    }


def _parts(text: str) -> Iterator[str]:
    """The text in parts of about a million letters, cut at a space where there is one: tokenisers
    need much memory for a long text, and long for one without a space."""
    start = 0
    while len(text) - start > _LETTERS:
        space = text.rfind(" ", start + 1, start + _LETTERS)
        stop = space if space > start else start + _LETTERS
        yield text[start:stop]
        start = stop
    yield text[start:]


def _enough(split: str, count: int, size: int | None) -> int:
    if count < max(size or 1, 1):
        raise LowRankError(
            f"data.{split}={size}: its documents give {count} examples only; ask for fewer, or "
            "give more text"
        )
    return count
