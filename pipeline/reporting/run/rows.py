"""Rows of the plots: a class a file of plots/, its columns in their order.

DVC draws its plots from these files, and the page of a run is drawn from the rows themselves.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.lowrank.analysis.tables import ranks_text
from pipeline.training.curve import DescentPoint


@dataclass(frozen=True)
class SpectrumRow:
    """A singular value, as a part of the largest, by its index from 1. `view`: "matrix" where the
    weight has only that one, else "mode0" (output channels), "mode1" (input channels) or
    "spatial" (height by width)."""

    layer: str
    view: str
    index: int
    singular_value: float
    kept_rank: int


@dataclass(frozen=True)
class EnergyRow:
    """The part of ‖W‖² that the first `rank` directions of a view hold."""

    layer: str
    view: str
    rank: int
    energy: float
    full_rank: int
    kept_rank: int


@dataclass(frozen=True)
class RankRow:
    """A view that the method cuts; a dense layer keeps its full rank. The fraction of MACs is
    None where the dense layer has none."""

    layer: str
    view: str
    method: str
    rank: int
    full_rank: int
    rank_fraction: float
    params_fraction: float
    macs_fraction: float | None


@dataclass(frozen=True)
class ErrorRow:
    """Relative Frobenius errors of a factorized layer; `theorem` names what bounds them."""

    layer: str
    method: str
    predicted: float
    measured: float
    lower: float
    upper: float
    theorem: str


@dataclass(frozen=True)
class BoundRow:
    """‖(W − Ŵ)h‖/‖h‖ of a factorized layer, the largest seen, and its certified bound."""

    layer: str
    theorem: str
    measured: float
    bound: float
    tightness: float


@dataclass(frozen=True)
class NetworkBoundRow:
    """A figure of ‖f(x) − f̂(x)‖, and for which inputs it is certain."""

    figure: str
    value: float
    certifies: str


@dataclass(frozen=True)
class FineTuneRow:
    """A step of the fine-tuning; figures that were not measured at it are None. Losses in nats."""

    step: int
    epoch: float
    train_loss: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class WeightRow:
    """A singular value of the weight itself, by its index from 1; the edges are those of the
    trained weight's noise, None where it has no fit."""

    layer: str
    state: str
    index: int
    singular_value: float
    edge: float | None
    spike_edge: float | None


@dataclass(frozen=True)
class TrainingRow:
    """The effective rank of a weight after a step of training, and as a part of the initial one's
    (None where that is 0)."""

    layer: str
    step: int
    effective_rank: float
    relative_rank: float | None


@dataclass(frozen=True)
class PlotRows:
    """The rows of plots/NAME.csv, by the names of the fields."""

    spectra: Sequence[SpectrumRow]
    energy: Sequence[EnergyRow]
    ranks: Sequence[RankRow]
    errors: Sequence[ErrorRow]
    bounds: Sequence[BoundRow]
    network_bounds: Sequence[NetworkBoundRow]
    fine_tune: Sequence[FineTuneRow]
    weights: Sequence[WeightRow]
    training: Sequence[TrainingRow]
    descent: Sequence[DescentPoint]


# The class of each file's rows, so that a file without rows still has its header.
KINDS: dict[str, type] = {
    "spectra": SpectrumRow,
    "energy": EnergyRow,
    "ranks": RankRow,
    "errors": ErrorRow,
    "bounds": BoundRow,
    "network_bounds": NetworkBoundRow,
    "fine_tune": FineTuneRow,
    "weights": WeightRow,
    "training": TrainingRow,
    "descent": DescentPoint,
}


def write_plots(folder: Path, rows: PlotRows) -> None:
    """Writes folder/NAME.csv for every field of the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind in KINDS.items():
        write_csv(folder / f"{name}.csv", getattr(rows, name), kind)


def write_csv(path: Path, rows: Iterable[Any], kind: type) -> None:
    """Rows of the dataclass `kind`, whose fields are the columns: nine digits a number, an empty
    cell for None, \\n at line ends on every system."""
    names = columns(kind)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            writer.writerow([_digits(shown(getattr(row, name))) for name in names])


def columns(kind: type) -> tuple[str, ...]:
    """The columns of the file that rows of this class are written to."""
    return tuple(field.name for field in fields(kind))


def shown(value: object) -> object:
    """A value as it stands in a table for people; a tuple holds ranks."""
    return ranks_text(value) if isinstance(value, tuple) else value


def _digits(value: object) -> object:
    return f"{value:.9g}" if isinstance(value, float) else value
