"""Baseline and fine-tuning on folders: trained, imported, repaired, refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file

from pipeline.data.files import load_split
from pipeline.evaluation.quality import evaluate_quality
from pipeline.lowrank import Budget, LowRankError, Tucker2, compress_
from pipeline.lowrank.forms.files import load, read_network, save
from pipeline.lowrank.tasks import Classification
from pipeline.machine.devices import FabricOptions, make_fabric
from pipeline.models.resnet import ResNet
from pipeline.training.baseline import make_baseline
from pipeline.training.curve import Curve
from pipeline.training.fine_tune import fine_tune
from pipeline.training.options import BaselineOptions, FineTuneOptions

SPEC = {
    "_target_": "pipeline.models.resnet.ResNet",
    "widths": [16],
    "blocks": [1],
    "hidden": 16,
    "pool": 2,
}
TRAINING: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 32,
    "learning_rate": 0.1,
    "weight_decay": 0.0,
}
TRAIN = BaselineOptions(source="train", **TRAINING)
TASK = Classification()


def tensors(folder: Path, name: str = "model") -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}.safetensors")


def build() -> ResNet:
    return ResNet(**{k: v for k, v in SPEC.items() if k != "_target_"})  # type: ignore[arg-type]


def test_trained_baseline(tmp_path: Path, digits: Path, fabric: Fabric) -> None:
    folder = tmp_path / "baseline"
    curve = make_baseline(folder, digits, SPEC, TRAIN, fabric=fabric, seed=0)
    model, validation = load(folder), load_split(digits, "validation")
    quality = evaluate_quality(model, validation, TASK, 500)
    assert quality["accuracy"] > 0.5
    assert quality["loss"] == pytest.approx(curve.epochs[curve.best_epoch].validation_loss)
    initial = build()
    initial.load_state_dict(tensors(folder, "init"))
    before = evaluate_quality(initial, validation, TASK, 500)["loss"]
    assert before == pytest.approx(curve.epochs[0].validation_loss, rel=1e-5)
    assert read_network(folder).builder == SPEC


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_imported_baseline(tmp_path: Path, digits: Path, fabric: Fabric, suffix: str) -> None:
    torch.manual_seed(3)
    state, path = build().state_dict(), tmp_path / f"mine{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    options = replace(TRAIN, source="checkpoint", weights=str(path), sha256=digest)
    told: list[int] = []
    folder = tmp_path / "baseline"
    curve = make_baseline(
        folder, digits, SPEC, options, fabric=fabric, seed=0, on_step=lambda m, s: told.append(s)
    )
    assert all(torch.equal(value, state[name]) for name, value in tensors(folder).items())
    assert not (folder / "init.safetensors").exists()
    assert (curve.steps, len(curve.epochs), curve.best_epoch, told) == ([], 1, 0, [0])
    quality = evaluate_quality(load(folder), load_split(digits, "validation"), TASK, 500)
    assert curve.epochs[0].validation_accuracy == quality["accuracy"]


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ({"classes": 4}, {}, r"the model gives \[1, 4\] .* digits has 10 classes"),
        ({}, {"source": "download"}, "source='download': unknown; choose one of train"),
        ({}, {"weights": "w.pt"}, "weights=w.pt: not used with source=train"),
        ({}, {"sha256": "ab"}, "sha256=ab: not used with source=train"),
        ({}, {"source": "checkpoint"}, "baseline.weights is null: source=checkpoint needs"),
        ({}, {"source": "checkpoint", "weights": "no.pt", "sha256": "ab"}, "no.pt: no such file"),
        ({}, {"source": "checkpoint", "weights": "no.pt"}, "no.pt: no such file"),
    ],
)
def test_refused(
    tmp_path: Path,
    digits: Path,
    fabric: Fabric,
    spec: dict[str, Any],
    options: dict[str, Any],
    message: str,
) -> None:
    folder = tmp_path / "baseline"
    with pytest.raises(LowRankError, match=message):
        make_baseline(folder, digits, SPEC | spec, replace(TRAIN, **options), fabric=fabric, seed=0)
    assert not (folder / "network.json").exists()


def test_wrong_checksum_and_wrong_keys(tmp_path: Path, digits: Path, fabric: Fabric) -> None:
    path = tmp_path / "mine.safetensors"
    save_file({"stem.weight": torch.ones(2)}, path)
    options = replace(TRAIN, source="checkpoint", weights=str(path))
    with pytest.raises(LowRankError, match=r"missing stem.0.weight.*unexpected stem.weight"):
        make_baseline(tmp_path / "b", digits, SPEC, options, fabric=fabric, seed=0)
    options = replace(options, sha256="0" * 64)
    with pytest.raises(LowRankError, match=r"expected 0000.*correct baseline.sha256"):
        make_baseline(tmp_path / "b", digits, SPEC, options, fabric=fabric, seed=0)


REPAIR = FineTuneOptions(
    **(TRAINING | {"epochs": 2, "learning_rate": 0.02}),
    parameters="all",
    adapter_rank=1,
    adapter_alpha=1.0,
    adapter_others=(),
    descent_points=2,
)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> tuple[Path, Path]:
    """(dense, compressed) network folders."""
    folder = tmp_path_factory.mktemp("networks")
    dense, compressed = folder / "baseline", folder / "compressed"
    fabric = make_fabric(FabricOptions(threads=1), seed=0)
    make_baseline(dense, digits, SPEC, TRAIN, fabric=fabric, seed=0)
    example = torch.zeros(1, 1, 8, 8)
    done = compress_(load(dense), Budget(params=0.6), example, methods=[Tucker2()])
    save(done.network, compressed, SPEC)
    return dense, compressed


@pytest.mark.parametrize(
    ("parameters", "objective", "augment"),
    [
        ("all", "labels", "none"),
        ("all", "distill", "none"),
        ("adapters", "labels", "none"),
        ("adapters", "distill", "crop"),
    ],
)
def test_fine_tuning(
    tmp_path: Path,
    digits: Path,
    networks: tuple[Path, Path],
    fabric: Fabric,
    parameters: str,
    objective: str,
    augment: str,
) -> None:
    dense, compressed = networks
    before, folder = tensors(compressed), tmp_path / "fine_tuned"
    options = replace(REPAIR, parameters=parameters, objective=objective, augment=augment)
    curve = fine_tune(folder, compressed, dense, digits, options, fabric=fabric, seed=1)
    after = tensors(folder)
    losses = [epoch.validation_loss for epoch in curve.epochs]
    assert curve.best_epoch > 0
    assert min(losses) < losses[0]
    assert [row.step for row in curve.descent] == [0, curve.steps[-1].step]
    assert {k: v.shape for k, v in after.items()} == {k: v.shape for k, v in before.items()}
    file, built = read_network(folder), read_network(compressed)
    assert replace(file, checksums=built.checksums) == built
    quality = evaluate_quality(load(folder), load_split(digits, "validation"), TASK, 500)
    assert quality["loss"] == pytest.approx(min(losses), rel=1e-5)
    total = sum(p.numel() for p in load(folder).parameters())
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert any(name.startswith("blocks.0.conv1.") for name in changed)
    if parameters == "adapters":
        assert 0 < curve.trained_params < total
        assert "head.2.weight" not in changed  # dense layers and vectors are frozen here
        assert "head.2.bias" not in changed
    else:
        assert curve.trained_params == total
        assert "head.2.weight" in changed


def test_no_repair_and_unknown_words(
    tmp_path: Path, digits: Path, networks: tuple[Path, Path], fabric: Fabric
) -> None:
    dense, compressed = networks

    def repaired(**changed: Any) -> Curve:
        options = replace(REPAIR, **changed)
        folder = tmp_path / "fine_tuned"
        return fine_tune(folder, compressed, dense, digits, options, fabric=fabric, seed=1)

    curve = repaired(parameters="none")
    assert len(curve.epochs) == 1
    assert curve.trained_params == 0
    copied, before = tensors(tmp_path / "fine_tuned"), tensors(compressed)
    assert all(torch.equal(value, before[name]) for name, value in copied.items())
    with pytest.raises(LowRankError, match=r"parameters='lora': unknown; choose one of"):
        repaired(parameters="lora")
    with pytest.raises(LowRankError, match=r"objective='kl': unknown; choose one of"):
        repaired(objective="kl")


def test_a_network_that_learns_its_own_answers_has_nothing_to_learn(
    tmp_path: Path, digits: Path, fabric: Fabric
) -> None:
    """Dropout would be an error of its own; with labels it stays."""
    spec = {"_target_": "tests.training.dropout_case.Dropping", "rate": 0.5}
    dense = tmp_path / "dense"
    make_baseline(dense, digits, spec, replace(TRAIN, epochs=1), fabric=fabric, seed=0)
    options = replace(REPAIR, epochs=1, distill_weight=1.0, learning_rate=1e-9)
    first = {}
    for objective in ("distill", "labels"):
        curve = fine_tune(
            tmp_path / objective,
            dense,
            dense,
            digits,
            replace(options, objective=objective),
            allow=["tests.training.dropout_case"],
            fabric=fabric,
            seed=0,
        )
        first[objective] = curve.steps[0].train_loss
    assert abs(first["distill"]) < 1e-5
    assert first["labels"] > curve.epochs[0].validation_loss
