"""What `decompose` writes about the compressed network: layers.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.lowrank.factorize.layer import LayerReport
from pipeline.lowrank.network.costs import Totals


@dataclass(frozen=True)
class RefitDivergence:
    """Mean divergence per unit from the dense network (in the task's unit) on held-out data:
    `without` the refit, and with it (`refit`)."""

    without: float
    refit: float


@dataclass(frozen=True)
class RefitReport:
    """A refit: the `share` of the way that the weights moved, and whether it was `kept`, which it
    is only where the network came closer to the dense one."""

    share: float
    kept: bool
    divergence: RefitDivergence


@dataclass(frozen=True)
class CompressionReport:
    """The content of layers.json.

    layers: {name of a factorized layer: its errors and bounds}.
    network: costs of the whole compressed network.
    refit: None where there was none.
    """

    layers: Mapping[str, LayerReport]
    network: Totals
    refit: RefitReport | None = None
