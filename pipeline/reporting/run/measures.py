"""How good a network is, in the measures of its task: what they are called and how they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Measure:
    """`key` in the scores of a network; `show` writes a value, `change` (key, dense scores, last
    scores) what became of the dense network's."""

    key: str
    label: str
    show: Callable[[float], str]
    change: Callable[[str, Scores, Scores], str]


def measures(scores: Scores) -> list[Measure]:
    """Those that a network was measured in, the most telling one first."""
    return [measure for measure in _ALL if measure.key in scores]


def signed(value: float, digits: int) -> str:
    """+0.12, −1.50 with a true minus sign."""
    # Rounding first: a change of −0.0001 is written as +0.00, not as −0.00.
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _four(value: float) -> str:
    return f"{value:.4f}"


def _number(value: float) -> str:
    """Three digits or so: 1.47, 29.2, 9146, 1.9e+04."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}" if value < 10_000 else f"{value:.2g}"


def _points(key: str, dense: Scores, last: Scores) -> str:
    return f"{signed(100 * (last[key] - dense[key]), 2)} points"


def _plain(key: str, dense: Scores, last: Scores) -> str:
    return signed(last[key] - dense[key], 4)


def _ratio(key: str, dense: Scores, last: Scores) -> str:
    """The ratio to dense and its interval: 1.47× (1.43–1.52)."""
    ratio, low, high = (_number(last[f"{key}_ratio{end}"]) for end in ("", "_low", "_high"))
    return f"{ratio}× ({low}–{high})"


_ALL = (
    Measure("perplexity", "perplexity", _number, _ratio),
    Measure("ood_perplexity", "out of domain", _number, _ratio),
    Measure("cosine", "cosine to dense", _four, _plain),
    Measure("recall_at_10", "recall at 10", _percent, _points),
    Measure("ood_cosine", "cosine, out of domain", _four, _plain),
    Measure("ood_recall_at_10", "recall, out of domain", _percent, _points),
    Measure("accuracy", "accuracy", _percent, _points),
    Measure("loss", "loss", _four, _plain),
)
