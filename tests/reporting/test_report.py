"""reports/: headline figures, the table of layers, bounds, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms.files import load, save
from pipeline.reporting.run.facts import read_facts
from pipeline.reporting.run.numbers import check_bounds, headline, layer_rows
from pipeline.reporting.run.write import LAYER_COLUMNS, network_size, write_reports
from tests.reporting.report_case import NETWORKS, SMALL, write_case


def _layer(measured: float, lower: float, upper: float, bound: str = "HOSVD") -> dict[str, object]:
    return {
        "measured_relative_error": measured,
        "lower_bound": lower,
        "upper_bound": upper,
        "bound": bound,
        "rounding": 1e-5,
    }


def test_headline_has_ratios_drops_and_tightness() -> None:
    layers = {"a": _layer(0.3, 0.2, 0.4), "b": _layer(0.5, 0.5, 0.5, "Eckart-Young")}
    metrics = headline(NETWORKS, layers)
    assert metrics["compression_ratio"] == pytest.approx(76_842 / 19_210)
    assert metrics["macs_ratio"] == pytest.approx(3.0)
    assert metrics["file_ratio"] == pytest.approx(4.0)
    assert metrics["accuracy_drop_compressed"] == pytest.approx(7.5)
    assert metrics["accuracy_drop_fine_tuned"] == pytest.approx(-0.5)  # it got better
    assert metrics["layers_factorized"] == 2
    assert metrics["max_relative_error"] == 0.5
    assert metrics["mean_bound_tightness"] == pytest.approx((0.75 + 1.0) / 2)
    assert metrics["dense"] == NETWORKS["dense"]


def test_headline_of_a_plan_that_keeps_all_layers() -> None:
    metrics = headline(NETWORKS, {})
    assert metrics["layers_factorized"] == 0
    assert metrics["max_relative_error"] == 0.0
    assert "mean_bound_tightness" not in metrics


def test_layers_follow_the_network_and_not_the_alphabet(tmp_path: Path) -> None:
    write_case(tmp_path / "out")
    rows = layer_rows(read_facts(tmp_path / "out"))
    assert [row["name"] for row in rows] == list(SMALL)
    by_name = {row["name"]: row for row in rows}
    conv = by_name["blocks.0.conv2"]
    assert (conv["shape"], conv["ranks"], conv["method"]) == ("32x32x3x3", "12x10", "tucker2")
    assert (conv["dense_params"], conv["params"]) == (9216, 10 * 32 + 12 * 10 * 9 + 12 * 32)
    assert conv["lower_bound"] < conv["measured_relative_error"] < conv["upper_bound"]
    stem = by_name["stem"]
    assert (stem["measured_relative_error"], stem["params"]) == (0.0, stem["dense_params"])
    assert "no rank pays" in stem["why"]


def test_svd_error_is_the_planted_tail(tmp_path: Path) -> None:
    write_case(tmp_path / "out")
    row = next(r for r in layer_rows(read_facts(tmp_path / "out")) if r["name"] == "hidden")
    squared = torch.arange(1, 49, dtype=torch.float64) ** (-2 * (0.5 + 0.1 * 6))
    expected = (squared[11:].sum() / squared.sum()).sqrt().item()
    for key in ("measured_relative_error", "lower_bound", "upper_bound"):
        assert row[key] == pytest.approx(expected, rel=1e-9)


def test_written_files_hold_the_same_numbers(tmp_path: Path) -> None:
    write_case(tmp_path / "out")
    facts = read_facts(tmp_path / "out")
    metrics = write_reports(tmp_path / "reports", facts, NETWORKS, "ResNet on digits")
    assert metrics["max_relative_error"] == max(
        layer["measured_relative_error"] for layer in facts.layers.values()
    )
    with (tmp_path / "reports/layers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == LAYER_COLUMNS
    assert [row["name"] for row in rows] == list(SMALL)
    written = {row["name"]: float(row["measured_relative_error"]) for row in rows}
    for name, layer in facts.layers.items():
        assert written[name] == pytest.approx(layer["measured_relative_error"], rel=1e-8)
        assert written[name] > 0.1
    produced = {p.relative_to(tmp_path / "reports").as_posix() for p in tmp_path.rglob("*.[cp]*")}
    assert written_bounds(rows) == {
        name: (layer["measured"], layer["bound"]) for name, layer in facts.bounds["layers"].items()
    }
    error = metrics["output_error"]
    assert (error["certified"], error["measured"], error["certificate"]) == (True, 3.5, 420.0)
    assert error["worst_case"] == 123456.0
    names = ("spectra", "energy", "ranks", "errors", "bounds", "fine_tuning", "weights", "training")
    assert {f"plots/{name}.csv" for name in names} <= produced
    assert "spectra.csv" in produced
    assert {f"figures/{name}.png" for name in (*names, "overview")} <= produced


def written_bounds(rows: list[dict[str, str]]) -> dict[str, tuple[float, float]]:
    keys = ("output_error_measured", "output_error_bound")
    return {row["name"]: (float(row[keys[0]]), float(row[keys[1]])) for row in rows if row[keys[0]]}


def test_network_size_counts_what_loads(tmp_path: Path) -> None:
    spec = {"_target_": "torch.nn.Linear", "in_features": 12, "out_features": 5}
    save(nn.Linear(12, 5), tmp_path, spec)
    size = network_size(load(tmp_path), tmp_path, torch.zeros(1, 12))
    assert size["params"] == 12 * 5 + 5
    assert size["macs"] == 12 * 5
    assert size["file_bytes"] == (tmp_path / "model.safetensors").stat().st_size
    assert size["file_bytes"] > 4 * size["params"]


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
    plan_path = tmp_path / "out/plan.json"
    plan = json.loads(plan_path.read_text())
    plan["layers"]["hidden"]["method"] = "dense"  # a plan edited after decompose
    plan_path.write_text(json.dumps(plan))
    with pytest.raises(LowRankError, match=r"layers\.json .* disagree about hidden; run dvc repro"):
        read_facts(tmp_path / "out")
    del plan["layers"]["hidden"]
    plan_path.write_text(json.dumps(plan))
    with pytest.raises(LowRankError, match=r"plan\.json .* disagree about hidden"):
        read_facts(tmp_path / "out")
    plan_path.unlink()
    with pytest.raises(LowRankError, match=r"plan\.json: no readable JSON .*run dvc repro"):
        read_facts(tmp_path / "out")
