"""Axes of a plot: their range, and the ticks that people can read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from matplotlib.ticker import LogLocator, MaxNLocator

_MARGIN = 0.04  # of the range, on either side
# Values this far apart, as a ratio, are read better on a logarithmic axis.
WIDE = 5.0
_MOST_TICKS = 5


@dataclass(frozen=True)
class Tick:
    """A tick: its place in [0, 1] and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`; with `log` distances are ratios."""

    label: str
    low: float
    high: float
    log: bool
    ticks: tuple[Tick, ...]

    def at(self, value: float) -> float:
        """The place of a value, 0 at the low end and 1 at the high one; outside of them the end."""
        return min(max(_place(value, self.low, self.high, self.log), 0.0), 1.0)


def make_axis(
    label: str,
    values: Iterable[float],
    show: Callable[[float], str],
    *,
    log: bool = False,
    whole: bool = False,
    within: tuple[float, float] | None = None,
) -> Axis:
    """An axis on which all values lie.

    show: writes a tick. log: for positive values; others are not drawn. whole: ticks at whole
        numbers alone. within: the ends of the axis, where they are given; else a little more than
        the values.
    """
    known = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    low, high = within or _widened(min(known, default=0.0), max(known, default=1.0), log)
    locator = LogLocator(subs=_parts(low, high)) if log else MaxNLocator(_MOST_TICKS, integer=whole)
    found = [float(v) for v in locator.tick_values(low, high)]
    inside = [v for v in found if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]
    step = math.ceil(len(inside) / (_MOST_TICKS + 1)) or 1
    ticks = tuple(Tick(_place(v, low, high, log), show(v)) for v in inside[::step])
    return Axis(label, low, high, log, ticks)


def decades(values: Iterable[float]) -> Axis:
    """A logarithmic axis of whole decades, for strips: powers of ten on both sides of all values
    that are above 0."""
    known = [math.log10(v) for v in values if v > 0] or [0.0]
    low, high = math.floor(min(known)), math.ceil(max(known))
    ends = (10.0**low, 10.0 ** max(high, low + 1))
    return make_axis("", [], "{:g}".format, log=True, within=ends)


def is_wide(values: Iterable[float]) -> bool:
    """Whether these values want a logarithmic axis."""
    known = list(values)
    return bool(known) and min(known) > 0 and max(known) > WIDE * min(known)


def _place(value: float, low: float, high: float, log: bool) -> float:
    if log:
        value, low, high = (math.log(max(v, 1e-300)) for v in (value, low, high))
    return (value - low) / (high - low)


def _widened(low: float, high: float, log: bool) -> tuple[float, float]:
    if log:
        room = max((high / low) ** _MARGIN, 1.05)
        return low / room, high * room
    room = _MARGIN * (high - low) or 0.5 * abs(high) or 1.0
    return low - room, high + room


def _parts(low: float, high: float) -> tuple[float, ...]:
    """The parts of a decade that have ticks: more of them the fewer decades there are."""
    return (1.0,) if high / low > 200 else (1.0, 2.0, 5.0)
