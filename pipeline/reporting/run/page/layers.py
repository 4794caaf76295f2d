"""Where parameters and multiply-accumulates went: block by block and layer by layer, with the
reason for every choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.lowrank.analysis.tables import number_text, ranks_text
from pipeline.reporting.page.table import Bar, Cell, Column, Row, Table, name_cell
from pipeline.reporting.run.layers import LayerRow
from pipeline.reporting.run.plot_rows import rank_rows
from pipeline.reporting.run.story import Story
from pipeline.reporting.words import duration, human_count, percent


@dataclass(frozen=True)
class _Sum:
    """Costs of some layers, before and now."""

    dense_params: int
    params: int
    dense_macs: int
    macs: int

    @classmethod
    def of(cls, rows: Iterable[LayerRow]) -> _Sum:
        rows = list(rows)
        return cls(
            sum(row.dense_params for row in rows),
            sum(row.params for row in rows),
            sum(row.dense_macs for row in rows),
            sum(row.macs for row in rows),
        )


def block_of(layer: str) -> str:
    """The block of a layer: its name up to the last number that has something behind it
    (`blocks.1.conv` → `blocks.1`); without one, what the layer is in."""
    parts = layer.split(".")
    numbers = [place for place, part in enumerate(parts[:-1]) if part.isdigit()]
    if numbers:
        return ".".join(parts[: numbers[-1] + 1])
    return ".".join(parts[:-1]) or layer


def blocks_table(layers: Sequence[LayerRow]) -> Table | None:
    """A line for each block; None where every block is one layer."""
    blocks: dict[str, list[LayerRow]] = {}
    for row in layers:
        blocks.setdefault(block_of(row.name), []).append(row)
    if len(blocks) in (1, len(layers)):
        return None
    sums = {name: _Sum.of(rows) for name, rows in blocks.items()}
    columns = [Column("block"), Column("layers", number=True), *_COSTS]
    rows = [
        Row([name_cell(name), Cell(str(len(blocks[name])), len(blocks[name])), *_costs(one, sums)])
        for name, one in sums.items()
    ]
    return Table("parameters and MACs of each block", columns, rows)


def layers_table(story: Story) -> Table:
    """A line for each target."""
    full = full_ranks(story)
    sums = {row.name: _Sum.of([row]) for row in story.layers}
    nats = {name: one.loss_increase for name, one in story.facts.plan.expected.layers.items()}
    in_nats = any(value is not None for value in nats.values())
    columns = [Column("layer"), Column("method"), Column("ranks", number=True), *_COSTS]
    timed = story.facts.plan.expected.latency
    columns += [Column("time", number=True)] if timed else []
    columns += [Column("error", number=True)]
    columns += [Column("nats", number=True)] if in_nats else []
    rows = []
    for row in story.layers:
        cells = [name_cell(row.name), Cell(row.method, row.method), _ranks(row, full)]
        cells += _costs(sums[row.name], sums)
        if timed:
            taken = timed.layers.get(row.name)
            cells.append(Cell("" if taken is None else duration(taken), taken))
        error = row.measured_relative_error
        dense = row.method == "dense"
        cells.append(Cell("" if dense else f"{error:.3f}", None if dense else error))
        if in_nats:
            increase = nats.get(row.name)
            shown = "" if dense or increase is None else number_text(increase)
            cells.append(Cell(shown, increase if shown else None))
        rows.append(Row([*cells, Cell(row.why, row.why, kind="wrapped")]))
    return Table("the layers", [*columns, Column("why")], rows)


def full_ranks(story: Story) -> dict[str, tuple[int, ...]]:
    """{layer: the full rank of each view that its method cuts}."""
    found: dict[str, tuple[int, ...]] = {}
    for row in rank_rows(story.facts):
        found[row.layer] = (*found.get(row.layer, ()), row.full_rank)
    return found


def _ranks(row: LayerRow, full: dict[str, tuple[int, ...]]) -> Cell:
    if not row.ranks:
        return Cell("")
    most = full.get(row.name, ())
    of = f"of {ranks_text(most)}" if len(most) == len(row.ranks) else ""
    return Cell(ranks_text(row.ranks), row.ranks[0], small=of)


_COSTS = (Column("parameters"), Column("MACs"))


def _costs(one: _Sum, others: dict[str, _Sum]) -> list[Cell]:
    cells = []
    for now, before, most in (
        (one.params, one.dense_params, max(x.dense_params for x in others.values())),
        (one.macs, one.dense_macs, max(x.dense_macs for x in others.values())),
    ):
        kept = now / before if before else 1.0
        small, share = percent(kept) if now != before else "", most or 1
        bar = Bar(min(now, before) / share, before / share)
        cells.append(Cell(human_count(now), now, small, bar))
    return cells
