"""A matrix of dots as SVG: which row uses which column. Text only, the same bytes every time."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

INK, QUIET, LINE, BLUE, ORANGE = "#222222", "#666666", "#E4E4E4", "#0072B2", "#E69F00"
ROW, COLUMN, NAME, SENTENCE, MARGIN = 38, 30, 112, 390, 16
HEADER = 84  # room for column names, which stand at an angle
_LETTERS = 66  # of a sentence in one line


@dataclass(frozen=True)
class Table:
    """One matrix: `rows` are (name, sentence); `marks` are {(row name, column name): kind}, a kind
    of KINDS; `legend` says what a mark means."""

    title: str
    rows: Sequence[tuple[str, str]]
    columns: Sequence[str]
    marks: Mapping[tuple[str, str], str]
    legend: str

    @property
    def height(self) -> int:
        return 2 * MARGIN + 40 + HEADER + ROW * len(self.rows)

    @property
    def width(self) -> int:
        return 2 * MARGIN + NAME + SENTENCE + COLUMN * len(self.columns) + 70


KINDS = {
    "uses": f'fill="{BLUE}"',
    "reads": f'fill="white" stroke="{BLUE}" stroke-width="2"',
    "writes": f'fill="{ORANGE}"',
    "itself": f'fill="{LINE}"',
}


def svg(tables: Sequence[Table]) -> str:
    """The tables one below the other."""
    width, height = max(t.width for t in tables), sum(t.height for t in tables)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="12" fill="{INK}">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    top = 0
    for table in tables:
        parts += _draw(table, top)
        top += table.height
    return "\n".join([*parts, "</svg>"]) + "\n"


def _draw(table: Table, top: int) -> list[str]:
    first = top + MARGIN + 40 + HEADER  # the upper edge of the first row
    left = MARGIN + NAME + SENTENCE + COLUMN // 2
    parts = [
        f'<text x="{MARGIN}" y="{top + MARGIN + 14}" font-size="17" font-weight="bold">'
        f"{escape(table.title)}</text>",
        f'<text x="{MARGIN}" y="{top + MARGIN + 34}" fill="{QUIET}">{escape(table.legend)}</text>',
    ]
    for place, column in enumerate(table.columns):
        x = left + place * COLUMN
        parts.append(
            f'<text transform="translate({x + 4} {first - 8}) rotate(-50)">{escape(column)}</text>'
        )
    for place, (name, sentence) in enumerate(table.rows):
        parts += _row(table, name, sentence, left, first + place * ROW)
    return parts


def _row(table: Table, name: str, sentence: str, left: int, y: int) -> list[str]:
    middle = y + ROW // 2
    right = left + COLUMN * len(table.columns) - COLUMN // 2
    parts = [
        f'<line x1="{MARGIN}" x2="{right}" y1="{y}" y2="{y}" stroke="{LINE}"/>',
        f'<text x="{MARGIN}" y="{middle + 4}" font-weight="bold">{escape(name)}</text>',
    ]
    lines = textwrap.wrap(sentence, _LETTERS)
    for place, line in enumerate(lines):
        down = middle + 4 + round((place - (len(lines) - 1) / 2) * 14)
        parts.append(f'<text x="{MARGIN + NAME}" y="{down}" fill="{QUIET}">{escape(line)}</text>')
    for place, column in enumerate(table.columns):
        kind = table.marks.get((name, column))
        if kind:
            x = left + place * COLUMN
            parts.append(f'<circle cx="{x}" cy="{middle}" r="6" {KINDS[kind]}/>')
    return parts
