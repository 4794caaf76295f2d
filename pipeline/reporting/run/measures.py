"""How good a network is, in the measures of its task: what they are called and how they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.reporting.run.numbers import NETWORKS


@dataclass(frozen=True)
class Measure:
    """`key` in metrics.json; `show` writes a value, `change` (key, metrics.json) what became of
    the dense network's."""

    key: str
    label: str
    show: Callable[[float], str]
    change: Callable[[str, Mapping[str, Any]], str]


def measures(metrics: Mapping[str, Any]) -> list[Measure]:
    """Those that metrics.json holds, the most telling one first."""
    return [measure for measure in _ALL if measure.key in metrics[NETWORKS[0]]]


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


def _points(key: str, metrics: Mapping[str, Any]) -> str:
    return f"{signed(100 * _difference(key, metrics), 2)} points"


def _plain(key: str, metrics: Mapping[str, Any]) -> str:
    return signed(_difference(key, metrics), 4)


def _difference(key: str, metrics: Mapping[str, Any]) -> float:
    return float(metrics[NETWORKS[-1]][key] - metrics[NETWORKS[0]][key])


def _ratio(key: str, metrics: Mapping[str, Any]) -> str:
    """The ratio to dense and its interval: 1.47× (1.43–1.52)."""
    last = metrics[NETWORKS[-1]]
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
