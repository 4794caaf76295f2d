"""Measures of quality: which way is better, in what unit, and how people read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Scores = Mapping[str, float]


Style = Literal["percent", "four digits", "short", "perplexity"]


@dataclass(frozen=True)
class Measure:
    """One figure of a network's quality.

    name: its key among the results.
    label: for tables.
    direction: which way is better.
    unit: "" for a plain number.
    style: how values and differences are written: "percent" of a fraction, with differences in
        percentage points; in "four digits" behind the point; "short", in four digits of any size;
        or as a "perplexity", whose change is the ratio `NAME_ratio` among the results.
    elsewhere: the label of the same figure on a second text of another domain, whose key is "ood_"
        + name; None: it is not shown.
    """

    name: str
    label: str
    direction: Literal["maximize", "minimize"]
    unit: str
    style: Style
    elsewhere: str | None = None

    def show(self, value: float) -> str:
        """The value, written."""
        return _SHOWN[self.style](value)

    def change(self, key: str, dense: Scores, other: Scores) -> str:
        """The difference of two networks' results, written; key: the measure's name among them."""
        if self.style == "percent":
            return f"{signed(100 * (other[key] - dense[key]), 2)} points"
        if self.style == "perplexity":
            return _ratio_with_interval(key, other)
        if self.style == "short":
            apart = other[key] - dense[key]
            return f"{'−' if apart < 0 else '+'}{short(abs(apart))}"
        return signed(other[key] - dense[key], 4)


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


def short(value: float) -> str:
    """A number of any size in four digits: 0.01235, 12.35, 1.235e+05."""
    return f"{value:.4g}"


def short_number(value: float) -> str:
    """A number in about three digits: 1.47, 29.2, 9146, 1.9e+04."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}" if value < 10_000 else f"{value:.2g}"


def _ratio_with_interval(key: str, results: Scores) -> str:
    """The ratio to the dense network and its interval, from the results: 1.47× (1.43–1.52)."""
    ratio, low, high = (short_number(results[f"{key}_ratio{end}"]) for end in ("", "_low", "_high"))
    return f"{ratio}× ({low}–{high})"


_SHOWN: dict[Style, Callable[[float], str]] = {
    "percent": percent,
    "four digits": four_digits,
    "short": short,
    "perplexity": short_number,
}
ACCURACY = Measure("accuracy", "accuracy", "maximize", "%", "percent")
LOSS = Measure("loss", "loss", "minimize", "nats", "four digits")
# Against the dense network: the divergence is in the task's unit.
AGREEMENT = Measure("agreement", "agreement with dense", "maximize", "%", "percent")
DIVERGENCE = Measure("divergence", "divergence from dense", "minimize", "", "short")
