"""The stored result of a latency measurement. It needs no torch, so that a reader, such as a
sweep's view, starts at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.lowrank.planning.timing.device import Device
from pipeline.lowrank.typed import load_record

FOLDER = "timings"  # of the scratch folder
# Quiet machines give the thread that runs a network 0.98 of the time and more; beside other
# processes it was 0.2 to 0.5. Times of a quiet machine spread by a few percent.
_LEAST_SHARE, _WIDEST = 0.9, 0.25


@dataclass(frozen=True)
class Latency:
    """The time of one forward pass: the median and the interquartile range.

    own_share: the fraction of the wall time for which the thread that ran the network had a
        processor (the median over the repetitions); 1 in stores of older versions.
    """

    latency_ms: float
    iqr_ms: float
    own_share: float = 1.0

    @property
    def busy(self) -> bool:
        """Whether the machine was busy with other things: the thread waited for a processor, or the
        middle half of the times spreads over more than a quarter of the median. Such a time says
        little of the network."""
        return self.own_share < _LEAST_SHARE or self.iqr_ms > _WIDEST * self.latency_ms


@dataclass(frozen=True)
class Timings:
    """The three networks beside each other on one machine. weights: {network: its checksum};
    tokens: of an example, None where it has none; forms: {network: its fastest form}, None in
    stores of older versions; speedup: latency of the dense network / that of the last one."""

    machine: Device
    weights: Mapping[str, str]
    batch_size: int
    dense: Latency
    compressed: Latency
    fine_tuned: Latency
    speedup: float
    tokens: int | None = None
    forms: Mapping[str, str] | None = None

    @property
    def busy(self) -> bool:
        """Whether the machine was busy while one of the networks was measured."""
        return any(latency.busy for latency in self.networks.values())

    @property
    def speedup_spread(self) -> float:
        """± of the speedup, as a part of it: half of the interquartile ranges of the two times,
        relative, as one."""
        two = (self.dense, self.fine_tuned)
        return math.hypot(*(one.iqr_ms / one.latency_ms / 2 for one in two))

    @property
    def networks(self) -> dict[str, Latency]:
        """{network: its latency}, in the order of the chain."""
        return {"dense": self.dense, "compressed": self.compressed, "fine_tuned": self.fine_tuned}


def load_timings(path: Path) -> Timings:
    """Timings that `measured_once` stored."""
    return load_record(path, Timings, "delete this file: it is measured again")
