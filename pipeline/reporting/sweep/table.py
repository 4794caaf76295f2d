"""The page's tables: the jobs with their figures, those that have none, and the ranks along the
front."""

from __future__ import annotations

from contextlib import suppress

from pipeline.reporting.page.table import Cell, Column, Row, Table
from pipeline.reporting.sweep.entries import Comparison, Entry, NetworkFigures
from pipeline.reporting.words import duration, human_count, percent


def table_of_jobs(comparison: Comparison, recommended: int | None) -> Table | None:
    """A line for each job that is compared; None without any."""
    measure = comparison.measure
    if measure is None or not comparison.compared:
        return None
    columns = [Column("job"), *map(Column, comparison.options), Column(measure.label, number=True)]
    columns += [Column(name, number=True) for name in ("parameters", "MACs", "latency")]
    rows = [
        Row(
            [
                *_named(comparison, entry),
                *_figures(comparison, entry),
                _links(entry),
            ],
            chosen=entry.number == recommended,
            name=f"row-{entry.number}",
        )
        for entry in comparison.compared
    ]
    return Table("the jobs", [*columns, Column("")], rows)


def table_of_others(comparison: Comparison) -> Table | None:
    """A line for each job without figures to compare: it failed, was stopped, runs still, or is of
    another measure; None without any."""
    others = [entry for entry in comparison.entries if entry.last is None]
    if not others:
        return None
    columns = [Column("job"), *map(Column, comparison.options), Column("state"), Column("why")]
    rows = [
        Row(
            [
                *_named(comparison, entry, pick=False),
                Cell(entry.state, entry.state),
                Cell(_why(comparison, entry), kind="wrong" if entry.error else "wrapped"),
                _links(entry),
            ]
        )
        for entry in others
    ]
    return Table("the jobs without figures", [*columns, Column("")], rows)


def _why(comparison: Comparison, entry: Entry) -> str:
    if entry.error:
        return entry.error
    if entry.state != "done" or comparison.measure is None:
        return ""
    return f"has no finite {comparison.measure.label} to compare"


def _named(comparison: Comparison, entry: Entry, *, pick: bool = True) -> list[Cell]:
    job = entry.number if pick else None
    cells = [Cell(str(entry.number), entry.number, job=job)]
    for name in comparison.options:
        value = entry.options.get(name)
        cells.append(Cell("—" if value is None else value, _sorted_by(value), kind="option"))
    return cells


def _figures(comparison: Comparison, entry: Entry) -> list[Cell]:
    last, dense, measure = entry.last, entry.dense, comparison.measure
    assert last is not None and dense is not None and measure is not None  # it is compared
    half = last.interval
    small = "" if half is None else f"{measure.show(half.low)}–{measure.show(half.high)}"
    if half is not None and measure.style == "percent":
        small = f"± {100 * half.half:.1f}"
    return [
        Cell(measure.show(last.quality), last.quality, small=small),
        _share(last.params, dense.params),
        _share(last.macs, dense.macs),
        _latency(last, dense),
    ]


def _share(value: int, dense: int) -> Cell:
    return Cell(human_count(value), value, small=percent(value / dense))


def _latency(network: NetworkFigures, dense: NetworkFigures) -> Cell:
    if network.latency_ms is None or dense.latency_ms is None:
        return Cell("—")
    if network.busy or dense.busy:
        return Cell(duration(network.latency_ms), small="busy")
    share = percent(network.latency_ms / dense.latency_ms)
    return Cell(duration(network.latency_ms), network.latency_ms / dense.latency_ms, small=share)


def _links(entry: Entry) -> Cell:
    return Cell("", kind="outside", links=links_of(entry))


def links_of(entry: Entry) -> list[tuple[str, str]]:
    """(words, address) of what belongs to a job: its page, its run, its log, its folder."""
    links = (
        ("page", entry.page),
        ("MLflow", entry.run),
        ("log", entry.log),
        ("folder", entry.folder),
    )
    return [(words, address) for words, address in links if address]


def _sorted_by(text: str | None) -> float | str | None:
    if text is not None:
        with suppress(ValueError):
            return float(text)
    return text
