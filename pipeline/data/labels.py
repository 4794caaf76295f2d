"""Labels as their sources write them → tensors as tasks read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.data.splits import Values
from pipeline.lowrank.errors import LowRankError

IGNORED = -100  # at a place that has no label, as torch.nn.functional.cross_entropy has it
# Kinds of labels (`Task.labels`) that are numbers of classes.
NUMBERED = ("class", "class map")
_TOKENS = ("next token", "masked token", "target token", "token class")
# Kind → (dimensions, what to give).
_BY_TOKEN = (2, "give one integer for each token, (examples, tokens)")
_NUMBERS = {
    "class": (1, "give one integer class number an example"),
    "class map": (3, "give an integer class number at each place, (examples, height, width)"),
    **dict.fromkeys(_TOKENS, _BY_TOKEN),
}


@dataclass(frozen=True)
class Numbering:
    """Classes by their numbers. given: by the user or the model, so that none need occur."""

    names: tuple[str, ...]
    given: bool


def number_classes(
    values: Sequence[Any], given: Sequence[str] | None, source: str, rows: str = "row"
) -> tuple[Tensor, Numbering]:
    """(N,) int64: the class of each value, which is text or a whole number.

    given: the classes' names in their order; a whole number that is no name is the class of that
    number. Without them classes are numbered by size (10 after 9) or, texts, in sorted order.

    Raises LowRankError, naming the row, for a value that is none of that.
    """
    values = [_class_value(value) for value in values]
    for row, value in enumerate(values):
        if not isinstance(value, int | str):
            raise LowRankError(
                f"{source}: the label of {rows} {row} is {_short(value)}: give every {rows} a text "
                "or a whole number, or choose the task that suits it"
            )
    if given is None:
        names = sorted(set(values), key=lambda value: (not isinstance(value, int), value))
        numbers = {value: number for number, value in enumerate(names)}
    else:
        names = list(given)
        numbers = {name: number for number, name in enumerate(given)}
    found = torch.empty(len(values), dtype=torch.int64)
    for row, value in enumerate(values):
        number = numbers.get(value, numbers.get(str(value)))
        if number is None and isinstance(value, int) and 0 <= value < len(names):
            number = value
        if number is None:
            raise LowRankError(
                f"{source}: the label of {rows} {row} is {_short(value)}, none of the classes "
                f"{_list(names)}; correct it, or data.class_names"
            )
        found[row] = number
    return found, Numbering(tuple(str(name) for name in names), given is not None)


def counted_classes(labels: Tensor, given: Sequence[str] | None, source: str) -> Numbering:
    """The classes of labels that are numbers already, (N, …) integers.

    Raises LowRankError where a number up to the largest is missing, unless the classes are given.
    """
    if given is not None:
        return Numbering(tuple(given), True)
    present = torch.unique(labels[labels >= 0])
    top = int(present.max()) if len(present) else -1
    if len(present) <= top:
        places = torch.arange(len(present))
        missing = int(places[present != places][0])
        raise LowRankError(
            f"{source}: no example has label {missing} of 0…{top}; number the classes from 0 "
            "without gaps, or name all of them in data.class_names"
        )
    return Numbering(tuple(str(number) for number in range(top + 1)), False)


def several_of(
    values: Sequence[Any], given: Sequence[str] | None, source: str
) -> tuple[Tensor, Numbering]:
    """(N, classes) float32 of 0 and 1: which classes each row, a list of names or numbers, has."""
    for row, value in enumerate(values):
        if not isinstance(value, list | tuple) or not all(isinstance(v, int | str) for v in value):
            raise LowRankError(
                f"{source}: the labels of row {row} are {_short(value)}; give a list of classes, "
                "or a column of 0 and 1 for each class"
            )
    flat = [one for value in values for one in value]
    numbers, numbering = number_classes(flat, given, source, "label")
    found = torch.zeros(len(values), len(numbering.names))
    rows = torch.tensor([row for row, value in enumerate(values) for _ in value], dtype=torch.int64)
    found[rows, numbers] = 1.0
    return found, numbering


def read_labels(
    labels: Values | None,
    kind: str | None,
    source: str,
    *,
    given: Sequence[str] | None = None,
    ignored: int | None = None,
    name: str = "labels",
) -> tuple[Values | None, Numbering | None]:
    """(labels as a task of this kind reads them, the classes where they are numbers of classes).

    kind: as `Task.labels`; None, and "input", leave labels out. given: the classes' names.
    ignored: a number that is no class. name: of the labels, for messages. Raises LowRankError for
    labels of another kind.
    """
    if labels is None or kind in (None, "any", "input"):
        return (labels if kind == "any" else None), None
    if isinstance(labels, dict):
        raise LowRankError(
            f"{source}: several {name} ({', '.join(labels)}), and this task reads one; choose "
            "task=custom, which reads all of them"
        )
    if kind in NUMBERED:
        numbers = _numbers(labels, kind, source, name)
        if ignored is not None:
            numbers[numbers == ignored] = IGNORED
        return numbers, counted_classes(numbers, given, source)
    if kind in _TOKENS:
        return _numbers(labels, kind, source, name), None
    if kind == "classes":
        if labels.dim() != 2:
            raise _unfit(source, name, labels, "give 0 or 1 for each class, (examples, classes)")
        names = tuple(given or map(str, range(labels.shape[1])))
        if len(names) != labels.shape[1]:
            raise LowRankError(
                f"data.class_names: {len(names)} names, and {source} has {labels.shape[1]} classes"
            )
        return labels.float(), Numbering(names, given is not None)
    return (labels if labels.is_floating_point() else labels.float()), None


def _numbers(labels: Tensor, kind: str, source: str, name: str) -> Tensor:
    dimensions, wanted = _NUMBERS[kind]
    floating = labels.is_floating_point() or labels.dtype == torch.bool
    if floating or not (labels.dim() == dimensions or (kind == "class map" and labels.dim() > 1)):
        raise _unfit(source, name, labels, wanted)
    return labels.to(torch.int64, copy=True)


def _unfit(source: str, name: str, labels: Tensor, wanted: str) -> LowRankError:
    return LowRankError(
        f"{source}: {name} is {labels.dtype} of shape {tuple(labels.shape)}; {wanted}, or choose "
        "the task that suits it"
    )


def _class_value(value: Any) -> Any:
    """Truth values are 0 and 1, and 3.0 is 3: tables with gaps keep whole numbers so."""
    whole = isinstance(value, bool) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


def _list(names: Sequence[Any]) -> str:
    shown = ", ".join(str(name) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
