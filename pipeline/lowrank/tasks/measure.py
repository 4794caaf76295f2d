"""Measures of quality: which way is better, in what unit, and how people read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Measure:
    """One figure of a network's quality.

    name: its key among the results.
    label: for tables.
    direction: which way is better.
    unit: "" for a plain number.
    show: writes a value.
    change: (key, the dense network's results, another's) → the difference, written.
    elsewhere: the label of the same figure on a second text of another domain, whose key is "ood_"
        + name; None: it is not shown.
    """

    name: str
    label: str
    direction: Literal["maximize", "minimize"]
    unit: str
    show: Callable[[float], str]
    change: Callable[[str, Scores, Scores], str]
    elsewhere: str | None = None


def signed(value: float, digits: int) -> str:
    """+0.12, −1.50 with a true minus sign."""
    # Rounding first: a change of −0.0001 is written as +0.00, not as −0.00.
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")


def percent(value: float) -> str:
    """0.9172 → 91.72 %."""
    return f"{100 * value:.2f} %"


def four_digits(value: float) -> str:
    """0.12345 → 0.1235."""
    return f"{value:.4f}"


def short_number(value: float) -> str:
    """A number in about three digits: 1.47, 29.2, 9146, 1.9e+04."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}" if value < 10_000 else f"{value:.2g}"


def points(key: str, dense: Scores, other: Scores) -> str:
    """The difference of two fractions, in percentage points."""
    return f"{signed(100 * (other[key] - dense[key]), 2)} points"


def difference(key: str, dense: Scores, other: Scores) -> str:
    """The difference of two values."""
    return signed(other[key] - dense[key], 4)


def ratio_with_interval(key: str, dense: Scores, other: Scores) -> str:
    """The ratio to the dense network and its interval, from the results: 1.47× (1.43–1.52)."""
    ratio, low, high = (short_number(other[f"{key}_ratio{end}"]) for end in ("", "_low", "_high"))
    return f"{ratio}× ({low}–{high})"


ACCURACY = Measure("accuracy", "accuracy", "maximize", "%", percent, points)
LOSS = Measure("loss", "loss", "minimize", "nats", four_digits, difference)
