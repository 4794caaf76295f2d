"""The page's table of all jobs: done, failed and running ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from html import escape

from pipeline.reporting.sweep.entries import Comparison, Entry, NetworkFigures
from pipeline.reporting.words import human_count, percent

_ABSENT = "—"


@dataclass(frozen=True)
class _Figure:
    """A column of numbers; `value` is None where the number is not known."""

    heading: str
    value: Callable[[NetworkFigures], float | None]
    show: Callable[[NetworkFigures, NetworkFigures], str]


def table_of_jobs(comparison: Comparison) -> str:
    """HTML; each row's `data-sort` lists what its columns are sorted by."""
    figures = _figures(comparison)
    heads = [_head("job"), *map(_head, comparison.options), _head("state")]
    heads += [_head(figure.heading, "number") for figure in figures] or [_head("error")]
    rows = "\n".join(_row(comparison, entry, figures) for entry in comparison.entries)
    head = f"<thead><tr>{''.join(heads)}<th></th></tr></thead>"
    return f'<div class="scroll"><table>{head}\n<tbody>\n{rows}\n</tbody></table></div>'


def _figures(comparison: Comparison) -> list[_Figure]:
    measure = comparison.measure
    if measure is None:
        return []
    return [
        _Figure(measure.label, lambda n: n.quality, lambda n, _: escape(measure.show(n.quality))),
        _Figure("parameters", lambda n: n.params, lambda n, d: _share(n.params, d.params)),
        _Figure("MACs", lambda n: n.macs, lambda n, d: _share(n.macs, d.macs)),
        _Figure("latency", lambda n: n.latency_ms, _latency),
    ]


def _row(comparison: Comparison, entry: Entry, figures: list[_Figure]) -> str:
    last, dense = entry.last, entry.dense
    values = [entry.options.get(name) for name in comparison.options]
    keys = [entry.number, *map(_number_or_text, values), entry.state]
    cells = [f"<td>{entry.number}</td>"]
    cells += [f'<td class="option">{escape(value or _ABSENT)}</td>' for value in values]
    cells.append(f"<td>{escape(entry.state)}</td>")
    if last is not None and dense is not None:
        keys += [figure.value(last) for figure in figures]
        cells += [f'<td class="number">{figure.show(last, dense)}</td>' for figure in figures]
    else:
        keys += [None] * max(len(figures), 1)
        text = escape(entry.error or "")
        cells.append(f'<td class="error" colspan="{max(len(figures), 1)}">{text}</td>')
    links = [("MLflow run", entry.run), ("log", entry.log), ("folder", entry.folder)]
    shown = " · ".join(f'<a href="{escape(to)}">{name}</a>' for name, to in links if to)
    sort = escape(json.dumps(keys))
    return f'<tr data-sort="{sort}">{"".join(cells)}<td>{shown}</td></tr>'


def _head(text: str, kind: str = "") -> str:
    marked = f' class="{kind}"' if kind else ""
    return f'<th scope="col"{marked}><button type="button">{escape(text)}</button></th>'


def _share(value: int, dense: int) -> str:
    return f"{human_count(value)} <small>({percent(value / dense)})</small>"


def _latency(network: NetworkFigures, dense: NetworkFigures) -> str:
    if network.latency_ms is None or dense.latency_ms is None:
        return _ABSENT
    share = percent(network.latency_ms / dense.latency_ms)
    return f"{network.latency_ms:.2f} ms <small>({share})</small>"


def _number_or_text(text: str | None) -> float | str | None:
    if text is not None:
        with suppress(ValueError):
            return float(text)
    return text
