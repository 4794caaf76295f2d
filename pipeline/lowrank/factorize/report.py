"""What is known of a network after its layers were replaced, as decompose writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.lowrank.factorize.layer import LayerReport
from pipeline.lowrank.network.costs import Totals


@dataclass(frozen=True)
class RefitDivergence:
    """Mean divergence per unit from the dense network (nats, or 1 − cosine) on held-out data,
    `without` the refit and with it."""

    without: float
    refit: float


@dataclass(frozen=True)
class RefitReport:
    """A refit of this `share` of the way, and whether it was `kept`: only where it is closer."""

    share: float
    kept: bool
    divergence: RefitDivergence


@dataclass(frozen=True)
class CompressionReport:
    """The content of layers.json. layers: {name: errors and bounds of a factorized layer};
    network: costs of the whole compressed network; refit: None where there was none."""

    layers: Mapping[str, LayerReport]
    network: Totals
    refit: RefitReport | None = None
