"""What the page shows of the jobs: colours, which layers, words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from pipeline.lowrank.analysis.tables import ranks_text
from pipeline.reporting.names import largest, left_out, short
from pipeline.reporting.run.layers import LayerRow
from pipeline.reporting.sweep.entries import Comparison, Entry
from pipeline.reporting.sweep.front import COST_AXES, Front, Point, find_front
from pipeline.reporting.words import human_count, percent

MOST_COLOURS = 5  # that the style sheet has
MOST_ROWS, MOST_COLUMNS = 48, 40
_LONGEST_OPTION = 16  # characters


@dataclass(frozen=True)
class Series:
    """Points of one colour. `name` is `option = value`, or empty where colour says nothing."""

    name: str
    points: tuple[Point, ...]


def coloured_option(comparison: Comparison) -> str | None:
    """The first option that differs and has two to five values which are not all numbers."""
    for name in comparison.options:
        values = {entry.options.get(name, "") for entry in comparison.compared}
        if 1 < len(values) <= MOST_COLOURS and not all(_is_number(v) for v in values):
            return name
    return None


def series_of(comparison: Comparison, front: Front) -> list[Series]:
    """A front's points by colour; the colour of a value is the same in all panels."""
    option = coloured_option(comparison)
    if option is None:
        return [Series("", front.points)]
    values = dict.fromkeys(entry.options.get(option, "") for entry in comparison.compared)
    return [
        Series(
            f"{option} = {value}",
            tuple(p for p in front.points if p.entry.options.get(option, "") == value),
        )
        for value in values
    ]


def describe(comparison: Comparison, entry: Entry) -> list[str]:
    """A few lines about a job: what it is, how good, how large, how fast."""
    last, dense, measure = entry.last, entry.dense, comparison.measure
    assert last is not None and dense is not None and measure is not None
    lines = [f"job {entry.number}"]
    lines += [f"{name} = {value}" for name, value in entry.options.items()]
    lines += [
        f"{measure.label} {measure.show(last.quality)} (dense {measure.show(dense.quality)})",
        f"{human_count(last.params)} parameters ({percent(last.params / dense.params)} of dense)",
        f"{human_count(last.macs)} MACs ({percent(last.macs / dense.macs)} of dense)",
    ]
    if last.latency_ms is not None and dense.latency_ms is not None:
        lines.append(f"{last.latency_ms:.2f} ms (dense {dense.latency_ms:.2f} ms beside it)")
    return lines


def steps(front: Front) -> Iterator[tuple[float, float]]:
    """Corners of the front: the best quality for at most each cost."""
    best: float | None = None
    for point in front.best:
        if best is not None:
            yield point.cost, best
        yield point.cost, point.quality
        best = point.quality


@dataclass(frozen=True)
class Cell:
    """A layer in a job. `kept` is its fraction of the dense layer's parameters; `ranks` is
    "dense" for a layer that is left as it was."""

    kept: float
    ranks: str
    method: str


@dataclass(frozen=True)
class Ranks:
    """cells[layer][job]; None where a job's network has no such layer. `note` says what is left
    out."""

    layers: tuple[str, ...]
    note: str
    entries: tuple[Entry, ...]
    cells: tuple[tuple[Cell | None, ...], ...]


def ranks_along_front(comparison: Comparison) -> Ranks:
    """The layers with the most parameters, in the network's order, of the jobs on the front of
    quality and parameters, the smallest network first."""
    best = [point.entry for point in find_front(comparison, COST_AXES[0]).best][:MOST_COLUMNS]
    tables = [{row.name: row for row in entry.layers} for entry in best]
    weight = {name: float(row.dense_params) for rows in tables for name, row in rows.items()}
    names = largest(list(weight), weight, MOST_ROWS)
    cells = tuple(
        tuple(_cell(rows[name]) if name in rows else None for rows in tables) for name in names
    )
    note = left_out(len(names), len(weight), "the most parameters", "layers.csv of each job")
    return Ranks(tuple(names), note, tuple(best), cells)


def column_lines(entry: Entry) -> list[str]:
    """The lines under a job's column, which name it."""
    return [
        f"job {entry.number}",
        *(short(value, _LONGEST_OPTION) for value in entry.options.values()),
    ][:4]


def _cell(row: LayerRow) -> Cell:
    return Cell(row.kept, ranks_text(row.ranks) or "dense", row.method)


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        float(text)
        return True
    return False
