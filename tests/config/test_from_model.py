"""A network that was not trained here says how its inputs are made, or the user does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.compose import compose_params
from pipeline.config.pins import pin
from pipeline.data.preprocessing import Preprocessing, save_preprocessing
from pipeline.data.splits import Channels
from pipeline.lowrank.errors import LowRankError
from pipeline.machine.checksums import content_sha256
from tests.imports import ROOT

OWN = ["data=tensors", "data.path=d.npz", "model=custom", "model._target_=torch.nn.Linear"]
CHECKPOINT = [*OWN, "baseline=checkpoint"]


def data_of(*overrides: str) -> dict[str, Any]:
    data: dict[str, Any] = compose_params(ROOT / "conf", list(overrides))["data"]
    return data


@pytest.mark.parametrize("source", ["baseline=checkpoint", "baseline=pretrained"])
def test_a_network_from_elsewhere_is_never_normalised_by_guess(source: str) -> None:
    weights = ["baseline.weights=w.pt"] if source.endswith("checkpoint") else []
    with pytest.raises(LowRankError, match=r"data.normalise is not set, and baseline.source=") as e:
        data_of(*OWN, source, *weights)
    assert "data.mean, data.std" in str(e.value) and "\n" not in str(e.value)
    for choice in (["data.normalise=none"], ["data.mean=[0.5]", "data.std=[0.5]"]):
        data_of(*OWN, source, *weights, *choice)
    data_of(*OWN)  # trained here


def test_a_network_that_was_saved_here_brings_its_own(tmp_path: Path) -> None:
    weights = f"baseline.weights={tmp_path / 'model.safetensors'}"
    channels = {"inputs": Channels((0.1, 0.2), (0.3, 0.4))}
    save_preprocessing(tmp_path, Preprocessing(channels=channels))
    found = data_of(*CHECKPOINT, weights)
    assert (found["mean"], found["std"]) == ([0.1, 0.2], [0.3, 0.4])
    # What the user says comes first.
    assert data_of(*CHECKPOINT, weights, "data.normalise=none")["mean"] is None
    save_preprocessing(tmp_path, Preprocessing())
    assert data_of(*CHECKPOINT, weights)["normalise"] == "none"


def transformer(folder: Path, **config: Any) -> list[str]:
    (folder / "config.json").write_text(json.dumps(config))
    return ["model=huggingface", f"model.name={folder}", "baseline=pretrained"]


def test_a_transformer_brings_its_constants_and_its_processor(tmp_path: Path) -> None:
    values = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1], "do_rescale": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    model = [*transformer(tmp_path), "task=classification"]
    found = data_of(*model, "data=tensors", "data.path=d.npz")
    assert (found["mean"], found["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.2, 0.1])
    params = compose_params(ROOT / "conf", [*model, "data=image_folder", f"data.path={tmp_path}"])
    assert params["data"]["processor"] == str(tmp_path)
    assert pin(params, tmp_path)["data"]["processor_sha256"] == content_sha256(tmp_path)


def test_timm_brings_its_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def pretrained_cfg(name: str, **options: Any) -> Any:
        asked.append(name)
        return SimpleNamespace(mean=(0.4, 0.4, 0.5), std=(0.2, 0.3, 0.2), input_size=(3, 96, 64))

    timm = SimpleNamespace(get_pretrained_cfg=pretrained_cfg)
    monkeypatch.setitem(sys.modules, "timm", timm)
    model = ["model._target_=timm.create_model", "+model.model_name=resnet10t"]
    found = data_of(
        "data=image_folder", "data.path=x", "model=custom", *model, "baseline=pretrained"
    )
    assert asked[0] == "resnet10t"
    assert (found["mean"], found["size"]) == ([0.4, 0.4, 0.5], [96, 64])


def test_classes_are_those_of_the_model(tmp_path: Path) -> None:
    model = transformer(tmp_path, id2label={"1": "neg", "0": "pos"})
    text = ["task=sequence_classification", "data=text", "data.path=t.jsonl"]
    assert data_of(*model, *text)["class_names"] == ["pos", "neg"]
    assert data_of(*model, *text, "data.class_names=[a,b]")["class_names"] == ["a", "b"]
    unnamed = transformer(tmp_path, id2label={"0": "LABEL_0", "1": "LABEL_1"})
    assert data_of(*unnamed, *text)["class_names"] is None


def test_the_code_of_a_dataset_and_of_a_transform_is_pinned(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Net: ...\nclass Data: ...\n")
    (tmp_path / "turned.py").write_text("def turn(x): ...\n")
    own = ["data=dataset", "data.dataset._target_=mine.Data"]
    turned = "data.transform={_target_: turned.turn}"
    both = pin(compose_params(ROOT / "conf", [*own, turned]), tmp_path)["data"]["code_sha256"]
    one = pin(compose_params(ROOT / "conf", own), tmp_path)["data"]["code_sha256"]
    assert one == content_sha256(tmp_path / "mine.py") and both not in (one, None)
    (tmp_path / "turned.py").write_text("def turn(x): return x\n")
    assert (
        pin(compose_params(ROOT / "conf", [*own, turned]), tmp_path)["data"]["code_sha256"] != both
    )


def test_a_class_that_moves_to_another_folder_is_another_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/1.png").write_text("x")
    first = content_sha256(tmp_path)
    (tmp_path / "a/1.png").rename(tmp_path / "b/1.png")
    assert content_sha256(tmp_path) != first
