"""The page's charts: plotly figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from pipeline.reporting.style import DENSE, FAINT, FIRST, INK
from pipeline.reporting.sweep.entries import Comparison
from pipeline.reporting.sweep.front import CostAxis, find_front, is_wide
from pipeline.reporting.sweep.series import (
    LIGHT,
    Ranks,
    Series,
    column_lines,
    describe,
    layer_labels,
    series_of,
    steps,
)
from pipeline.reporting.words import percent

_DENSE_CELL = "#F0F0F0"
# White where nothing is kept, so that text stays dark on most of it.
_SCALE = [[0.0, "#F4F8FB"], [1.0, FIRST]]
_ROW, _COLUMN_HEAD = 26, 16  # pixels


def front_chart(comparison: Comparison, axis: CostAxis) -> dict[str, Any] | None:
    """Quality against a cost; None where no job's cost is known."""
    front = find_front(comparison, axis)
    if not front.points:
        return None
    measure = comparison.measure
    assert measure is not None
    corners = list(steps(front))
    figure = go.Figure(layout=_layout(margin={"l": 62, "r": 12, "t": 8, "b": 44}, height=300))
    figure.add_scatter(
        x=[x for x, _ in corners],
        y=[y for _, y in corners],
        mode="lines",
        line={"color": INK, "width": 1.2},
        hoverinfo="skip",
    )
    best = {point.entry.number for point in front.best}
    for series in series_of(comparison, front):
        figure.add_trace(_points(comparison, series, best))
    figure.add_scatter(
        x=[x for x, _ in front.dense],
        y=[y for _, y in front.dense],
        mode="markers",
        marker={"color": DENSE, "symbol": "diamond", "size": 10},
        hovertext=[
            f"dense network<br>{escape(measure.label)} {measure.show(y)}<br>"
            f"{escape(axis.label)} {axis.show(x)}"
            for x, y in front.dense
        ],
        hoverinfo="text",
    )
    figure.update_xaxes(title_text=escape(axis.label), **_axis(front.wide, axis.counts))
    figure.update_yaxes(**_quality_axis(comparison, [p.quality for p in front.points]))
    return _json(figure)


def ranks_chart(ranks: Ranks) -> dict[str, Any]:
    """Layer × job; colour is the kept fraction of parameters, the text the ranks."""
    heads = [[escape(line) for line in column_lines(entry)] for entry in ranks.entries]
    top = 14 + _COLUMN_HEAD * max(map(len, heads))
    height = top + 12 + _ROW * len(ranks.layers)
    figure = go.Figure(layout=_layout(margin={"l": 10, "r": 10, "t": top, "b": 12}, height=height))
    figure.add_trace(_cells(ranks, dense=True))
    figure.add_trace(_cells(ranks, dense=False))
    figure.update_xaxes(
        side="top",
        tickvals=list(range(len(heads))),
        ticktext=["<br>".join(lines) for lines in heads],
        showgrid=False,
        zeroline=False,
        ticks="",
        tickangle=0,
    )
    figure.update_yaxes(
        tickvals=list(range(len(ranks.layers))),
        ticktext=[escape(name) for name in layer_labels(ranks.layers)],
        autorange="reversed",
        showgrid=False,
        zeroline=False,
        ticks="",
        automargin=True,
    )
    return _json(figure)


def _points(comparison: Comparison, series: Series, best: set[int]) -> go.Scatter:
    on_front = [point.entry.number in best for point in series.points]
    return go.Scatter(
        x=[point.cost for point in series.points],
        y=[point.quality for point in series.points],
        mode="markers",
        marker={
            "color": series.colour,
            "size": [11 if on else 9 for on in on_front],
            "opacity": [1.0 if on else LIGHT for on in on_front],
        },
        hovertext=[
            "<br>".join(map(escape, describe(comparison, point.entry))) for point in series.points
        ],
        hoverinfo="text",
        customdata=[point.entry.link for point in series.points],
    )


def _cells(ranks: Ranks, *, dense: bool) -> go.Heatmap:
    shown = [
        [c if c is not None and (c.ranks == "dense") == dense else None for c in row]
        for row in ranks.cells
    ]
    names = [escape(name or "(root)") for name in ranks.layers]
    return go.Heatmap(
        z=[[None if c is None else min(c.kept, 1.0) for c in row] for row in shown],
        text=[["" if c is None else c.ranks for c in row] for row in shown],
        texttemplate="%{text}" if len(ranks.entries) <= 16 else None,
        textfont={"size": 11},
        hovertext=[
            ["" if c is None else f"{name}<br>{escape(c.method)}, ranks {c.ranks}<br>"
             f"{percent(c.kept)} of its parameters" for c in row]
            for name, row in zip(names, shown, strict=True)
        ],
        hoverinfo="text",
        hoverongaps=False,
        zmin=0.0,
        zmax=1.0,
        colorscale=[[0.0, _DENSE_CELL], [1.0, _DENSE_CELL]] if dense else _SCALE,
        showscale=False,
        xgap=2,
        ygap=2,
        customdata=[[entry.link for entry in ranks.entries]] * len(ranks.layers),
    )  # fmt: skip


def _layout(**more: Any) -> go.Layout:
    font = {"family": "system-ui, sans-serif", "size": 12, "color": INK}
    hover = {"bgcolor": "white", "bordercolor": "#999999", "align": "left", "font": font}
    return go.Layout(
        template="none",
        font=font,
        hoverlabel=hover,
        showlegend=False,
        plot_bgcolor="white",
        paper_bgcolor="white",
        hovermode="closest",
        **more,
    )


def _axis(wide: bool, counts: bool) -> dict[str, Any]:
    axis: dict[str, Any] = {"gridcolor": FAINT, "zeroline": False, "linecolor": "#999999"}
    if wide:
        axis |= {"type": "log", "dtick": "D2"}
    if counts:
        axis |= {"tickformat": "~s"}
    return axis


def _quality_axis(comparison: Comparison, values: Sequence[float]) -> dict[str, Any]:
    measure = comparison.measure
    assert measure is not None
    wide = not comparison.higher_is_better and is_wide(values)
    percents = measure.show(0.5).endswith("%")
    form = {"tickformat": "~%"} if percents else {}
    return {"title_text": measure.label, **_axis(wide, False), **form}


def _json(figure: go.Figure) -> dict[str, Any]:
    drawn: dict[str, Any] = json.loads(figure.to_json(engine="json"))
    return drawn
