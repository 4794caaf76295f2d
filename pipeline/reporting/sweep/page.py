"""The page: one HTML file that needs nothing else, no network either."""

from __future__ import annotations

import json
import time
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from pipeline.reporting.style import DENSE
from pipeline.reporting.sweep.charts import front_chart, ranks_chart
from pipeline.reporting.sweep.entries import Comparison, states
from pipeline.reporting.sweep.front import COST_AXES, find_front, is_noisy
from pipeline.reporting.sweep.series import (
    coloured_option,
    ranks_along_front,
    series_of,
)
from pipeline.reporting.sweep.table import table_of_jobs

_HERE = Path(__file__).parent


def page(comparison: Comparison) -> str:
    """The whole page. Without a job that is done it says so, and lists the jobs."""
    charts: dict[str, Any] = {}
    sections = _fronts(comparison, charts) + _ranks(comparison, charts)
    measure = comparison.measure
    title = f"Sweep: {measure.label} against size and speed" if measure else "Sweep"
    return Template((_HERE / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        facts=_facts(comparison),
        command=escape("python -m pipeline -m " + " ".join(comparison.record.overrides)),
        sections=sections + _jobs(comparison),
        # "<" would let a name end the script.
        charts=json.dumps(charts).replace("<", "\\u003c"),
        plotly=get_plotlyjs() if charts else "",
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
    )


def _facts(comparison: Comparison) -> str:
    record = comparison.record
    started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(record.started))
    parts = [states(comparison.entries), f"started {started}"]
    if record.ended is None:
        parts.append("still running")
    else:
        minutes, seconds = divmod(round(record.ended - record.started), 60)
        parts.append(f"took {minutes} min {seconds} s" if minutes else f"took {seconds} s")
    told = [escape(part) for part in parts]
    if comparison.run:
        told.append(f'<a href="{escape(comparison.run)}">MLflow run of the sweep</a>')
    return " · ".join(told)


def _fronts(comparison: Comparison, charts: dict[str, Any]) -> str:
    measure = comparison.measure
    if not comparison.compared or measure is None:
        return "<p><strong>No job is done yet: there is nothing to compare.</strong></p>\n"
    panels = []
    for axis in COST_AXES:
        chart = front_chart(comparison, axis)
        if chart is None:
            inside = '<p class="note">Not measured.</p>'
        else:
            charts[f"front-{axis.key}"] = chart
            label = escape(f"{measure.label} against {axis.label}")
            inside = f'<div id="front-{axis.key}" role="img" aria-label="{label}"></div>'
        if not axis.counts:
            inside += _noise(comparison)
        panels.append(f"<div><h3>{axis.title}</h3>{inside}</div>")
    better = "higher" if comparison.higher_is_better else "lower"
    return (
        f"<section><h2>{escape(measure.label.capitalize())} against cost</h2>\n"
        f'<p class="note">On the test split, at the end of each job\'s chain; {better} and further '
        "left is better. The line joins the best jobs for each cost; a lighter point is dominated: "
        "another job is at least as good on both. A click opens the job.</p>\n"
        f'{_key(comparison)}<div class="panels">{"".join(panels)}</div></section>\n'
    )


def _noise(comparison: Comparison) -> str:
    noisy = [str(entry.number) for entry in comparison.compared if is_noisy(entry)]
    if not noisy:
        return ""
    return (
        f'<p class="note">Not to be relied on for {len(noisy)} of {len(comparison.compared)} jobs '
        f"({', '.join(noisy)}), which are left out: the machine was busy. Measured again "
        "by <code>python -m pipeline.report SWEEP --measure</code>.</p>"
    )


def _key(comparison: Comparison) -> str:
    items = [f'<li><span class="dense" style="background:{DENSE}"></span>dense network</li>']
    if coloured_option(comparison):
        series = series_of(comparison, find_front(comparison, COST_AXES[0]))
        items[:0] = [
            f'<li><span style="background:{one.colour}"></span>{escape(one.name)}</li>'
            for one in series
        ]
    return f'<ul class="key">{"".join(items)}</ul>'


def _ranks(comparison: Comparison, charts: dict[str, Any]) -> str:
    if not comparison.compared:
        return ""
    ranks = ranks_along_front(comparison)
    charts["ranks"] = ranks_chart(ranks)
    width = 220 + 64 * len(ranks.entries)
    note = f" Shown are {escape(ranks.note)}." if ranks.note else ""
    return (
        "<section><h2>Ranks along the front of parameters</h2>\n"
        '<p class="note">Jobs from the smallest network to the largest. Numbers are the ranks of a '
        "layer; colour is the fraction of its parameters kept, 0 % white to 100 % blue; grey "
        "layers stay dense."
        f"{note}</p>\n"
        f'<div class="scroll"><div id="ranks" role="img" aria-label="ranks of each layer" '
        f'style="min-width:{width}px"></div></div></section>\n'
    )


def _jobs(comparison: Comparison) -> str:
    if not comparison.entries:
        return "<p>No job has begun.</p>\n"
    return (
        "<section><h2>All jobs</h2>\n"
        '<p class="note">In brackets: of the dense network, whose latency was measured beside each '
        "job's. A click on a heading sorts.</p>\n"
        f"{table_of_jobs(comparison)}</section>\n"
    )
