"""What whole networks took: the records that are kept of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.lowrank.planning.timing.device import Device


@dataclass(frozen=True)
class NetworkTime:
    """The dense network under a workload.

    what: the network and what it is given, for people.
    nanoseconds: {memory format of its convolutions: of one call in it}.
    layers: {memory format: {layer: nanoseconds of that which are spent in it}}.
    """

    what: str
    device: Device
    nanoseconds: Mapping[str, int]
    layers: Mapping[str, Mapping[str, int]]
    busy: bool = False


@dataclass(frozen=True)
class Ratio:
    """Nanoseconds of the dense network in its fastest memory format, and of another one in each,
    side by side."""

    what: str
    dense: int
    others: Mapping[str, int]
    busy: bool = False
