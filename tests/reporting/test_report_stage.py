"""The evaluate stage on a small network that really was compressed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from pipeline.evaluation.timings import Timings, load_timings
from pipeline.lowrank.analysis.analysis import analyze
from pipeline.lowrank.analysis.files import load_analysis, save_analysis
from pipeline.lowrank.analysis.history import WeightDiagnosis, weight_spectra
from pipeline.lowrank.analysis.record import AnalysisRecord
from pipeline.lowrank.bounds import Bounds, certify
from pipeline.lowrank.factorize.apply import apply_
from pipeline.lowrank.factorize.deciding import plan_from
from pipeline.lowrank.factorize.report import CompressionReport
from pipeline.lowrank.forms.building import build_model
from pipeline.lowrank.forms.files import save
from pipeline.lowrank.methods import SVD, Tucker2
from pipeline.lowrank.planning.files import load_plan, save_plan
from pipeline.lowrank.planning.policies import Energy
from pipeline.lowrank.typed import load_record, save_record
from pipeline.lowrank.typed.content import checksums_of
from pipeline.machine.scratch import scratch
from pipeline.reporting.run.facts import read_facts
from pipeline.reporting.run.layers import LayerTable
from pipeline.reporting.run.metrics import read_metrics
from pipeline.reporting.run.timings import FOLDERS
from pipeline.training.curve import Curve
from stages import evaluate
from stages._io import main, write_json
from tests.imports import ROOT
from tests.reporting.report_case import curve

SPEC = {
    "_target_": "pipeline.models.resnet.ResNet",
    "widths": [8, 16],
    "blocks": [1, 1],
    "hidden": 24,
    "classes": 4,
}
PARAMS = """
model: {_target_: pipeline.models.resnet.ResNet}
fabric: {accelerator: cpu, devices: 1, num_nodes: 1, strategy: auto, precision: 32-true, threads: 1}
evaluate: {batch_size: 16, latency_batch_size: 4, latency_repetitions: 3, latency_warmup: 1}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which all stages before evaluate have run."""
    root = tmp_path_factory.mktemp("workspace")
    out = root / "out"
    torch.manual_seed(0)
    model = build_model(SPEC)
    for module in model.modules():  # blocks start as their shortcut: give them something to do
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
    save(model, out / "baseline", SPEC)
    analysis = analyze(model, torch.zeros(1, 1, 8, 8))
    save_analysis(out / "analysis", analysis, weight_spectra(model, list(analysis.targets)))
    plan = plan_from(model, analysis, Energy(energy=0.6), methods=[SVD(), Tucker2()])
    save_plan(out / "plan.json", plan)
    done = apply_(copy.deepcopy(model), plan, analysis)
    dense, model, reports = model, done.network, done.layers
    for name in ("compressed", "fine_tuned"):
        save(model, out / name, SPEC)
    save_record(out / "compressed/layers.json", CompressionReport(reports, done.totals))
    inputs = torch.randn(6, 1, 8, 8)
    certified = certify(dense, model, inputs, list(reports))
    save_record(out / "compressed/bounds.json", certified)
    for name in ("baseline", "fine_tuned"):
        save_record(out / name / "curve.json", curve([0.5, 0.8], best=1))
    _write_data(out / "data")
    (root / "params.yaml").write_text(PARAMS)
    return root


def _write_data(folder: Path) -> None:
    folder.mkdir()
    pixels = torch.arange(40 * 64).reshape(40, 1, 8, 8).remainder(251).to(torch.uint8)
    split = {"inputs": pixels, "labels": torch.arange(40) % 4}
    save_file(split, folder / "test.safetensors")
    shown = {"name": "planted", "task": "classification", "classes": 4, "sizes": {"test": 40}}
    meta = shown | {"source": "planted", "sha256": {}, "input_shape": [1, 8, 8]}
    meta |= {"label_shape": []}
    meta |= {"preprocessing": {"channels": {"inputs": {"mean": [0.5], "std": [0.3]}}}}
    meta["checksums"] = checksums_of(folder, ["test.safetensors"])
    (folder / "data.json").write_text(json.dumps(meta))


@pytest.fixture
def workspace(finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.chdir(finished)
    monkeypatch.setenv("LOWRANK_SCRATCH", str(tmp_path / "scratch"))
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield finished
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def test_reports_are_right_and_repeat_to_the_byte(workspace: Path, tmp_path: Path) -> None:
    evaluate.run()
    reports = workspace / "reports"
    metrics = json.loads((reports / "metrics.json").read_text())
    dense = build_model(SPEC)
    assert metrics["dense"]["params"] == sum(p.numel() for p in dense.parameters())
    planned = load_plan(workspace / "out/plan.json").expected.planned
    assert metrics["compressed"]["params"] == planned.params < metrics["dense"]["params"]
    assert metrics["compressed"]["macs"] == planned.macs < metrics["dense"]["macs"]
    assert metrics["fine_tuned"] == metrics["compressed"]  # the same weights
    assert metrics["dense"]["loss"] != metrics["compressed"]["loss"]
    assert 0.1 < metrics["max_relative_error"] < 1
    assert 0.7 < metrics["mean_bound_tightness"] <= 1 + 1e-6  # HOSVD: at worst 1/√2
    before = {p: p.read_bytes() for p in sorted(reports.rglob("*.*"))}
    assert len(before) == 4 + 10
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["evaluate"]
    declared = [workspace / name for name in (*stage["outs"], *stage["metrics"])]
    assert all(any(path.is_relative_to(d) for d in declared) for path in before)
    assert "leading_grew" not in metrics["spectra"]
    error = metrics["output_error"]
    assert error["certified"]
    assert 0 < error["measured"] <= error["certificate"] <= error["worst_case"]
    assert not any(b"latency" in content for content in before.values())
    assert len(list((tmp_path / "scratch/timings").glob("*.json"))) == 1
    evaluate.run()
    assert {p: p.read_bytes() for p in sorted(reports.rglob("*.*"))} == before
    assert len(list((tmp_path / "scratch/timings").glob("*.json"))) == 1


def test_every_record_of_a_run_is_read_back_as_it_was_written(workspace: Path) -> None:
    """Reading and writing again gives the very bytes, and what was read is of the type."""
    facts, analysis = read_facts(workspace / "out"), load_analysis(workspace / "out/analysis")
    assert facts.analysis.targets["head.0"].target == analysis.targets["head.0"]
    assert any(layer.ranks for layer in facts.compression.layers.values())
    assert facts.bounds.network.certificate is not None
    assert type(facts.analysis.targets["head.0"].weights) is WeightDiagnosis
    evaluate.run()
    records: dict[str, type] = {
        "out/analysis/analysis.json": AnalysisRecord,
        "out/compressed/layers.json": CompressionReport,
        "out/compressed/bounds.json": Bounds,
        "out/baseline/curve.json": Curve,
        "out/fine_tuned/curve.json": Curve,
        "reports/layers.json": LayerTable,
    }
    for name, kind in records.items():
        path = workspace / name
        written, value = path.read_bytes(), load_record(path, kind, "")
        assert type(value) is kind
        save_record(path, value)
        assert path.read_bytes() == written, name
    plan = workspace / "out/plan.json"
    written = plan.read_bytes()
    save_plan(plan, facts.plan)
    assert plan.read_bytes() == written
    metrics = workspace / "reports/metrics.json"
    written = metrics.read_bytes()
    write_json(metrics, read_metrics(metrics).to_json())
    assert metrics.read_bytes() == written
    (timings,) = scratch("timings").glob("*.json")
    assert Timings(**vars(load_timings(timings))).networks.keys() == FOLDERS.keys()


def test_a_broken_bound_fails_before_anything_is_written(
    workspace: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = workspace / "out/compressed/layers.json"
    text = path.read_text()
    value = json.loads(text)
    name = next(iter(value["layers"]))
    value["layers"][name]["measured_relative_error"] = 1.5
    reports = workspace / "reports"
    kept = {p: p.stat().st_mtime_ns for p in reports.rglob("*.*")}
    try:
        path.write_text(json.dumps(value))
        with pytest.raises(SystemExit) as stop:
            main(evaluate.run)
    finally:
        path.write_text(text)
    assert stop.value.code == 1
    assert f"error: layer {name!r}: the measured relative error 1.5" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in reports.rglob("*.*")} == kept
