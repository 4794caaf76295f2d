"""Tables that fit a terminal: names are shortened in their middle, and where that is not enough
columns are left out, which is told."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pipeline.lowrank.analysis.tables import shortened

_SHORTEST = 16  # characters that a name keeps
# For terminals and pipes that cannot show them (LANG=C, some Windows consoles).
_ASCII = str.maketrans({"—": "-", "–": "-", "×": "x", "→": ">", "−": "-", "…": "...", "·": "-"})


def plain_table(console: Console) -> Table:
    """A table without columns; no lines in a pipe."""
    style = box.SIMPLE_HEAD if console.is_terminal and not console.options.ascii_only else None
    return Table(box=style, pad_edge=False, padding=(0, 1), header_style="bold")


def plain_texts(console: Console, *cells: str) -> list[Text]:
    """Cells as they are: no markup, so that a layer called "[a]" stays what it is."""
    if console.options.ascii_only:
        cells = tuple(cell.translate(_ASCII) for cell in cells)
    return [Text(cell) for cell in cells]


def named_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    console: Console,
    dispensable: Sequence[str] = (),
    left: Collection[str] = ("method",),
) -> tuple[Table, list[str]]:
    """(the table in the width of the console; the columns that it has no room for).

    columns, rows: rows are as long as `columns`. The first column holds names, which are shortened
        in their middle.
    dispensable: columns that may be left out, the first of them first.
    left: the other columns that hold words, and not numbers.
    """
    nameless = [["", *row[1:]] for row in rows]
    longest = max(len(row[0]) for row in [columns, *rows])
    for count, close in [(0, False), *((count, True) for count in range(len(dispensable) + 1))]:
        without = dispensable[:count]
        others = _width(_made(columns, nameless, console, without, left, close))
        room = console.width - others + len(columns[0])
        if room >= (min(_SHORTEST, longest) if close else longest):
            break
    names = [shortened(row[0], max(room, _SHORTEST)) for row in rows]
    if console.options.ascii_only:
        names = [name.replace("…", "~") for name in names]  # as wide
    shown = [[name, *row[1:]] for name, row in zip(names, rows, strict=True)]
    return _made(columns, shown, console, without, left, close), list(without)


def _made(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    console: Console,
    without: Collection[str],
    left: Collection[str],
    close: bool,
) -> Table:
    """close: columns stand one blank apart."""
    table = plain_table(console)
    table.collapse_padding = close
    kept = [place for place, column in enumerate(columns) if column not in without]
    for place in kept:
        words = place == 0 or columns[place] in left
        table.add_column(columns[place], justify="left" if words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*plain_texts(console, *(row[place] for place in kept)))
    return table


def _width(table: Table) -> int:
    console = Console(width=10_000)
    return Measurement.get(console, console.options, table).maximum
