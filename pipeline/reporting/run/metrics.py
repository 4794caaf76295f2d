"""metrics.json: the headline figures of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from pipeline.lowrank.analysis.diagnostics import Claim
from pipeline.lowrank.bounds import Bounds
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.factorize.layer import LayerReport
from pipeline.lowrank.factorize.report import (
    BatchNormReport,
    RefineReport,
    RefitDivergence,
    RefitReport,
)
from pipeline.lowrank.tasks.measure import Measure
from pipeline.lowrank.typed import from_json
from pipeline.reporting.run.facts import REMEDY, Facts
from pipeline.reporting.run.measures import known_measures

FILE = "metrics.json"
# The three networks of a run, as metrics.json calls them.
NETWORKS = ("dense", "compressed", "fine_tuned")

T = TypeVar("T")


@dataclass(frozen=True)
class Size:
    """`macs` are those of one example, `file_bytes` those of its weights on disk."""

    params: int
    macs: int
    file_bytes: int


@dataclass(frozen=True)
class Network:
    """A network's `scores` in the measures of the task, by name, and its size."""

    scores: Mapping[str, float]
    size: Size

    def figures(self) -> dict[str, float]:
        """All of them by name, as metrics.json has them."""
        return {**self.scores, **asdict(self.size)}


@dataclass(frozen=True)
class SpectraFigures:
    """effective_rank_fraction: mean over the layers of effective rank / min(rows, columns), also
    of the initial weights. spikes: of all layers. poor_power_laws: layers whose α should not be
    read. Each claim on training: in how many layers it holds, of how many that decide it; None
    where the initial weights are not known."""

    layers: int
    effective_rank_fraction: float
    spikes: int
    poor_power_laws: int
    effective_rank_fraction_initial: float | None = None
    leading_grew: Claim | None = None
    trailing_shrank: Claim | None = None
    rank_rose_then_fell: Claim | None = None


@dataclass(frozen=True)
class OutputError:
    """The largest errors over the certified examples, and tightness (measured / bound; the
    network's is the median, the layers' the mean). Without a certificate only the measured errors
    are there."""

    certified: bool
    measured: float
    layer_tightness: float | None = None
    certificate: float | None = None
    tightness: float | None = None
    worst_case: float | None = None
    source_formula: float | None = None  # `printed_formula` of the bounds, by its older name


@dataclass(frozen=True)
class TrainedBlocks:
    """How many blocks a refinement `trained` and `kept`, and what the network gained by them."""

    trained: int
    kept: int
    divergence: RefitDivergence


@dataclass(frozen=True)
class Metrics:
    """The three networks side by side, ratios (> 1 is smaller) and errors.

    Drops of the accuracy in [0, 1], where there is one, are percentage points, negative when it
    rose. `mean_bound_tightness` (measured error / upper bound, 1 is tight) is None where no
    layer was factorized. `refit`, `batchnorm`, `refine`: None where there was none.
    `measures`: of the task, the most telling one first; None where the names of the scores tell
    them (`measures.measures`).
    """

    dense: Network
    compressed: Network
    fine_tuned: Network
    compression_ratio: float
    macs_ratio: float
    file_ratio: float
    layers_factorized: int
    max_relative_error: float
    spectra: SpectraFigures
    output_error: OutputError
    accuracy_drop_compressed: float | None = None
    accuracy_drop_fine_tuned: float | None = None
    mean_bound_tightness: float | None = None
    refit: RefitReport | None = None
    batchnorm: BatchNormReport | None = None
    refine: TrainedBlocks | None = None
    measures: tuple[Measure, ...] | None = None

    @property
    def networks(self) -> dict[str, Network]:
        """{name: network} of the three, in the order of the chain."""
        return {"dense": self.dense, "compressed": self.compressed, "fine_tuned": self.fine_tuned}

    def to_json(self) -> dict[str, Any]:
        """The content of metrics.json: what is None is left out, a network is one flat table."""
        value: dict[str, Any] = _without_none(asdict(self))
        return value | {name: network.figures() for name, network in self.networks.items()}


def make_metrics(
    facts: Facts,
    networks: Mapping[str, Network],
    spectra: SpectraFigures,
    measures: Sequence[Measure] = (),
) -> Metrics:
    """networks: by the names in NETWORKS; measures: those of the task, () where the names of the
    scores tell them."""
    dense, compressed, last = (networks[name] for name in NETWORKS)
    layers = _by_name(facts.compression.layers)
    tight = [t for layer in layers if (t := tightness(layer)) is not None]
    return Metrics(
        dense=dense,
        compressed=compressed,
        fine_tuned=last,
        compression_ratio=dense.size.params / last.size.params,
        macs_ratio=dense.size.macs / last.size.macs,
        file_ratio=dense.size.file_bytes / last.size.file_bytes,
        layers_factorized=len(layers),
        max_relative_error=max((x.measured_relative_error for x in layers), default=0.0),
        spectra=spectra,
        output_error=output_error(facts.bounds),
        accuracy_drop_compressed=_points_lost(dense, compressed),
        accuracy_drop_fine_tuned=_points_lost(dense, last),
        mean_bound_tightness=sum(tight) / len(tight) if tight else None,
        refit=facts.compression.refit,
        batchnorm=facts.compression.batchnorm,
        refine=_trained_blocks(facts.compression.refine),
        measures=None if set(measures) <= set(known_measures(dense.scores)) else tuple(measures),
    )


def _trained_blocks(report: RefineReport | None) -> TrainedBlocks | None:
    if report is None:
        return None
    return TrainedBlocks(len(report.blocks), report.kept, report.divergence)


def read_metrics(path: Path) -> Metrics:
    """Reads metrics.json. Raises LowRankError when it is missing or no such file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        for name in NETWORKS:
            value[name] = _network_from_json(value[name])
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise LowRankError(f"{path}: no metrics of a run ({error!r}); {REMEDY}") from error
    return from_json(value, Metrics, str(path), REMEDY)


def output_error(bounds: Bounds) -> OutputError:
    """The part of the metrics about the outputs of layers and network."""
    network, layers = bounds.network, _by_name(bounds.layers)
    return OutputError(
        certified=network.certified,
        measured=network.measured.max,
        layer_tightness=sum(x.tightness for x in layers) / len(layers) if layers else None,
        certificate=network.certificate.max if network.certificate else None,
        tightness=network.tightness.median if network.tightness else None,
        worst_case=network.worst_case,
        source_formula=network.printed_formula,
    )


def _by_name(layers: Mapping[str, T]) -> list[T]:
    """The layers' values in the order of their names, so that sums over the same layers are equal
    to the bit."""
    return [layers[name] for name in sorted(layers)]


def tightness(layer: LayerReport) -> float | None:
    """measured error / upper bound; None where the bound is 0."""
    return layer.measured_relative_error / layer.upper_bound if layer.upper_bound > 0 else None


def _network_from_json(value: dict[str, Any]) -> dict[str, Any]:
    size = {field.name: value[field.name] for field in fields(Size)}
    return {"scores": {k: v for k, v in value.items() if k not in size}, "size": size}


def _points_lost(dense: Network, other: Network) -> float | None:
    if "accuracy" not in dense.scores:
        return None
    # Rounded to hide the noise of the subtraction: 0.5 and not 0.5000000000000004.
    return round(100.0 * (dense.scores["accuracy"] - other.scores["accuracy"]), 10)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
