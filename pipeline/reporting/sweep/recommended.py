"""The job that a sweep recommends, and by which rule."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.reporting.sweep.entries import Comparison, Entry
from pipeline.reporting.words import percent, times

_LOST = 0.01  # of the dense network's quality, where no interval is known


@dataclass(frozen=True)
class Recommended:
    """The job, a sentence on what it is, and one on the rule by which it was taken."""

    entry: Entry
    headline: str
    rule: str


def recommend(comparison: Comparison) -> Recommended | None:
    """The smallest network that is as good as the dense one, as far as the test split can tell;
    where none is, the best. None without a job to compare."""
    measure, compared = comparison.measure, comparison.compared
    if measure is None or not compared:
        return None
    good = [entry for entry in compared if _is_as_good(comparison, entry)]
    if good:
        entry = min(good, key=_size)
        told = (
            "the test split cannot tell from the dense one's (95 % interval)"
            if entry.last and entry.last.interval
            else f"is at most {percent(_LOST)} worse than the dense one's"
        )
        rule = f"The smallest of the {len(compared)} networks whose {measure.label} {told}."
    else:
        sign = -1.0 if comparison.higher_is_better else 1.0
        entry = min(compared, key=lambda e: (sign * (e.last.quality if e.last else 0.0), _size(e)))
        rule = (
            f"No network is as good as the dense one; of the {len(compared)} this is the one with "
            f"the best {measure.label}."
        )
    return Recommended(entry, _headline(comparison, entry), rule)


def _headline(comparison: Comparison, entry: Entry) -> str:
    last, dense, measure = entry.last, entry.dense, comparison.measure
    assert last is not None and dense is not None and measure is not None  # it is compared
    parts = [times(dense.params / last.params, "smaller", "larger")]
    if last.latency_ms and dense.latency_ms and not (last.busy or dense.busy):
        parts.append(times(dense.latency_ms / last.latency_ms, "faster", "slower"))
    spread = ""
    if last.interval is not None:
        found = last.interval
        spread = f" ({measure.show(found.low)}–{measure.show(found.high)})"
        if measure.style == "percent":
            spread = f" ± {100 * found.half:.1f}"
    return (
        f"Job {entry.number} is recommended: {', '.join(parts)}, {measure.label} "
        f"{measure.show(last.quality)}{spread}, {measure.show(dense.quality)} before."
    )


def _is_as_good(comparison: Comparison, entry: Entry) -> bool:
    last, dense = entry.last, entry.dense
    assert last is not None and dense is not None  # it is compared
    sign = 1.0 if comparison.higher_is_better else -1.0
    if sign * (last.quality - dense.quality) >= 0:
        return True
    if last.interval is not None:
        return last.interval.low <= dense.quality <= last.interval.high
    return abs(last.quality - dense.quality) <= _LOST * abs(dense.quality)


def _size(entry: Entry) -> tuple[int, int]:
    assert entry.last is not None
    return entry.last.params, entry.last.macs
