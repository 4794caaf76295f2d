"""What a run found, in two sentences: how small, how fast and how good its last network is, and
how far that can be trusted."""

from __future__ import annotations

from pipeline.data.files import DataFacts
from pipeline.evaluation.timings import Timings
from pipeline.lowrank.tasks.measure import Measure
from pipeline.reporting.intervals import Interval, interval
from pipeline.reporting.run.measures import measures
from pipeline.reporting.run.metrics import Metrics
from pipeline.reporting.words import times

_SAME = 1.02  # ratios closer to 1 are none


def verdict(metrics: Metrics, timings: Timings | None, data: DataFacts) -> str:
    """Both sentences. timings: None where latency was not measured here, of which nothing is said
    then."""
    return f"{headline(metrics, timings, data)} {detail(metrics, data)}"


def headline(metrics: Metrics, timings: Timings | None, data: DataFacts) -> str:
    """Size, speed and quality of the last network beside the dense one: "4.00× smaller, 1.60×
    faster: accuracy 98.00 % ± 1.5, 97.50 % before." """
    measure = _first(metrics)
    before, after = (
        measure.show(network.scores[measure.name])
        for network in (metrics.dense, metrics.fine_tuned)
    )
    parts = [_size(metrics.compression_ratio), "" if timings is None else speed(timings)]
    said = f"{', '.join(filter(None, parts))}: {measure.label} {after}{_spread(metrics, data)}"
    return f"{said[0].upper()}{said[1:]}, {before} before."


def detail(metrics: Metrics, data: DataFacts) -> str:
    """The change of the quality, and whether the test examples can tell it from none."""
    measure, before = _first(metrics), metrics.dense.scores
    change = measure.change(measure.name, before, metrics.fine_tuned.scores)
    count = f"{data.sizes['test']:,} test examples"
    if measure.style == "perplexity":  # its ratio has an interval of its own
        return f"The {measure.label} is {change} the dense network's on {count} (95 % interval)."
    told = f"The {measure.label} changed by {change} on {count}"
    found = _interval(metrics, data)
    if found is None:
        return f"{told}."
    if found.low <= before[measure.name] <= found.high:
        return f"{told}, too few to tell this from no change (95 % interval)."
    return f"{told}, which is outside of the 95 % interval."


def speed(timings: Timings) -> str:
    """The speed of the last network, in words."""
    if timings.busy:
        return "its speed not known, as the machine was busy"
    if 1 / _SAME < timings.speedup < _SAME:
        return "as fast as before"
    return times(timings.speedup, "faster", "slower")


def _first(metrics: Metrics) -> Measure:
    return measures(metrics.dense.scores, metrics.measures)[0]


def _size(ratio: float) -> str:
    if 1 / _SAME < ratio < _SAME:
        return "as large as before"
    return times(ratio, "smaller", "larger")


def _interval(metrics: Metrics, data: DataFacts) -> Interval | None:
    return interval(_first(metrics), metrics.fine_tuned.scores, data.task, data.sizes["test"])


def _spread(metrics: Metrics, data: DataFacts) -> str:
    """± of the last network's quality, in the words of its measure."""
    measure, found = _first(metrics), _interval(metrics, data)
    if found is None:
        return ""
    if measure.style == "percent":
        return f" ± {100 * found.half:.1f}"
    return f" ({measure.show(found.low)}–{measure.show(found.high)})"
