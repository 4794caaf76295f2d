"""Tidy rows for DVC's plots and for the page, which is drawn from these very rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.lowrank.analysis.spectra import Spectra, View
from pipeline.reporting.run.facts import Facts
from pipeline.reporting.run.rows import (
    BoundRow,
    EnergyRow,
    ErrorRow,
    FineTuneRow,
    NetworkBoundRow,
    RankRow,
    SpectrumRow,
)
from pipeline.training.curve import Curve

MOST_POINTS = 200  # a line
MOST_ROWS = 20_000  # at most in a file: with more layers lines get coarser, never fewer
FEWEST_POINTS = 20


@dataclass(frozen=True)
class _ShownView:
    """A view of a target as the plots show it: how many of its directions the plan keeps, whether
    its method cuts it, and how many points a line may have."""

    layer: str
    label: str
    view: View
    kept: int
    cut: bool
    most: int

    @property
    def full(self) -> int:
        return len(self.view.eigenvalues)

    def points(self) -> list[int]:
        return thin(self.full, self.most, keep=(self.kept,))


def spectra_rows(facts: Facts) -> list[SpectrumRow]:
    """Rows of plots/spectra.csv, view by view, values descending."""
    rows = []
    for shown in _shown_views(facts):
        values = shown.view.singular_values
        scale = float(values[0]) or 1.0  # a layer of zeros has a spectrum of zeros
        for index in shown.points():
            value = float(values[index - 1]) / scale
            rows.append(SpectrumRow(shown.layer, shown.label, index, value, shown.kept))
    return rows


def energy_rows(facts: Facts) -> list[EnergyRow]:
    """Rows of plots/energy.csv, view by view, ranks ascending."""
    rows = []
    for shown in _shown_views(facts):
        energy = shown.view.energy
        for rank in shown.points():
            held = float(energy[rank])
            rows.append(EnergyRow(shown.layer, shown.label, rank, held, shown.full, shown.kept))
    return rows


def rank_rows(facts: Facts) -> list[RankRow]:
    """Rows of plots/ranks.csv, one for each view that the method cuts."""
    rows = []
    for shown in _shown_views(facts):
        if not shown.cut:
            continue
        dense = facts.analysis.targets[shown.layer]
        now = facts.compression.layers.get(shown.layer) or dense
        rows.append(
            RankRow(
                layer=shown.layer,
                view=shown.label,
                method=facts.plan.layers[shown.layer].method,
                rank=shown.kept,
                full_rank=shown.full,
                rank_fraction=shown.kept / shown.full,
                params_fraction=now.params / dense.params,
                # An Embedding has no MACs.
                macs_fraction=now.macs / dense.macs if dense.macs else None,
            )
        )
    return rows


def error_rows(facts: Facts) -> list[ErrorRow]:
    """Rows for the factorized layers, in the network's order."""
    layers = facts.compression.layers
    return [
        ErrorRow(
            layer=name,
            method=layers[name].method,
            predicted=layers[name].predicted_relative_error,
            measured=layers[name].measured_relative_error,
            lower=layers[name].lower_bound,
            upper=layers[name].upper_bound,
            theorem=layers[name].theorem,
        )
        for name in facts.names
        if name in layers
    ]


def bound_rows(facts: Facts) -> list[BoundRow]:
    """Rows for the layers whose outputs are bounded, in the network's order."""
    layers = facts.bounds.layers
    return [
        BoundRow(name, found.theorem, found.measured, found.bound, found.tightness)
        for name in facts.names
        if (found := layers.get(name)) is not None
    ]


def network_bound_rows(facts: Facts) -> list[NetworkBoundRow]:
    """A row for each known bound of the whole network, and for what was measured."""
    network = facts.bounds.network
    rows = [
        ("measured", network.measured.max, "nothing: the largest over the examples"),
        (
            "certificate",
            network.certificate.max if network.certificate else None,
            f"the {network.examples} examples that it was computed on",
        ),
        (
            "worst_case",
            network.worst_case,
            "every input no longer than the longest example",
        ),
        ("printed_formula", network.printed_formula, "nothing: it is not a bound"),
    ]
    return [
        NetworkBoundRow(figure, value, certifies)
        for figure, value, certifies in rows
        if value is not None
    ]


def fine_tune_rows(curve: Curve) -> list[FineTuneRow]:
    """Rows by step; a validation shares its row with the steps before it."""
    rows = {
        point.step: FineTuneRow(point.step, point.epoch, train_loss=point.train_loss)
        for point in curve.steps
    }
    for point in curve.epochs:
        row = rows.get(point.step, FineTuneRow(point.step, point.epoch))
        rows[point.step] = replace(
            row,
            validation_loss=point.validation_loss,
            validation_accuracy=point.validation_accuracy,
        )
    return [rows[step] for step in sorted(rows)]


def kept_rank(ranks: Sequence[int], truncated: Sequence[str], view: str, size: int) -> int:
    """How many of a view's `size` directions a layer of these ranks keeps: the rank that truncates
    this view, at most the one rank of CP in every view, else all.

    truncated: the views that the layer's method truncates (`Method.views`).
    """
    if not ranks:
        return size
    if not truncated:
        return min(size, ranks[0])
    return ranks[truncated.index(view)] if view in truncated else size


def thin(count: int, limit: int, keep: tuple[int, ...] = ()) -> list[int]:
    """At most about `limit` of the numbers 1…count: both ends, `keep`, and others spaced for linear
    and logarithmic axes (half of the points each)."""
    if count <= limit:
        return list(range(1, count + 1))
    half = limit // 2
    step = (count - 1) / (half - 1)
    linear = {round(1 + i * step) for i in range(half)}
    geometric = {round(math.exp(i * math.log(count) / (half - 1))) for i in range(half)}
    return sorted({*linear, *geometric, *(k for k in keep if 1 <= k <= count)})


def _shown_views(facts: Facts) -> Iterator[_ShownView]:
    planned, methods = facts.plan.layers, facts.plan.methods
    # A dense layer cuts no view, and a narrowed one keeps channels and no directions.
    truncated = {
        n: methods[x.method].views if x.method in methods else () for n, x in planned.items()
    }
    chosen = {name: _views(truncated[name], one) for name, one in facts.spectra.items()}
    count = sum(len(views) for views in chosen.values())
    most = max(FEWEST_POINTS, min(MOST_POINTS, MOST_ROWS // max(count, 1)))
    for name, views in chosen.items():
        every, cut = facts.spectra[name].views, truncated[name]
        for key in views:
            kept = kept_rank(planned[name].ranks, cut, key, len(every[key].eigenvalues))
            label = key if len(every) > 1 else "matrix"
            # A dense layer, and one that CP cuts in all views, counts in every view.
            yield _ShownView(name, label, every[key], kept, not cut or key in cut, most)


def _views(truncated: Sequence[str], spectra: Spectra) -> list[str]:
    """The two channel modes, and the spatial matrix where the plan cuts it; the axes of a
    kernel have a handful of directions and no line."""
    views = ("mode0", "mode1", "spatial") if "spatial" in truncated else ("mode0", "mode1")
    return [view for view in views if view in spectra.views]
