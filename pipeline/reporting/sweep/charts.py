"""The page's plots: quality against a cost, with the front of the best jobs."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.reporting.page.axis import Axis, is_wide, make_axis
from pipeline.reporting.page.plot import Line, Mark, Plot
from pipeline.reporting.sweep.entries import Comparison
from pipeline.reporting.sweep.front import CostAxis, Front, find_front
from pipeline.reporting.sweep.series import Series, describe, series_of, steps
from pipeline.reporting.words import human_count


def front_plot(comparison: Comparison, axis: CostAxis, recommended: int | None) -> Plot | None:
    """Quality against a cost; None where no job's cost is known.

    recommended: the number of the job that has a ring around it.
    """
    front = find_front(comparison, axis)
    measure = comparison.measure
    if not front.points or measure is None:
        return None
    marks = [*_dense(comparison, front)]
    for place, series in enumerate(series_of(comparison, front)):
        marks += _jobs(comparison, front, place, series, recommended)
    costs = [mark.x for mark in marks]
    return Plot(
        title=axis.title,
        x=make_axis(axis.label, costs, _tick if axis.counts else "{:g}".format, log=front.wide),
        y=_quality(comparison),
        lines=[Line(list(steps(front)), "front")],
        marks=marks,
        height=250,
        left=54,
    )


def _dense(comparison: Comparison, front: Front) -> Iterator[Mark]:
    assert comparison.measure is not None
    for cost, quality in front.dense:
        told = f"dense network: {comparison.measure.show(quality)}, {front.axis.show(cost)}"
        yield Mark(cost, quality, "dense", told)


def _jobs(
    comparison: Comparison, front: Front, place: int, series: Series, recommended: int | None
) -> Iterator[Mark]:
    best = {point.entry.number for point in front.best}
    for point in series.points:
        entry = point.entry
        kinds = [f"s{place}", "" if entry.number in best else "light"]
        kinds.append("recommended" if entry.number == recommended else "")
        interval = entry.last.interval if entry.last else None
        yield Mark(
            point.cost,
            point.quality,
            " ".join(filter(None, kinds)),
            "\n".join(describe(comparison, entry)),
            interval.low if interval else None,
            interval.high if interval else None,
            job=entry.number,
        )


def _quality(comparison: Comparison) -> Axis:
    """The same axis for all costs."""
    measure = comparison.measure
    assert measure is not None
    values = []
    for entry in comparison.compared:
        assert entry.last is not None and entry.dense is not None  # it is compared
        found = entry.last.interval
        values += [entry.last.quality, entry.dense.quality]
        values += [found.low, found.high] if found else []
    if measure.style == "percent":
        low, high = min(values), max(values)
        room = max(0.04 * (high - low), 0.005)
        ends = (max(0.0, low - room), min(1.0, high + room))
        return make_axis(measure.label, values, lambda v: f"{100 * v:.4g} %", within=ends)
    log = not comparison.higher_is_better and is_wide(values)
    return make_axis(measure.label, values, "{:.4g}".format, log=log)


def _tick(value: float) -> str:
    return human_count(round(value)).replace(".00", "").replace(".0", "")
