"""Tables for a terminal and for a notebook: what `print` shows of an analysis, a plan, a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from pipeline.lowrank.network.skipped import Skipped, largest

WIDTH = 80
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SHORTEST = 12  # characters that a name keeps at least


@dataclass(frozen=True)
class Table:
    """A table of text.

    title, notes: lines above and below.
    columns, rows: rows are as long as `columns`. The first column holds names, which are shortened
        in their middle where a line would get too long.
    left: the other columns that hold words, and not numbers.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    left: Sequence[str] = field(default=("method", "kind"))

    def text(self, width: int = WIDTH) -> str:
        """The table as text, at most `width` characters a line, as far as names can be
        shortened."""
        others = [
            max(len(row[index]) for row in [self.columns, *self.rows])
            for index in range(1, len(self.columns))
        ]
        room = max(_SHORTEST, width - sum(others) - 2 * len(others))
        names = [shortened(row[0], room) for row in [self.columns, *self.rows]]
        first = max(len(name) for name in names)
        lines = []
        for name, row in zip(names, [self.columns, *self.rows], strict=True):
            cells = [
                cell.ljust(size) if column in self.left else cell.rjust(size)
                for column, cell, size in zip(self.columns[1:], row[1:], others, strict=True)
            ]
            lines.append("  ".join([name.ljust(first), *cells]).rstrip())
        wrapped = [line for note in [self.title, *self.notes] for line in _wrapped(note, width)]
        count = len(_wrapped(self.title, width))
        return "\n".join([*wrapped[:count], *lines, *wrapped[count:]])

    def html(self) -> str:
        """A table element, in the notebook's own colours."""
        head = "".join(f"<th>{escape(column)}</th>" for column in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows
        )
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return (
            f"<p>{escape(self.title)}</p><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table>{notes}"
        )


def shortened(name: str, room: int) -> str:
    """The name, with an ellipsis in its middle where it is longer than `room` characters."""
    if len(name) <= room:
        return name
    tail = (room - 1) // 2
    return f"{name[: room - 1 - tail]}…{name[-tail:]}"


def ranks_text(ranks: Sequence[int]) -> str:
    """(24, 16) → 24×16; nothing for a dense layer."""
    return "×".join(map(str, ranks))


def number_text(value: float) -> str:
    """A number of any size in two to three digits: 0.94, 12.3, 2.4·10⁻⁴, 10⁻⁵."""
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    digits, _, power = f"{value:.1e}".partition("e")
    raised = f"10{str(int(power)).translate(_RAISED)}"
    return raised if digits == "1.0" else f"{digits.removesuffix('.0')}·{raised}"


def skipped_note(skipped: Mapping[str, Skipped], most: int = 5) -> list[str]:
    """One line that names at most `most` of the weights that are in no target, the largest, and
    why; [] where there are none."""
    return [f"skipped: {largest(skipped, most)}"] if skipped else []


def compact(count: int) -> str:
    """Up to 99,999 as it is, in thousands, millions, … above: 12,345, 134.2M."""
    if count < 100_000:
        return f"{count:,}"
    size = next(size for size in (1, 2, 3, 4, 5) if size == 5 or count < 999.95 * 1000**size)
    return f"{count / 1000**size:.1f}{'kMGTP'[size - 1]}"


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in (shortened(word, width) for word in text.split(" ")):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".lstrip()
    return lines
