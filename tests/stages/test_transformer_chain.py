"""The chain from prepare to evaluate on transformers of every task, by the stages' own code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from pipeline.config.compose import compose_params
from pipeline.lowrank.forms.files import read_network
from pipeline.lowrank.network.costs import count_params
from pipeline.lowrank.planning.files import load_plan
from pipeline.reporting.run.layers import read_layers
from pipeline.reporting.run.page.write import write_page
from pipeline.reporting.run.summary import print_summary
from tests.data.test_text import rows
from tests.imports import ROOT
from tests.models.transformers_case import write_book, write_model

pytest.importorskip("transformers")

STAGES = ("prepare", "baseline", "analyze", "rank_select", "decompose", "fine_tune", "evaluate")
COMMON = [
    *("data=text", "model=huggingface", "baseline=pretrained", "methods=svd", "fine_tune=none"),
    *("fabric.threads=1", "rank_select.scope=targets", "rank_select.budget=0.7"),
    "track.live=false",
    *("data.calibration=3", "data.validation=2", "data.test=12", "data.text.sequence_length=32"),
    *("evaluate.batch_size=4", "evaluate.latency_batch_size=2", "evaluate.latency_repetitions=2"),
]
LAYERS = {"causal_lm": "model.layers.*", "encoder": "encoder.*"}


def run_chain(folder: Path, overrides: list[str], common: Sequence[str] = COMMON) -> dict[str, Any]:
    params = compose_params(ROOT / "conf", [*common, *overrides])
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    for stage in STAGES:
        import_module(f"stages.{stage}").run()
    metrics: dict[str, Any] = json.loads((folder / "reports/metrics.json").read_text())
    return metrics


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOWRANK_SCRATCH", str(tmp_path / "scratch"))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("task", sorted(LAYERS))
def test_text_in_and_out_of_domain(
    workspace: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    book, other = write_book(workspace / "b.txt", 16), write_book(workspace / "o.txt", 4, seed=9)
    write_model(workspace / "net", task)
    overrides = [f"task={task}", "model.name=net", f"analyze.include=[{LAYERS[task]}]"]
    texts = [f"data.path={book}", f"data.text.ood_path={other}", "data.text.ood=6"]
    metrics = run_chain(workspace, [*overrides, *texts])
    dense, compressed = metrics["dense"], metrics["compressed"]
    assert metrics["fine_tuned"] == compressed, "nothing was trained"
    targets = load_plan(workspace / "out/plan.json").expected.layers.values()
    kept = sum(layer.params for layer in targets) / sum(layer.dense_params for layer in targets)
    assert 0.5 < kept <= 0.7
    saved = sum(layer.dense_params - layer.params for layer in targets)
    assert dense["params"] - compressed["params"] == saved
    print_summary(workspace, Console(width=100))
    shown = capsys.readouterr().out
    for prefix in ("", "ood_"):
        if task == "encoder":
            assert dense[f"{prefix}cosine"] == pytest.approx(1)
            assert dense[f"{prefix}recall_at_10"] == 1
            assert 0 < compressed[f"{prefix}cosine"] < 1
        else:
            assert dense[f"{prefix}perplexity"] > 1 and dense[f"{prefix}perplexity_ratio"] == 1
            assert compressed[f"{prefix}perplexity_ratio"] != 1
    assert ("cosine, out of domain" if task == "encoder" else "out of domain") in shown
    assert "batch of 2 × 32" in shown
    page = write_page(workspace).read_text(encoding="utf-8")
    assert "net on text" in page and "smaller" in page


@pytest.mark.parametrize("task", sorted(LAYERS))
def test_a_refit_is_measured_and_shown(
    workspace: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether it is kept depends on the text; what was measured is reported either way."""
    write_model(workspace / "net", task)
    overrides = [f"task={task}", "model.name=net", f"analyze.include=[{LAYERS[task]}]"]
    book = write_book(workspace / "b.txt", 24)
    metrics = run_chain(
        workspace,
        [*overrides, f"data.path={book}", "refit=blocks", "refit.batch_size=4", "refit.steps=3"],
    )
    refit = metrics["refit"]
    before, after = refit["divergence"]["without"], refit["divergence"]["refit"]
    assert 0 < after != before > 0
    assert refit["kept"] == (after < before)
    refine = metrics["refine"]
    trained = refine["divergence"]
    assert trained["without"] == min(before, after)
    assert (trained["refit"] < trained["without"]) == (refine["kept"] > 0)
    print_summary(workspace, Console(width=120))
    shown = capsys.readouterr().out
    assert f"Refit: divergence from the dense network {before:.4g}" in shown
    assert f"({refine['kept']} of {refine['trained']} kept)" in shown
    corrections = [row.refit_correction for row in read_layers(workspace / "reports")]
    assert any(corrections) == refit["kept"]


@pytest.mark.parametrize("task", sorted(LAYERS))
def test_the_dense_network_repairs(workspace: Path, task: str) -> None:
    """Distillation towards the dense net's predictions by AdamW; towards its embeddings, and the
    states after its blocks, by Muon."""
    way = ["optimizer=muon", "states_weight=1"] if task == "encoder" else ["optimizer=adamw"]
    book = write_book(workspace / "b.txt", 24)
    write_model(workspace / "net", task)
    overrides = [
        *(f"task={task}", "model.name=net", f"analyze.include=[{LAYERS[task]}]"),
        *(f"data.path={book}", "rank_select.budget=0.4", "rank_select.contest_examples=0"),
        *(
            "data.train=96",
            "fine_tune=distill",
            "fine_tune.learning_rate=0.003",
            *(f"fine_tune.{o}" for o in way),
        ),
        *("fine_tune.epochs=12", "fine_tune.batch_size=4", "fine_tune.descent_points=0"),
        *("fine_tune.parameters=factors", "fine_tune.distill_weight=1", "fine_tune.temperature=1"),
    ]
    metrics = run_chain(workspace, overrides)
    before, after = metrics["compressed"], metrics["fine_tuned"]
    curve = json.loads((workspace / "out/fine_tuned/curve.json").read_text())
    assert curve["best_epoch"] > 0
    if task == "encoder":
        assert 1 - after["cosine"] < 0.7 * (1 - before["cosine"])
        assert curve["measure"] == "cosine"
        kept = curve["epochs"][curve["best_epoch"]]
        assert kept["validation_loss"] == pytest.approx(1 - kept["validation_accuracy"], abs=1e-9)
    else:
        assert curve["measure"] == "accuracy"
        first, *_, last = (step["train_loss"] for step in curve["steps"])
        assert 0 < last < 0.7 * first, "the divergence from the dense network, in nats a token"
        assert after["loss"] < before["loss"]
    assert after["params"] == before["params"]


def test_labelled_rows_are_trained_on_and_repaired(workspace: Path) -> None:
    """Random weights know nothing; a short training tells three first words apart."""
    write_model(workspace / "net", "sequence_classification")
    overrides = [
        *("task=sequence_classification", "model.name=net", "data.text.label_column=kind"),
        *(f"data.path={rows(workspace, 'jsonl')}", "baseline=train", "fine_tune=full"),
        *("baseline.epochs=10", "baseline.batch_size=8", "baseline.learning_rate=0.05"),
        *("fine_tune.epochs=2", "fine_tune.batch_size=8", "analyze.include=[bert.encoder.*]"),
        "analyze=weight",  # three labelled rows give no Fisher matrix worth the name
    ]
    metrics = run_chain(workspace, overrides)
    assert metrics["dense"]["accuracy"] > 0.7, "half of the rows are of one class"
    assert metrics["fine_tuned"]["accuracy"] > 0.7
    builder = read_network(workspace / "out/baseline").builder
    assert builder is not None and builder["_target_"].endswith("skeleton")
    assert metrics["dense"]["params"] == count_params(_network(workspace))


def _network(workspace: Path) -> torch.nn.Module:
    from pipeline.lowrank.forms.files import load

    return load(workspace / "out/baseline")
