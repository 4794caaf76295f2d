"""An example that cannot be meant is one line that names it; what only looks odd is read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.data.files import load_facts, load_split
from pipeline.data.options import DataOptions
from pipeline.data.preparation import prepare_data
from pipeline.lowrank import LowRankError
from pipeline.lowrank.tasks import get_task
from tests.data.source_case import write_images

SIZES: dict[str, Any] = {"calibration": 8, "validation": 4, "test": 8}


def prepare(folder: Path, options: dict[str, Any], task: str = "classification") -> Path:
    prepare_data(folder / "data", DataOptions(**(SIZES | options)), get_task(task), 0)
    return folder / "data"


def refused(folder: Path, options: dict[str, Any], message: str, task: str) -> None:
    with pytest.raises(LowRankError, match=message) as caught:
        prepare(folder, options, task)
    told = str(caught.value)
    assert "\n" not in told and len(told) < 600
    assert not (folder / "data").exists()


def table(folder: Path, suffix: str = "jsonl", **third: Any) -> dict[str, Any]:
    """40 rows, of which the third has other values."""
    rows = [{"a": n, "b": n / 2, "label": n % 2} for n in range(40)]
    rows[3] |= third
    path = folder / f"t.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        lines = [",".join("" if v is None else str(v) for v in row.values()) for row in rows]
        path.write_text("\n".join(["a,b,label", *lines]))
    return {"name": "table", "path": str(path)}


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("third", "task", "message"),
    [
        ({"a": None}, "classification", r"column 'a', row 3 is None; give a finite number"),
        ({"a": "red"}, "classification", r"column 'a', row 3 is 'red'; give a finite"),
        ({"label": None}, "classification", r"the label of row 3 is None"),
        ({"label": 0.5}, "classification", r"the label of row 3 is 0.5"),
        ({"label": None}, "regression", r"column 'label', row 3 is None; give a finite number"),
        ({"label": "red"}, "regression", r"column 'label', row 3 is 'red'; give a finite"),
    ],
)
def test_a_row_of_a_table(
    tmp_path: Path, suffix: str, third: dict[str, Any], task: str, message: str
) -> None:
    refused(tmp_path, table(tmp_path, suffix, **third), message, task)


@pytest.mark.parametrize(
    ("third", "message"),
    [
        ({"a": float("nan")}, r"column 'a', row 3 is nan"),
        ({"a": float("inf")}, r"column 'a', row 3 is inf"),
        ({"a": 10**400}, r"column 'a', row 3 is 1000.*…; give a finite number"),
        ({"a": [1, 2]}, r"column 'a', row 3 is \[1, 2\]"),
        ({"label": float("nan")}, r"the label of row 3 is nan"),
    ],
)
def test_a_number_that_is_none(tmp_path: Path, third: dict[str, Any], message: str) -> None:
    refused(tmp_path, table(tmp_path, **third), message, "classification")


def test_a_column_that_is_missing(tmp_path: Path) -> None:
    options = table(tmp_path)
    for key in ("columns", "labels"):
        told = rf"data.{key}: no column 'c' among a, b, label; correct data.{key}"
        refused(tmp_path, options | {key: ("c",)}, told, "classification")
    path = Path(options["path"])
    path.write_text(path.read_text().replace('"b": 1.5, ', ""))
    refused(tmp_path, options, r"row 3 has no 'b'; give every row the same", "classification")


@pytest.mark.parametrize("label", [2**31 - 1, 2**62])
def test_a_huge_label_is_no_count_of_classes(tmp_path: Path, label: int) -> None:
    """Neither memory for 2⁶² classes nor for their names."""
    save_file(
        {"inputs": torch.rand(40, 3), "labels": torch.tensor([0, label] * 20)},
        tmp_path / "t.safetensors",
    )
    options = {"name": "tensors", "path": str(tmp_path / "t.safetensors")}
    message = rf"no example has label 1 of 0…{label}; number the classes from 0 without gaps"
    refused(tmp_path, options, message, "classification")
    # In a table the numbers are names, and there are three of them.
    assert load_facts(prepare(tmp_path, table(tmp_path, label=label))).classes == 3


@pytest.mark.parametrize(
    ("arrays", "task", "message"),
    [
        ({"inputs": torch.zeros(40, 0)}, "classification", "inputs have shape .0., without a sing"),
        ({"inputs": torch.zeros(40, 3, 0, 8)}, "classification", "without a single value"),
        ({"labels": torch.rand(40)}, "classification", "labels is torch.float32 of shape"),
        (
            {"labels": torch.full((40,), float("nan"))},
            "regression",
            r"labels\[0\] holds NaN or Inf; clean",
        ),
        ({"labels": torch.rand(40, 3)}, "multilabel", r"labels\[0\] is not 0 or 1 for each class"),
        ({"labels": torch.zeros(40, 2, 2)}, "classification", "give one integer class number"),
        ({"labels": torch.zeros(39)}, "regression", "40 inputs but 39 labels"),
    ],
)
def test_an_array(tmp_path: Path, arrays: dict[str, Any], task: str, message: str) -> None:
    given = {"inputs": torch.rand(40, 3), "labels": torch.arange(40) % 2} | arrays
    save_file(given, tmp_path / "t.safetensors")
    options = {"name": "tensors", "path": str(tmp_path / "t.safetensors")}
    refused(tmp_path, options, message, task)


def damage(place: Path) -> None:
    (place / "a/0.png").write_bytes((place / "a/0.png").read_bytes()[:40])


def deepen(place: Path) -> None:
    Image.new("I;16", (9, 7), 70).save(place / "a/0.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage, r"a/0.png: cannot be read as an image"),
        (deepen, r"a/0.png: has the mode I;16, more than eight bits a channel; convert it"),
        (lambda p: (p / "a/notes.txt").write_text("x"), r"notes.txt: neither an image nor a sound"),
        (lambda p: (p / "d").mkdir(), r"images/d: holds no images; give some, or remove"),
        (lambda p: (p / "a/0.png").rename(p / "0.png"), r"0.png: lies beside the folders"),
    ],
)
def test_a_folder_of_images(tmp_path: Path, spoil: Callable[[Path], Any], message: str) -> None:
    options = write_images(tmp_path)
    spoil(tmp_path / "images")
    refused(tmp_path, options, message, "classification")


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    options = write_images(tmp_path)
    Image.new("L", (5, 5)).save(tmp_path / "images/a/0.png")
    told = r"\[1, 7, 9\].*\[1, 5, 5\]; give examples of one shape and type, set data.size"
    refused(tmp_path, options | {"size": None}, told, "classification")
    prepare(tmp_path, options)


def test_folders_of_splits_are_no_classes(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("L", (5, 5)).save(tmp_path / "images" / name / "0.png")
    options = {"name": "image_folder", "path": str(tmp_path / "images")}
    refused(tmp_path, options, r"test, train are splits, not classes", "classification")


def test_sounds_name_the_package_that_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (tmp_path / "sounds/a").mkdir(parents=True)
    (tmp_path / "sounds/a/0.wav").write_bytes(b"RIFF")
    options = {"name": "image_folder", "path": str(tmp_path / "sounds")}
    refused(tmp_path, options, "0.wav: sounds need pip install soundfile", "classification")


def test_unlabelled_values_are_split_for_every_task(tmp_path: Path) -> None:
    save_file({"inputs": torch.rand(40, 3)}, tmp_path / "t.safetensors")
    options = {"name": "tensors", "path": str(tmp_path / "t.safetensors")}
    for task in ("classification", "regression", "reconstruction"):
        assert load_split(prepare(tmp_path, options, task), "train").labels is None
