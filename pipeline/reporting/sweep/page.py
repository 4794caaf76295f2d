"""The page: one HTML file that needs nothing else, no network either."""

from __future__ import annotations

import time

from pipeline.reporting.page.render import render
from pipeline.reporting.sweep.charts import front_plot
from pipeline.reporting.sweep.entries import Comparison, states
from pipeline.reporting.sweep.front import COST_AXES, find_front, is_noisy
from pipeline.reporting.sweep.recommended import recommend
from pipeline.reporting.sweep.series import (
    coloured_option,
    column_lines,
    describe,
    ranks_along_front,
    series_of,
)
from pipeline.reporting.sweep.table import links_of, table_of_jobs, table_of_others


def page(comparison: Comparison) -> str:
    """The whole page. Without a job that is done it says so, and lists the jobs."""
    best = recommend(comparison)
    number = best.entry.number if best else None
    compared = comparison.compared
    ranks = ranks_along_front(comparison)
    return render(
        "sweep.html",
        comparison=comparison,
        facts=facts_of(comparison),
        command="python -m pipeline -m " + " ".join(comparison.record.overrides),
        best=best,
        plots=[front_plot(comparison, axis, number) for axis in COST_AXES],
        axes=COST_AXES,
        noisy=[str(entry.number) for entry in compared if is_noisy(entry)],
        series=_key(comparison),
        ranks=ranks,
        heads=[column_lines(entry) for entry in ranks.entries],
        details=[(entry, describe(comparison, entry), links_of(entry)) for entry in compared],
        jobs=table_of_jobs(comparison, number),
        others=table_of_others(comparison),
    )


def facts_of(comparison: Comparison) -> list[str]:
    """How many jobs there are, when they ran, and for how long."""
    record = comparison.record
    started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(record.started))
    parts = [states(comparison.entries), f"started {started}"]
    if record.ended is None:
        return [*parts, "still running"]
    minutes, seconds = divmod(round(record.ended - record.started), 60)
    return [*parts, f"took {minutes} min {seconds} s" if minutes else f"took {seconds} s"]


def _key(comparison: Comparison) -> list[str]:
    """What the colours say; [] where they say nothing."""
    if not comparison.compared or coloured_option(comparison) is None:
        return []
    return [one.name for one in series_of(comparison, find_front(comparison, COST_AXES[0]))]
