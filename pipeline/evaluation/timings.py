"""The stored result of a latency measurement. It needs no torch, so that a reader, such as a
sweep's view, starts at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.lowrank.typed import load_record

FOLDER = "timings"  # of the scratch folder


@dataclass(frozen=True)
class Latency:
    """The time of one forward pass: the median and the interquartile range."""

    latency_ms: float
    iqr_ms: float


@dataclass(frozen=True)
class Machine:
    """The facts of a machine on which a latency depends."""

    cpu: str
    cores: int | None
    system: str
    torch: str
    threads: int


@dataclass(frozen=True)
class Timings:
    """The three networks beside each other on one machine. weights: {network: its checksum};
    tokens: of an example, None where it has none; forms: {network: its fastest form}, None in
    stores of older versions; speedup: latency of the dense network / that of the last one."""

    machine: Machine
    weights: Mapping[str, str]
    batch_size: int
    dense: Latency
    compressed: Latency
    fine_tuned: Latency
    speedup: float
    tokens: int | None = None
    forms: Mapping[str, str] | None = None

    @property
    def networks(self) -> dict[str, Latency]:
        """{network: its latency}, in the order of the chain."""
        return {"dense": self.dense, "compressed": self.compressed, "fine_tuned": self.fine_tuned}


def load_timings(path: Path) -> Timings:
    """Timings that `measured_once` stored."""
    return load_record(path, Timings, "delete this file: it is measured again")
