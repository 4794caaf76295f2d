"""The table of layers: layers.json, which is read back, and layers.csv, which people open."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.factorize.layer import LayerReport
from pipeline.lowrank.typed import load_record
from pipeline.reporting.run.facts import REMEDY, Facts

FILE = "layers.json"


@dataclass(frozen=True)
class LayerRow:
    """One target; a dense layer has no ranks and no error.

    Errors are relative Frobenius norms in the plan's metric. `output_error_…` are the largest ‖(W −
    Ŵ)h‖/‖h‖ that was seen, its bound and the theorem behind it; None where nothing was measured.
    `refit_correction` is None without a refit, `cp_…` but for a CP.
    """

    name: str
    kind: str
    shape: str
    method: str
    ranks: tuple[int, ...]
    dense_params: int
    params: int
    dense_macs: int
    macs: int
    predicted_relative_error: float
    measured_relative_error: float
    lower_bound: float
    upper_bound: float
    refit_correction: float | None
    output_error_measured: float | None
    output_error_bound: float | None
    output_error_theorem: str | None
    cp_rank_limit: int | None
    cp_unique: bool | None
    why: str

    @property
    def kept(self) -> float:
        """The fraction of the dense layer's parameters."""
        return self.params / self.dense_params


@dataclass(frozen=True)
class LayerTable:
    """The content of layers.json, in the network's order."""

    layers: tuple[LayerRow, ...]


def layer_table(facts: Facts) -> LayerTable:
    """The table with a row for each target."""
    return LayerTable(tuple(_row(facts, name) for name in facts.names))


def read_layers(reports: Path) -> tuple[LayerRow, ...]:
    """The rows of layers.json in a folder of reports. Raises LowRankError when it is missing."""
    return load_record(reports / FILE, LayerTable, REMEDY).layers


def check_bounds(layers: Mapping[str, LayerReport]) -> None:
    """Raises LowRankError naming the first layer whose error leaves [lower, upper].

    A certified bound that a measurement breaks means a wrong bound, factors that belong to
    another network, or an edited file; no report should be written from it.
    """
    for name, layer in layers.items():
        measured, slack = layer.measured_relative_error, layer.rounding
        inside = layer.lower_bound - slack <= measured <= layer.upper_bound + slack
        if not math.isfinite(measured) or not inside:
            raise LowRankError(
                f"layer {name!r}: the measured relative error {measured:.6g} is outside its "
                f"{layer.theorem} bounds [{layer.lower_bound:.6g}, {layer.upper_bound:.6g}]; rerun "
                "with dvc repro --force --downstream decompose, and report it if it stays"
            )


def _row(facts: Facts, name: str) -> LayerRow:
    entry, planned = facts.analysis.targets[name], facts.plan.layers[name]
    report, output = facts.compression.layers.get(name), facts.bounds.layers.get(name)
    unique = report.uniqueness if report else None
    return LayerRow(
        name=name,
        kind=entry.target.kind,
        shape="x".join(map(str, entry.target.shape)),
        method=planned.method,
        ranks=planned.ranks,
        dense_params=entry.params,
        # Sizes of a factorized layer are those of the layer that was built, not of its plan.
        params=report.params if report else entry.params,
        dense_macs=entry.macs,
        macs=report.macs if report else entry.macs,
        predicted_relative_error=report.predicted_relative_error if report else 0.0,
        measured_relative_error=report.measured_relative_error if report else 0.0,
        lower_bound=report.lower_bound if report else 0.0,
        upper_bound=report.upper_bound if report else 0.0,
        refit_correction=report.correction if report else None,
        output_error_measured=output.measured if output else None,
        output_error_bound=output.bound if output else None,
        output_error_theorem=output.theorem if output else None,
        cp_rank_limit=unique.rank_limit if unique else None,
        cp_unique=unique.kruskal if unique else None,
        why=planned.why,
    )
