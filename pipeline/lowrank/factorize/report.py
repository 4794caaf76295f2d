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
class BatchNormReport:
    """Statistics of BatchNorm that were estimated again: of how many `layers`, and whether they
    were `kept`, as a refit is."""

    layers: int
    kept: bool
    divergence: RefitDivergence


@dataclass(frozen=True)
class RefinedBlock:
    """A block that was trained: how many `steps`, the `divergence` of the whole network with it, as
    in RefitDivergence, and whether it was `kept`, which it is only where that fell."""

    steps: int
    divergence: float
    kept: bool


@dataclass(frozen=True)
class RefineReport:
    """Blocks trained one after the other: {name: what became of it}, in their order; those that
    nothing was to be learned in, and those that the time did not suffice for, are not among
    them."""

    blocks: Mapping[str, RefinedBlock]
    divergence: RefitDivergence

    @property
    def kept(self) -> int:
        """How many blocks stay as they were trained."""
        return sum(block.kept for block in self.blocks.values())


@dataclass(frozen=True)
class CompressionReport:
    """The content of layers.json.

    layers: {name of a factorized layer: its errors and bounds}. These, and the network's bounds,
        are those before `batchnorm` and `refine`.
    network: costs of the whole compressed network.
    refit, batchnorm, refine: None where there was none.
    """

    layers: Mapping[str, LayerReport]
    network: Totals
    refit: RefitReport | None = None
    batchnorm: BatchNormReport | None = None
    refine: RefineReport | None = None
