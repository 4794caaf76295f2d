"""Plots of a page: lines and points on two axes, drawn as SVG by the template. Colours and themes
are the style sheet's, so a plot only says what is what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.reporting.page.axis import Axis

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line through points. `kind` is its look; `filled` down to the axis; `label`: for the key,
    "" for a line that is explained elsewhere."""

    points: Sequence[Point]
    kind: str
    label: str = ""
    filled: bool = False


@dataclass(frozen=True)
class Mark:
    """A point. `kind` is its look; `text` is told where the pointer is on it; `low` and `high` are
    the ends of its interval, where it has one; `job` is what a click selects, None where there is
    nothing to select."""

    x: float
    y: float
    kind: str
    text: str
    low: float | None = None
    high: float | None = None
    job: int | None = None


@dataclass(frozen=True)
class Rule:
    """A vertical line at x with a few words at its top."""

    x: float
    text: str


@dataclass(frozen=True)
class Plot:
    """A plot; `levels` are heights with a dashed line; `title` says what it shows, also to those
    who do not see it. Sizes are in pixels, at which text has its size: a wider place makes all of
    it wider."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    marks: Sequence[Mark] = ()
    rules: Sequence[Rule] = ()
    levels: Sequence[float] = ()
    width: int = 350
    height: int = 220
    left: int = 46
    top: int = 14
    bottom: int = 34

    right = 10

    def px(self, value: float) -> float:
        return round(self.left + self.x.at(value) * (self.width - self.left - self.right), 1)

    def py(self, value: float) -> float:
        return round(self.base - self.y.at(value) * (self.base - self.top), 1)

    @property
    def base(self) -> int:
        """The height of the horizontal axis."""
        return self.height - self.bottom

    def path(self, line: Line) -> str:
        """The line as an SVG path."""
        return "M" + "L".join(f"{self.px(x)} {self.py(y)}" for x, y in line.points)

    def area(self, line: Line) -> str:
        """The surface below the line."""
        first, last = self.px(line.points[0][0]), self.px(line.points[-1][0])
        return f"{self.path(line)}L{last} {self.base}L{first} {self.base}Z"

    @property
    def key(self) -> list[Line]:
        return [line for line in self.lines if line.label]
