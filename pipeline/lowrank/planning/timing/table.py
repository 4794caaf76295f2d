"""Tables of times: measured at some sizes of a layer, interpolated at the others, and kept."""

from __future__ import annotations

import hashlib
import json
import statistics
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Protocol, TypeVar

from pipeline.lowrank.planning.timing.device import Device, cache_folder
from pipeline.lowrank.planning.timing.measuring import quickest
from pipeline.lowrank.typed import load_record, save_record

Sizes = tuple[int, ...]
T = TypeVar("T", bound="_Measured")
_MOST = {0: 1, 1: 9, 2: 5, 3: 4}  # points of an axis, by the number of axes; 3 for more axes
_CHECKS = 2  # points of a table that are measured too, and held out


class _Measured(Protocol):
    @property
    def busy(self) -> bool: ...


@dataclass(frozen=True)
class Table:
    """Times of one layer at several sizes.

    what: the layer, its inputs and its form, for people.
    axes: the sizes that were measured along each axis, ascending; none for a layer as it is.
    nanoseconds: at each point of the grid, the last axis fastest.
    checks: the times at points between those of the grid, which no interpolation sees.
    alone: of the layer as it is, measured beside them: with all of these it took its turns.
    busy: whether the machine was busy, so that times may be too long.
    """

    what: str
    device: Device
    axes: tuple[Sizes, ...]
    nanoseconds: Sizes
    checks: tuple[tuple[Sizes, int], ...]
    alone: int
    busy: bool

    def share(self, sizes: Sequence[int]) -> float:
        """The time at these sizes relative to that of the layer as it is."""
        return self.at(sizes) / self.alone

    def at(self, sizes: Sequence[int]) -> float:
        """Nanoseconds at these sizes, linear between the points of the grid, and as at its edge
        beyond it."""
        places = [_place(axis, size) for axis, size in zip(self.axes, sizes, strict=True)]
        found = 0.0
        for corner in product((0, 1), repeat=len(places)):
            share, index = 1.0, 0
            for upper, (place, between), axis in zip(corner, places, self.axes, strict=True):
                share *= between if upper else 1.0 - between
                index = index * len(axis) + min(place + upper, len(axis) - 1)
            found += share * self.nanoseconds[index]
        return found

    @property
    def errors(self) -> list[float]:
        """|interpolated − measured| / measured at the points that were held out."""
        return [abs(self.at(sizes) - time) / time for sizes, time in self.checks]


def measured_table(
    what: str,
    device: Device,
    axes: Sequence[Sequence[int]],
    build: Callable[[Sizes], Callable[[], object]],
    alone: Callable[[], object],
) -> Table:
    """The table of this layer on this device, measured now or by an earlier plan. One that was
    measured on a busy machine is measured again.

    axes: all sizes that the layer may have along each axis, ascending; a part of them is measured.
    build: makes the layer at some sizes, ready to be called.
    alone: calls the layer as it is.
    """
    most = _MOST.get(len(axes), 3)
    grid = tuple(_thinned(axis, most) for axis in axes)

    def measure() -> Table:
        points = list(product(*grid))
        between = _between(axes, grid)
        runs = [build(sizes) for sizes in (*points, *between)]
        (now, *times), busy = quickest([alone, *runs])
        checks = tuple(zip(between, times[len(points) :], strict=True))
        return Table(what, device, grid, tuple(times[: len(points)]), checks, now, busy)

    return remembered([what, grid, _CHECKS], device, Table, measure)


def remembered(key: Sequence[object], device: Device, cls: type[T], measure: Callable[[], T]) -> T:
    """The record of this name that was measured on this device before; measured now where there is
    none, or one of a busy machine."""
    text = json.dumps([*key, asdict(device)], sort_keys=True)
    stored = cache_folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    if stored.is_file():
        known = load_record(stored, cls, "delete this file: it is measured again")
        if not known.busy:
            return known
    found = measure()
    save_record(stored, found)
    return found


def middle_error(tables: Sequence[Table]) -> float | None:
    """The median of the errors of interpolation; None where nothing was interpolated."""
    errors = [error for table in tables for error in table.errors]
    return statistics.median(errors) if errors else None


def _thinned(axis: Sequence[int], most: int) -> Sizes:
    """At most so many of the sizes, evenly, with the first and the last."""
    if len(axis) <= most:
        return tuple(axis)
    return tuple(axis[round(i * (len(axis) - 1) / (most - 1))] for i in range(most))


def _between(axes: Sequence[Sequence[int]], grid: Sequence[Sizes]) -> list[Sizes]:
    """Up to two points of the axes that are farthest from those of the grid."""
    left = [sorted(set(axis) - set(kept)) for axis, kept in zip(axes, grid, strict=True)]
    if not axes or not all(left):
        return []
    return [tuple(sizes[len(sizes) * part // 4] for sizes in left) for part in (1, 3)][:_CHECKS]


def _place(axis: Sizes, size: int) -> tuple[int, float]:
    """(the interval that a size is in, how far in it)."""
    if size <= axis[0]:
        return 0, 0.0
    if size >= axis[-1]:
        return len(axis) - 1, 0.0
    place = bisect_right(axis, size) - 1
    return place, (size - axis[place]) / (axis[place + 1] - axis[place])
