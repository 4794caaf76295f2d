"""Preprocessing is the user's: constants, a transform, a processor, statistics or none; it is
written down, and a network reads what it was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.data.files import load_facts, load_split
from pipeline.data.options import DataOptions
from pipeline.data.preparation import prepare_data
from pipeline.data.preprocessing import load_preprocessing, save_preprocessing
from pipeline.lowrank import LowRankError
from pipeline.lowrank.tasks import get_task
from tests.data.source_case import write_images

SIZES: dict[str, Any] = {"calibration": 8, "validation": 4, "test": 4}
BYTES = torch.arange(40 * 2 * 3, dtype=torch.int32).reshape(40, 2, 3).to(torch.uint8)


def prepare(folder: Path, options: dict[str, Any], task: str = "classification") -> Path:
    prepare_data(folder / "data", DataOptions(**(SIZES | options)), get_task(task), 0)
    return folder / "data"


def own(folder: Path) -> dict[str, Any]:
    save_file({"inputs": BYTES, "labels": torch.arange(40) % 2}, folder / "t.safetensors")
    return {"name": "tensors", "path": str(folder / "t.safetensors")}


def raw(data: Path) -> Tensor:
    stored = load_split(data, "train").stored
    assert isinstance(stored, Tensor) and stored.dtype == torch.uint8, "one byte a value on disk"
    return stored.double() / 255


@pytest.mark.parametrize(
    ("options", "mean", "std"),
    [
        ({"normalise": "none"}, (0.0, 0.0), (1.0, 1.0)),
        ({"mean": (0.5,), "std": (0.25,)}, (0.5, 0.5), (0.25, 0.25)),
        ({"mean": (0.485, 0.1), "std": (0.229, 2)}, (0.485, 0.1), (0.229, 2.0)),
    ],
)
def test_constants_are_what_the_network_reads(
    tmp_path: Path, options: dict[str, Any], mean: Any, std: Any
) -> None:
    data = prepare(tmp_path, own(tmp_path) | options)
    by = [torch.tensor(values, dtype=torch.float64)[:, None] for values in (mean, std)]
    found = load_split(data, "train").inputs
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), (raw(data) - by[0]) / by[1], atol=1e-6)


def test_a_transform_makes_the_inputs_and_nothing_normalises_them_again(tmp_path: Path) -> None:
    spec = {"_target_": "torch.mul", "other": 2.5}
    data = prepare(tmp_path, own(tmp_path) | {"transform": spec})
    facts, split = load_facts(data), load_split(data, "train")
    assert facts.preprocessing.transform == spec and not facts.preprocessing.channels
    (tmp_path / "plain").mkdir()
    plain = load_split(prepare(tmp_path / "plain", own(tmp_path)), "train")
    assert torch.equal(split.inputs, plain.stored * 2.5)
    assert torch.equal(split.labels, plain.labels)


def test_a_transform_that_fails_names_the_example(tmp_path: Path) -> None:
    spec = {"_target_": "torch.reshape", "shape": [7]}
    with pytest.raises(LowRankError, match=r"data.transform: RuntimeError for inputs\[0\]"):
        prepare(tmp_path, own(tmp_path) | {"transform": spec})
    with pytest.raises(LowRankError, match=r"data.transform._target_=torch.nothing: cannot be"):
        prepare(tmp_path, own(tmp_path) | {"transform": {"_target_": "torch.nothing"}})


def test_a_processor_of_transformers_reads_images(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    config = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 5, "width": 5},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit/preprocessor_config.json").write_text(json.dumps(config))
    options = write_images(tmp_path) | {"processor": str(tmp_path / "vit")}
    data = prepare(tmp_path, {k: v for k, v in options.items() if k not in ("size", "colour")})
    facts, train = load_facts(data), load_split(data, "train").inputs
    assert facts.input_shape == (3, 5, 5)
    assert facts.preprocessing.processor is not None
    assert facts.preprocessing.processor["image_mean"] == [0.5] * 3
    # Grey levels 0…59 of 255, on −1…1.
    assert float(train.min()) >= -1 and float(train.max()) <= 2 * 59 / 255 - 1 + 1e-6


@pytest.mark.parametrize(
    ("resize", "share"), [("crop", 8 * 8 / 144), ("pad", 4 * 4 / 144), ("squash", 8 * 4 / 144)]
)
def test_images_and_masks_keep_their_places(tmp_path: Path, resize: Any, share: float) -> None:
    """A bright square in the middle has class 1 in the mask, whatever is done to the aspect."""
    for number in range(20):
        for kind, low, high in (("images", 10, 250), ("masks", 0, 1)):
            (tmp_path / "m" / kind).mkdir(parents=True, exist_ok=True)
            image = Image.new("L", (24, 12), low)
            image.paste(high, (8, 2, 16, 10))
            image.save(tmp_path / "m" / kind / f"{number}.png")
    options: dict[str, Any] = {"name": "image_folder", "path": str(tmp_path / "m")}
    options |= {"colour": "grey", "size": (12,), "resize": resize, "normalise": "none"}
    task: Any = SimpleNamespace(name="segmentation", inputs="values", labels="class map")
    prepare_data(tmp_path / "d/data", DataOptions(**options, **SIZES), task, 0)
    stored = load_file(tmp_path / "d/data/train.safetensors")
    inputs, labels = stored["inputs"] / 255, stored["labels"]
    assert labels.shape == (4, 12, 12) and labels.dtype == torch.int64
    bright = inputs[:, 0] > 0.5
    assert torch.equal(bright, labels == 1)
    assert float(bright.float().mean()) == pytest.approx(share, abs=1e-6)


def test_preprocessing_travels_as_it_is(tmp_path: Path) -> None:
    data = prepare(tmp_path, write_images(tmp_path) | {"mean": (0.5,), "std": (0.5,)})
    first = load_facts(data).preprocessing
    assert (first.size, first.colour, first.resize) == ((4, 4), "grey", "crop")
    save_preprocessing(tmp_path / "net", first)
    assert load_preprocessing(tmp_path / "net") == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5,)}, r"mean=\[0.5\]: give mean and std, or none"),
        ({"mean": (0.5,), "std": (0.0,)}, "choose numbers above 0"),
        ({"mean": (0.5,), "std": (1.0,), "normalise": "none"}, "not together with mean and std"),
        ({"transform": {"target": "x"}}, "give its _target_, an import path"),
        ({"mean": (0.5,) * 3, "std": (1.0,) * 3}, "3 constants, and the examples, of shape"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(LowRankError, match=message) as caught:
        prepare(tmp_path, own(tmp_path) | options)
    assert "\n" not in str(caught.value)
