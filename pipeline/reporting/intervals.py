"""How sure a figure of quality is, from the number of test examples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.lowrank.tasks.measure import Measure

_Z = 1.959963984540054  # 97.5 % of the normal distribution lie below
# Tasks in which every example is right or wrong, and counts by itself.
_COUNTED = {"classification", "sequence_classification"}


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2


def interval(
    measure: Measure, scores: Mapping[str, float], task: str, examples: int
) -> Interval | None:
    """The 95 % interval of a network's score over test examples: the one that was measured with it
    (`NAME_low`, `NAME_high`), or, where each example is right or wrong, Wilson's of a share
    (Wilson 1927); None for other measures.

    scores: of the network, by name. task: its name. examples: of the test split.
    """
    low, high = scores.get(f"{measure.name}_low"), scores.get(f"{measure.name}_high")
    if low is not None and high is not None:
        return Interval(low, high)
    if task not in _COUNTED or measure.name not in ("accuracy", "agreement") or examples < 1:
        return None
    share, weight = scores[measure.name], _Z**2 / examples
    middle = (share + weight / 2) / (1 + weight)
    half = _Z * math.sqrt(share * (1 - share) / examples + weight / (4 * examples)) / (1 + weight)
    return Interval(middle - half, middle + half)
