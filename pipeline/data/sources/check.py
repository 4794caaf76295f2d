"""Conditions that the examples of every source must fulfil before they are split."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.data.labels import NUMBERED
from pipeline.data.rows import Rows
from pipeline.data.sources.raw import RawData
from pipeline.data.splits import Values, named
from pipeline.lowrank.errors import LowRankError


def check_examples(raw: RawData, kind: str | None = "class") -> None:
    """Raises LowRankError for data that would train to nonsense: NaN or Inf, labels out of range or
    with gaps, unequal lengths or shapes, no examples at all.

    kind: of the labels, as `Task.labels` has it.
    """
    _check_part(raw, raw.inputs, raw.labels, "", kind)
    if raw.test_inputs is not None:
        _check_part(raw, raw.test_inputs, raw.test_labels, "test_", kind)
        _check_alike(raw)
    if kind == "class" and isinstance(raw.labels, Tensor) and raw.classes is not None:
        _check_classes(raw, raw.labels, raw.classes)


def _check_part(
    raw: RawData, inputs: Values, labels: Values | None, prefix: str, kind: str | None
) -> None:
    arrays = named("inputs", inputs) | named("labels", labels)
    lengths = {name: len(value) for name, value in arrays.items()}
    (first, count), *others = lengths.items()
    for name, length in others:
        if length != count:
            raise LowRankError(
                f"{raw.source}: {count} {prefix}{first} but {length} {prefix}{name}; give one "
                f"{'label' if name.startswith('labels') else 'of each'} an example"
            )
    if not count:
        last = [*lengths][-1]
        raise LowRankError(f"{raw.source}: {prefix}{last} is empty; give examples")
    for name, value in arrays.items():
        _check_array(raw, f"{prefix}{name}", value)
        if name == "labels" and kind in NUMBERED and raw.classes is not None:
            _check_range(raw, f"{prefix}{name}", value, raw.classes, kind)
        if name == "labels" and kind == "classes":
            remedy = "is not 0 or 1 for each class; say which of them it has"
            _check_each(raw, f"{prefix}{name}", value, _is_truth, remedy)


def _check_array(raw: RawData, name: str, value: Tensor) -> None:
    if 0 in value.shape[1:]:
        raise LowRankError(
            f"{raw.source}: {name} have shape {list(value.shape[1:])}, without a single value; "
            "give examples that hold some"
        )
    if value.is_floating_point():
        remedy = "holds NaN or Inf; clean the data or leave the example out"
        _check_each(raw, name, value, torch.isfinite, remedy)


def _check_each(raw: RawData, name: str, value: Tensor, fine: Any, remedy: str) -> None:
    """Raises LowRankError that names the first example with a value that is not fine."""
    before = 0
    for piece in Rows(value).pieces():
        good = fine(piece).flatten(1).all(1) if piece.dim() > 1 else fine(piece)
        if not bool(good.all()):
            row = before + int((~good).nonzero()[0])
            raise LowRankError(f"{raw.source}: {name}[{row}] {remedy}")
        before += len(piece)


def _is_truth(values: Tensor) -> Tensor:
    return (values == 0) | (values == 1)


def _check_range(raw: RawData, name: str, labels: Tensor, classes: int, kind: str) -> None:
    before = 0
    for piece in Rows(labels).pieces():
        outside = (piece < 0) | (piece >= classes)
        if kind != "class":
            outside &= piece >= 0  # a place that has no class
        if bool(outside.any()):
            place = outside.nonzero()[0]
            raise LowRankError(
                f"{raw.source}: {name}[{before + int(place[0])}] is {int(piece[tuple(place)])}, "
                f"out of range 0…{max(classes, 1) - 1}; number the classes from 0 without gaps"
            )
        before += len(piece)


def _check_classes(raw: RawData, labels: Tensor, classes: int) -> None:
    if raw.complete:
        missing = (torch.bincount(labels, minlength=classes) == 0).nonzero()
        if len(missing):
            raise LowRankError(
                f"{raw.source}: no example has label {int(missing[0])} of 0…{classes - 1}; number "
                "the classes from 0 without gaps"
            )
    if classes < 2:
        raise LowRankError(f"{raw.source}: all labels are 0; a classifier needs two classes")


def _check_alike(raw: RawData) -> None:
    """Both parts are of the same names and shapes."""
    whole = named("inputs", raw.inputs) | named("labels", raw.labels)
    test = named("inputs", raw.test_inputs) | named("labels", raw.test_labels)
    if whole.keys() != test.keys():
        apart = sorted(whole.keys() ^ test.keys())[0]
        raise LowRankError(
            f"{raw.source}: {apart} are in one of the examples and the test split, not in both; "
            "give both the same"
        )
    for name, value in whole.items():
        if value.shape[1:] != test[name].shape[1:]:
            raise LowRankError(
                f"{raw.source}: test_{name} have shape {tuple(test[name].shape[1:])}, {name} "
                f"{tuple(value.shape[1:])}; both must be of one shape"
            )
