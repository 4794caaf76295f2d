"""Tables of a page: what each cell shows, and by what its column is sorted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Key = float | str | None


@dataclass(frozen=True)
class Dot:
    """A value on a strip, `at` in [0, 1]; `kind` is its look: measured, expected or bound."""

    at: float
    kind: str


@dataclass(frozen=True)
class Strip:
    """Values on one line: a band from `low` to `high` in [0, 1], and dots."""

    dots: tuple[Dot, ...]
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Bar:
    """`now` within `before`, both as fractions of the longest bar of the column."""

    now: float
    before: float


@dataclass(frozen=True)
class Cell:
    """A cell.

    text, small: what is written, and what stands behind it in small type.
    key: by what it is sorted; None comes last.
    graphic: drawn instead of the text, or below it.
    kind: a look of its own: wrapped, chosen, wrong.
    job: the job that a click on it selects. links: (words, address) of what it leads to.
    """

    text: str
    key: Key = None
    small: str = ""
    graphic: Bar | Strip | None = None
    kind: str = ""
    job: int | None = None
    links: Sequence[tuple[str, str]] = ()

    @property
    def is_bar(self) -> bool:
        return isinstance(self.graphic, Bar)


@dataclass(frozen=True)
class Column:
    """A column; `number` aligns it to the right."""

    heading: str
    number: bool = False


@dataclass(frozen=True)
class Row:
    cells: Sequence[Cell]
    chosen: bool = False
    name: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first column names the rows. `caption` is for those who do not see it."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    sortable: bool = True


def name_cell(name: str) -> Cell:
    return Cell(name or "(root)", name)
