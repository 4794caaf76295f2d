"""The chain from prepare to evaluate on tasks of every kind, by the stages' own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from pipeline.data.files import load_task
from pipeline.lowrank import LowRankError
from pipeline.reporting.run.summary import print_summary
from tests.models.transformers_case import VOCABULARY, write_model
from tests.stages.nets import Pixels
from tests.stages.test_transformer_chain import run_chain as run_stages
from tests.stages.test_transformer_chain import workspace

__all__ = ["workspace"]  # fixtures

COMMON = [
    *("data=tensors", "data.path=data.safetensors", "data.calibration=60", "data.validation=40"),
    *("data.test=60", "analyze.batch_size=20", "baseline=train", "baseline.epochs=4"),
    *("baseline.batch_size=20", "baseline.learning_rate=0.05", "fine_tune.epochs=2"),
    *("fine_tune.batch_size=20", "fine_tune.descent_points=2", "rank_select.budget=0.6"),
    *("fabric.threads=1", "track.live=false", "evaluate.batch_size=25"),
    *("evaluate.latency_batch_size=2", "evaluate.latency_repetitions=2"),
]


def run_chain(folder: Path, overrides: list[str]) -> dict[str, Any]:
    return run_stages(folder, overrides, ())


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def own(name: str) -> list[str]:
    return ["model=custom", f"model._target_=tests.stages.nets.{name}"]


def two_inputs(folder: Path) -> None:
    a, b = drawn(400, 12), drawn(400, 5, seed=1)
    labels = (a[:, 0] - 2 * b[:, 1] + a[:, 1] * a[:, 2]).contiguous()
    save_file({"inputs.a": a, "inputs.b": b, "labels": labels}, folder / "data.safetensors")


def test_a_regressor_of_two_inputs_with_a_loss_of_its_own(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_inputs(workspace)
    metrics = run_chain(workspace, [
        *COMMON, *own("TwoInputs"), "fine_tune=distill", "task=custom", "task.output=y",
        "task.loss._target_=tests.stages.nets.heavy_tails",
        "task.measures={mae: {_target_: torchmetrics.MeanAbsoluteError}}",
    ])  # fmt: skip
    mean = float(drawn(400, 12)[:, 0].abs().mean())
    assert 0 < metrics["dense"]["mae"] < 2.5 * mean and metrics["dense"]["loss"] > 0
    assert metrics["compression_ratio"] > 1.3
    assert [m["name"] for m in metrics["measures"]] == ["mae", "loss"]
    print_summary(workspace, Console(width=100))
    assert "mae" in capsys.readouterr().out
    assert load_task(workspace / "out/data").supervised


def test_pixels_with_and_without_labels(workspace: Path) -> None:
    images = drawn(260, 1, 8, 8)
    masks = (images[:, 0] > 0).long() + (images[:, 0] > 1).long()
    masks[:, 0] = 255
    save_file({"inputs": images, "labels": masks}, workspace / "data.safetensors")
    common = [*COMMON, *own("Pixels"), "task=segmentation", "task.ignore_index=255"]
    metrics = run_chain(workspace, [*common, "fine_tune=full", "baseline.epochs=8"])
    assert metrics["dense"]["accuracy"] > 0.8 and metrics["dense"]["mean_iou"] > 0.4
    assert "measures" not in metrics, "the names tell them"

    save_file({"inputs": images}, workspace / "data.safetensors")
    torch.manual_seed(0)
    save_file(Pixels().state_dict(), workspace / "net.safetensors")
    mine = ["baseline=checkpoint", "baseline.weights=net.safetensors", "data.normalise=none"]
    alone = [line for line in common if not line.startswith("baseline")] + mine
    metrics = run_chain(workspace, [*alone, "fine_tune=distill"])
    assert metrics["dense"]["agreement"] == 1 and metrics["dense"]["divergence"] == 0
    assert 0 < metrics["compressed"]["agreement"] < 1
    assert metrics["fine_tuned"]["divergence"] <= metrics["compressed"]["divergence"]
    curve = json.loads((workspace / "out/fine_tuned/curve.json").read_text())
    assert curve["measure"] == "agreement"
    with pytest.raises(LowRankError, match=r"no labels for the task segmentation.*distill"):
        run_chain(workspace, [*alone, "fine_tune=full"])


def test_an_autoencoder_needs_no_labels(workspace: Path) -> None:
    low = drawn(400, 4) @ drawn(4, 20, seed=1)
    save_file({"inputs": low}, workspace / "data.safetensors")
    metrics = run_chain(workspace, [*COMMON, *own("Auto"), "task=reconstruction", "fine_tune=full"])
    assert metrics["dense"]["r2"] > 0.3
    assert metrics["fine_tuned"]["mse"] <= metrics["compressed"]["mse"] * 1.2


def test_an_encoder_and_decoder_of_transformers(workspace: Path) -> None:
    write_model(workspace / "net", "seq2seq")
    generator = torch.Generator().manual_seed(0)
    read = torch.randint(1, VOCABULARY, (160, 9), generator=generator)
    written = torch.randint(1, VOCABULARY, (160, 7), generator=generator)
    read[::3, 6:], written[::4, 5:] = -1, -1
    labels = written.roll(-1, 1).masked_fill(written < 0, -100)
    labels[:, -1] = -100
    save_file(
        {"inputs.input_ids": read, "inputs.decoder_input_ids": written, "labels": labels},
        workspace / "data.safetensors",
    )
    common = [line for line in COMMON if not line.startswith(("baseline", "data.calibration"))]
    metrics = run_chain(workspace, [
        *common, "task=seq2seq", "model=huggingface", "model.name=net", "baseline=pretrained",
        "data.calibration=30", "data.validation=20", "fine_tune=distill", "fine_tune.epochs=1",
        "analyze.include=['*.layer.*']", "data.normalise=none",
    ])  # fmt: skip
    assert metrics["dense"]["perplexity"] > 1 and metrics["dense"]["perplexity_ratio"] == 1
    assert metrics["compressed"]["perplexity_ratio"] != 1
