"""Tidy rows for DVC's plots and for the pictures, which are drawn from these very rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.lowrank.analysis.spectra import Spectra, View
from pipeline.lowrank.methods import get_method
from pipeline.reporting.run.facts import Facts
from pipeline.reporting.run.numbers import Row, bounds

MOST_POINTS = 200  # a curve
MOST_ROWS = 20_000  # a file, whatever the number of layers: curves get coarser, never fewer
FEWEST_POINTS = 20


@dataclass(frozen=True)
class _Curve:
    """One view of one target. `view` is "matrix" where the weight has only that one, else
    "mode0" (output channels), "mode1" (input channels) or "spatial" (height by width)."""

    layer: str
    view: str
    of: View
    kept: int
    cut: bool
    limit: int

    @property
    def full(self) -> int:
        return len(self.of.eigenvalues)

    def points(self) -> list[int]:
        return thin(self.full, self.limit, keep=(self.kept,))

    def row(self) -> Row:
        return {"layer": self.layer, "view": self.view}


def spectra_rows(facts: Facts) -> list[Row]:
    """(layer, view, index from 1, singular_value / the largest, kept_rank), descending."""
    rows = []
    for curve in _curves(facts):
        values = curve.of.singular_values
        scale = float(values[0]) or 1.0  # a layer of zeros has a spectrum of zeros
        for index in curve.points():
            value = float(values[index - 1]) / scale
            rows.append(
                {
                    **curve.row(),
                    "index": index,
                    "singular_value": value,
                    "kept_rank": curve.kept,
                }
            )
    return rows


def energy_rows(facts: Facts) -> list[Row]:
    """(layer, view, rank, energy of the first `rank` directions, full_rank, kept_rank)."""
    rows = []
    for curve in _curves(facts):
        energy = curve.of.energy
        for rank in curve.points():
            rows.append(
                {
                    **curve.row(),
                    "rank": rank,
                    "energy": float(energy[rank]),
                    "full_rank": curve.full,
                    "kept_rank": curve.kept,
                }
            )
    return rows


def rank_rows(facts: Facts) -> list[Row]:
    """(layer, view, method, rank, full_rank, rank_fraction, params_fraction, macs_fraction).

    One row a view that the method cuts; a dense layer keeps its full rank.
    """
    rows = []
    for curve in _curves(facts):
        layer = facts.plan["layers"][curve.layer]
        if curve.cut:
            rows.append(
                {
                    **curve.row(),
                    "method": layer["method"],
                    "rank": curve.kept,
                    "full_rank": curve.full,
                    "rank_fraction": curve.kept / curve.full,
                    "params_fraction": layer["params"] / layer["dense_params"],
                    "macs_fraction": layer["macs"] / layer["dense_macs"]
                    if layer["dense_macs"]  # an Embedding has none
                    else None,
                }
            )
    return rows


def error_rows(facts: Facts) -> list[Row]:
    """(layer, method, predicted, measured, lower, upper, bound) of the factorized layers;
    relative Frobenius errors, `upper` is None where nothing bounds the error."""
    rows = []
    for name in facts.names:
        if (layer := facts.layers.get(name)) is None:
            continue
        lower, upper = bounds(layer)
        rows.append(
            {
                "layer": name,
                "method": layer["method"],
                "predicted": layer["predicted_relative_error"],
                "measured": layer["measured_relative_error"],
                "lower": lower,
                "upper": upper,
                "bound": layer["bound"],
            }
        )
    return rows


def bound_rows(facts: Facts) -> list[Row]:
    """(layer, theorem, measured, bound, tightness): ‖(W − Ŵ)h‖/‖h‖, the largest seen, and the
    certified ‖W − Ŵ‖₂ of the layers as operators."""
    layers = facts.bounds["layers"]
    keys = ("theorem", "measured", "bound", "tightness")
    return [
        {"layer": name, **{key: layers[name][key] for key in keys}}
        for name in facts.names
        if name in layers
    ]


def network_bound_rows(facts: Facts) -> list[Row]:
    """(figure, value, certifies): ‖f(x) − f̂(x)‖ measured and bounded; what is not there is
    left out."""
    network = facts.bounds["network"]
    certifies = {
        "measured": "nothing: the largest over the examples",
        "certificate": f"the {network['examples']} examples that it was computed on",
        "worst_case": "every input no longer than the longest example",
        "source_formula": "nothing: it is not a bound",
    }
    values = {
        key: network[key]["max"] if isinstance(network[key], dict) else network[key]
        for key in certifies
    }
    return [
        {"figure": key, "value": value, "certifies": certifies[key]}
        for key, value in values.items()
        if value is not None
    ]


def fine_tuning_rows(curve: Mapping[str, Any]) -> list[Row]:
    """(step, epoch, train_loss, validation_loss, validation_accuracy), by step.

    A validation is one row with the steps before it; what was not measured at a step is None.
    """
    rows: dict[int, Row] = {}
    for entry in curve["steps"]:
        row = rows.setdefault(entry["step"], _empty(entry["step"], entry["epoch"]))
        row["train_loss"] = entry["train_loss"]
    for entry in curve["epochs"]:
        row = rows.setdefault(entry["step"], _empty(entry["step"], entry["epoch"]))
        row["validation_loss"] = entry["validation_loss"]
        row["validation_accuracy"] = entry["validation_accuracy"]
    return [rows[step] for step in sorted(rows)]


def kept_rank(layer: Mapping[str, Any], view: str, size: int) -> int:
    """How many of a view's `size` directions the planned form keeps: the rank that truncates
    this view, at most the one rank of CP in every view, else all."""
    ranks = layer["ranks"]
    if not ranks:
        return size
    truncated = get_method(layer["method"]).views
    if not truncated:
        return int(min(size, ranks[0]))
    return int(ranks[truncated.index(view)]) if view in truncated else size


def cuts(layer: Mapping[str, Any], view: str) -> bool:
    """Whether the planned form truncates this view; a dense layer counts as its full rank."""
    if not layer["ranks"]:
        return True
    truncated = get_method(layer["method"]).views
    return not truncated or view in truncated


def thin(count: int, limit: int, keep: tuple[int, ...] = ()) -> list[int]:
    """At most about `limit` of 1…count: both ends, `keep`, and a spacing that serves linear
    and logarithmic axes (half of the points each)."""
    if count <= limit:
        return list(range(1, count + 1))
    half = limit // 2
    step = (count - 1) / (half - 1)
    linear = {round(1 + i * step) for i in range(half)}
    geometric = {round(math.exp(i * math.log(count) / (half - 1))) for i in range(half)}
    return sorted({*linear, *geometric, *(k for k in keep if 1 <= k <= count)})


def _curves(facts: Facts) -> Iterator[_Curve]:
    shown = {name: _shown(facts.plan["layers"][name], s) for name, s in facts.spectra.items()}
    count = sum(len(views) for views in shown.values())
    limit = max(FEWEST_POINTS, min(MOST_POINTS, MOST_ROWS // max(count, 1)))
    for name, views in shown.items():
        layer = facts.plan["layers"][name]
        for key in views:
            view = facts.spectra[name].views[key]
            kept = kept_rank(layer, key, len(view.eigenvalues))
            label = key if len(facts.spectra[name].views) > 1 else "matrix"
            yield _Curve(name, label, view, kept, cuts(layer, key), limit)


def _shown(layer: Mapping[str, Any], spectra: Spectra) -> list[str]:
    """The two channel modes, and the spatial matrix where the plan cuts it; the axes of a
    kernel have a handful of directions and no curve."""
    truncated = get_method(layer["method"]).views if layer["ranks"] else ()
    views = ("mode0", "mode1", "spatial") if "spatial" in truncated else ("mode0", "mode1")
    return [view for view in views if view in spectra.views]


def _empty(step: int, epoch: float) -> Row:
    return {
        "step": step,
        "epoch": epoch,
        "train_loss": None,
        "validation_loss": None,
        "validation_accuracy": None,
    }
