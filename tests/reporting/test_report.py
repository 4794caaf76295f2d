"""reports/: headline figures, the table of layers, bounds, and what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.factorize.layer import LayerReport
from pipeline.lowrank.factorize.report import (
    BatchNormReport,
    RefinedBlock,
    RefineReport,
    RefitDivergence,
    RefitReport,
)
from pipeline.lowrank.forms.files import load, save
from pipeline.lowrank.planning.files import load_plan, save_plan
from pipeline.reporting.run.facts import Facts, read_facts
from pipeline.reporting.run.layers import LayerRow, check_bounds, layer_table, read_layers
from pipeline.reporting.run.metrics import Metrics, make_metrics, read_metrics
from pipeline.reporting.run.rows import columns
from pipeline.reporting.run.spectral import spectral_figures
from pipeline.reporting.run.write import network_size, write_reports
from tests.reporting.report_case import NETWORKS, SMALL, write_case


def _layer(measured: float, lower: float, upper: float, bound: str = "HOSVD") -> LayerReport:
    return LayerReport(
        method="tucker2",
        ranks=(3, 2),
        params=10,
        macs=10,
        dense_params=20,
        dense_macs=20,
        predicted_relative_error=measured,
        error_kind="upper_bound",
        measured_relative_error=measured,
        lower_bound=lower,
        upper_bound=upper,
        theorem=bound,
        rounding=1e-5,
    )


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    root = tmp_path_factory.mktemp("case")
    write_case(root / "out")
    return read_facts(root / "out")


def _metrics(facts: Facts, layers: dict[str, LayerReport]) -> Metrics:
    found = replace(facts, compression=replace(facts.compression, layers=layers))
    return make_metrics(found, NETWORKS, spectral_figures(facts))


def test_headline_has_ratios_drops_and_tightness(facts: Facts) -> None:
    layers = {"a": _layer(0.3, 0.2, 0.4), "b": _layer(0.5, 0.5, 0.5, "Eckart-Young")}
    metrics = _metrics(facts, layers)
    assert metrics.compression_ratio == pytest.approx(76_842 / 19_210)
    assert metrics.macs_ratio == pytest.approx(3.0)
    assert metrics.file_ratio == pytest.approx(4.0)
    assert metrics.accuracy_drop_compressed == pytest.approx(7.5)
    assert metrics.accuracy_drop_fine_tuned == pytest.approx(-0.5)  # it got better
    assert metrics.layers_factorized == 2
    assert metrics.max_relative_error == 0.5
    assert metrics.mean_bound_tightness == pytest.approx((0.75 + 1.0) / 2)
    assert metrics.to_json()["dense"] == {
        "accuracy": 0.975, "loss": 0.081, "params": 76_842, "macs": 1_234_560,
        "file_bytes": 310_000,
    }  # fmt: skip


def test_headline_of_a_plan_that_keeps_all_layers(facts: Facts) -> None:
    metrics = _metrics(facts, {}).to_json()
    assert metrics["layers_factorized"] == 0
    assert metrics["max_relative_error"] == 0.0
    assert "mean_bound_tightness" not in metrics


def test_metrics_are_read_back_as_they_were_written(facts: Facts, tmp_path: Path) -> None:
    refit = RefitReport(0.2, kept=True, divergence=RefitDivergence(without=0.3, refit=0.2))
    refine = RefineReport({"a.0": RefinedBlock(9, 0.1, kept=True)}, refit.divergence)
    norms = BatchNormReport(3, kept=False, divergence=refit.divergence)
    compression = replace(facts.compression, refit=refit, refine=refine, batchnorm=norms)
    written = make_metrics(
        replace(facts, compression=compression), NETWORKS, spectral_figures(facts)
    )
    (tmp_path / "metrics.json").write_text(json.dumps(written.to_json(), sort_keys=True))
    assert read_metrics(tmp_path / "metrics.json") == written
    (tmp_path / "metrics.json").write_text('{"dense": {}}')
    with pytest.raises(LowRankError, match=r"metrics\.json: no metrics of a run .*run dvc repro"):
        read_metrics(tmp_path / "metrics.json")


def test_layers_follow_the_network_and_not_the_alphabet(facts: Facts) -> None:
    rows = layer_table(facts).layers
    assert [row.name for row in rows] == list(SMALL)
    by_name = {row.name: row for row in rows}
    conv = by_name["blocks.0.conv2"]
    assert (conv.shape, conv.ranks, conv.method) == ("32x32x3x3", (12, 10), "tucker2")
    assert (conv.dense_params, conv.params) == (9216, 10 * 32 + 12 * 10 * 9 + 12 * 32)
    assert conv.lower_bound < conv.measured_relative_error < conv.upper_bound
    stem = by_name["stem"]
    assert (stem.measured_relative_error, stem.params) == (0.0, stem.dense_params)
    assert "no rank pays" in stem.why


def test_svd_error_is_the_planted_tail(facts: Facts) -> None:
    row = next(row for row in layer_table(facts).layers if row.name == "hidden")
    squared = torch.arange(1, 49, dtype=torch.float64) ** (-2 * (0.5 + 0.1 * 6))
    expected = (squared[11:].sum() / squared.sum()).sqrt().item()
    for value in (row.measured_relative_error, row.lower_bound, row.upper_bound):
        assert value == pytest.approx(expected, rel=1e-9)


def test_written_files_hold_the_same_numbers(facts: Facts, tmp_path: Path) -> None:
    metrics = write_reports(tmp_path / "reports", facts, NETWORKS)
    layers = facts.compression.layers
    assert metrics.max_relative_error == max(x.measured_relative_error for x in layers.values())
    assert read_layers(tmp_path / "reports") == layer_table(facts).layers
    with (tmp_path / "reports/layers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == columns(LayerRow)
    assert [row["name"] for row in rows] == list(SMALL)
    assert [row["ranks"] for row in rows][:3] == ["", "9×6", "12×10"]
    written = {row["name"]: float(row["measured_relative_error"]) for row in rows}
    for name, layer in layers.items():
        assert written[name] == pytest.approx(layer.measured_relative_error, rel=1e-8)
        assert written[name] > 0.1
    produced = {p.relative_to(tmp_path / "reports").as_posix() for p in tmp_path.rglob("*.[cp]*")}
    assert written_bounds(rows) == {
        name: (layer.measured, layer.bound) for name, layer in facts.bounds.layers.items()
    }
    error = metrics.output_error
    assert (error.certified, error.measured, error.certificate) == (True, 3.5, 420.0)
    assert error.worst_case == 123456.0
    names = ("spectra", "energy", "ranks", "errors", "bounds", "fine_tune", "weights", "training")
    assert {f"plots/{name}.csv" for name in names} <= produced
    assert "spectra.csv" in produced


def written_bounds(rows: list[dict[str, str]]) -> dict[str, tuple[float, float]]:
    keys = ("output_error_measured", "output_error_bound")
    return {row["name"]: (float(row[keys[0]]), float(row[keys[1]])) for row in rows if row[keys[0]]}


def test_network_size_counts_what_loads(tmp_path: Path) -> None:
    spec = {"_target_": "torch.nn.Linear", "in_features": 12, "out_features": 5}
    save(nn.Linear(12, 5), tmp_path, spec)
    size = network_size(load(tmp_path), tmp_path, torch.zeros(1, 12))
    assert size.params == 12 * 5 + 5
    assert size.macs == 12 * 5
    assert size.file_bytes == (tmp_path / "model.safetensors").stat().st_size
    assert size.file_bytes > 4 * size.params


@pytest.mark.parametrize(
    ("measured", "lower", "upper", "broken"),
    [
        (0.5, 0.5, 0.5, False),
        (0.5 + 5e-6, 0.5, 0.5, False),  # rounding, within the slack
        (0.5001, 0.4, 0.5, True),
        (0.3999, 0.4, 0.5, True),
        (float("nan"), 0.4, 0.5, True),
    ],
)
def test_bounds_are_checked_on_both_sides(
    measured: float, lower: float, upper: float, broken: bool
) -> None:
    layers = {"fine": _layer(0.2, 0.1, 0.3), "blocks.7.conv": _layer(measured, lower, upper)}
    if not broken:
        check_bounds(layers)
        return
    with pytest.raises(LowRankError, match=r"layer 'blocks\.7\.conv'.*outside its HOSVD bounds"):
        check_bounds(layers)


def test_missing_and_disagreeing_inputs_are_named(tmp_path: Path) -> None:
    write_case(tmp_path / "out")
    path = tmp_path / "out/plan.json"
    plan = load_plan(path)
    dense = replace(plan.layers["hidden"], method="dense", ranks=())  # edited after decompose
    save_plan(path, replace(plan, layers={**plan.layers, "hidden": dense}))
    with pytest.raises(LowRankError, match=r"layers\.json .* disagree about hidden; run dvc repro"):
        read_facts(tmp_path / "out")
    others = {name: layer for name, layer in plan.layers.items() if name != "hidden"}
    save_plan(path, replace(plan, layers=others))
    with pytest.raises(LowRankError, match=r"plan\.json .* disagree about hidden"):
        read_facts(tmp_path / "out")
    (tmp_path / "out/compressed/bounds.json").unlink()
    with pytest.raises(LowRankError, match=r"bounds\.json: cannot be read .*run dvc repro"):
        read_facts(tmp_path / "out")
