"""The Pareto front of quality and a cost: the jobs that are worth choosing from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.reporting.page.axis import is_wide
from pipeline.reporting.sweep.entries import Comparison, Entry, NetworkFigures
from pipeline.reporting.words import human_count


@dataclass(frozen=True)
class CostAxis:
    """An axis of costs. `of` (network, dense network) is its value, None where it is not known;
    `counts` says that it is a number of things, written with k and M."""

    key: str
    title: str
    label: str
    of: Callable[[NetworkFigures, NetworkFigures], float | None]
    show: Callable[[float], str]
    counts: bool = True


def _relative_latency(network: NetworkFigures, dense: NetworkFigures) -> float | None:
    """The latency relative to that of the dense network, which was measured beside it: two jobs are
    measured at different times, under different loads. What a busy machine spoilt is not known."""
    if network.latency_ms is None or dense.latency_ms is None or network.busy or dense.busy:
        return None
    return network.latency_ms / dense.latency_ms


def _count(value: float) -> str:
    return human_count(round(value))


COST_AXES = (
    CostAxis("params", "Parameters", "parameters", lambda n, _: n.params, _count),
    CostAxis("macs", "Multiply-adds", "MACs of one example", lambda n, _: n.macs, _count),
    CostAxis(
        "latency",
        "Latency",
        "latency ÷ the dense network's",
        _relative_latency,
        "{:.2f}".format,
        counts=False,
    ),
)


@dataclass(frozen=True)
class Point:
    entry: Entry
    cost: float
    quality: float


@dataclass(frozen=True)
class Front:
    """`points` are all jobs whose cost is known, `best` those on the front, by cost; `dense` are
    the (cost, quality) of the networks that were compressed."""

    axis: CostAxis
    points: tuple[Point, ...]
    best: tuple[Point, ...]
    dense: tuple[tuple[float, float], ...]

    @property
    def wide(self) -> bool:
        """Whether the costs want a logarithmic axis."""
        if not self.axis.counts:
            return False  # ratios near 1
        return is_wide([point.cost for point in self.points] + [cost for cost, _ in self.dense])


def find_front(comparison: Comparison, axis: CostAxis) -> Front:
    """The front of a sweep's quality and the costs of an axis."""
    points: list[Point] = []
    dense: dict[tuple[float, float], None] = {}  # in order, each once
    for entry in comparison.compared:
        assert entry.last is not None and entry.dense is not None  # `compared` has these only
        value, before = axis.of(entry.last, entry.dense), axis.of(entry.dense, entry.dense)
        if value is not None and before is not None:
            points.append(Point(entry, value, entry.last.quality))
            dense[before, entry.dense.quality] = None
    sign = -1.0 if comparison.higher_is_better else 1.0
    best = pareto([(point.cost, sign * point.quality) for point in points])
    return Front(axis, tuple(points), tuple(points[i] for i in best), tuple(dense))


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points that no other dominates, by first coordinate; smaller is better in
    both. A point dominates another when it is nowhere worse and somewhere better: equal points
    are on the front together."""
    front: list[int] = []
    lowest = math.inf
    for place in sorted(range(len(points)), key=lambda i: points[i]):
        if points[place][1] < lowest or (front and points[place] == points[front[-1]]):
            front.append(place)
            lowest = points[place][1]
    return front


def is_noisy(entry: Entry) -> bool:
    """Whether a busy machine spoilt the latency of a job, or of the dense network beside it."""
    return any(network is not None and network.busy for network in (entry.last, entry.dense))
