"""Every source keeps one contract: disjoint splits of the asked sizes, labels that stay with their
examples, the same files for the same seed, checksums, and errors in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pipeline.data.files import load_facts, load_split
from pipeline.data.options import DataOptions
from pipeline.data.preparation import prepare_data
from pipeline.lowrank import LowRankError
from pipeline.lowrank.tasks import get_task
from tests.data.source_case import CASES, COUNT, Case, dataset

SIZES: dict[str, Any] = {"calibration": 12, "validation": 6, "test": 9, "normalise": "none"}
SPLITS = ("train", "calibration", "held_out", "validation", "test")
# What the user's own code reads is pinned by data.path, where that is given.
WITH_FILES = [case for case in CASES if not case.name.startswith(("dataset", "stream"))]
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def prepare(
    folder: Path, options: dict[str, Any], seed: int = 0, task: str = "classification"
) -> Path:
    prepare_data(folder / "data", DataOptions(**(SIZES | options)), get_task(task), seed)
    return folder / "data"


@by_case
def test_splits_are_disjoint_and_complete_and_labels_stay(case: Case, tmp_path: Path) -> None:
    data = prepare(tmp_path, case.write(tmp_path))
    facts, seen = load_facts(data), []
    for name in SPLITS:
        inputs, labels = (split := load_split(data, name)).batch(slice(None))
        numbers = case.number(inputs)
        assert len(split) == facts.sizes[name]
        assert torch.equal(labels, numbers % 3), name
        assert labels.dtype == torch.int64
        seen += numbers.tolist()
    assert sorted(seen) == list(range(COUNT))
    assert facts.sizes == {"train": 33, "calibration": 9, "held_out": 3, "validation": 6, "test": 9}
    assert facts.classes == case.classes
    assert not [place for place in tmp_path.iterdir() if place.name.startswith(".")]


@by_case
def test_the_same_seed_gives_the_same_files(case: Case, tmp_path: Path) -> None:
    options, files = case.write(tmp_path), []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        data = prepare(tmp_path / name, options, seed)
        files.append([(data / f"{split}.safetensors").read_bytes() for split in SPLITS])
    assert files[0] == files[1]
    assert files[0][0] != files[2][0]


@by_case
def test_impossible_sizes_are_one_line_and_nothing_is_written(case: Case, tmp_path: Path) -> None:
    with pytest.raises(LowRankError, match=r"60 examples are too few for data\.calib") as caught:
        prepare(tmp_path, case.write(tmp_path) | {"calibration": 80})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()
    assert not [place for place in tmp_path.iterdir() if place.name.startswith(".")]


@pytest.mark.parametrize("case", WITH_FILES, ids=lambda case: case.name)
def test_a_checksum_names_what_is_read(case: Case, tmp_path: Path) -> None:
    options = case.write(tmp_path)
    facts = load_facts(prepare(tmp_path, options))
    ((_, digest),) = facts.sha256.items()
    assert len(digest) == 64
    prepare(tmp_path, options | {"sha256": digest})
    with pytest.raises(LowRankError, match="the checksum is sha256"):
        prepare(tmp_path, options | {"sha256": "0" * 64})


@pytest.mark.parametrize("target", ["Mine", "Stream"])
def test_a_limit_draws_a_sample(tmp_path: Path, target: str) -> None:
    options = dataset(target, count=600)(tmp_path) | {"limit": 60}
    data = prepare(tmp_path, options)
    numbers = torch.cat([load_split(data, name).stored[:, 0, 0] for name in SPLITS])
    assert len(set(numbers.tolist())) == 60
    # A uniform sample of 0…599; ten deviations of its mean would be 224.
    assert 150 < float(numbers.mean()) < 450


def test_a_data_module_has_its_own_test_split(tmp_path: Path) -> None:
    data = prepare(tmp_path, dataset("Module")(tmp_path))
    assert load_split(data, "test").stored[:, 0, 0].tolist() == [*range(100, 106)]
    assert load_facts(data).sizes["train"] == COUNT - 12 - 6


def test_other_arguments_give_the_test_split(tmp_path: Path) -> None:
    options = dataset("Mine")(tmp_path) | {"test_dataset": {"first": 30, "count": 3}}
    data = prepare(tmp_path, options)
    assert load_split(data, "test").stored[:, 0, 0].tolist() == [30, 31, 32]


@pytest.mark.parametrize("task", ["classification", "encoder"])
def test_unlabelled_examples_are_split_without_labels(tmp_path: Path, task: str) -> None:
    data = prepare(tmp_path, dataset("Mine", form="alone")(tmp_path), task=task)
    assert load_split(data, "train").labels is None
    assert load_facts(data).label_shape is None


def test_a_data_set_of_images_has_its_own_classes_and_test_split(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["zebra", "ant"])}
    )

    def made(count: int) -> Any:
        images = [Image.new("RGB", (9, 7), (number, 0, 0)) for number in range(count)]
        labels = [number % 2 for number in range(count)]
        return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)

    saved = datasets.DatasetDict({"train": made(40), "test": made(6)})
    saved.save_to_disk(str(tmp_path / "hub"))
    data = prepare(tmp_path, {"name": "hub", "path": str(tmp_path / "hub"), "size": (4,)})
    facts, test = load_facts(data), load_split(data, "test")
    assert facts.class_names == ("zebra", "ant") and facts.input_shape == (3, 4, 4)
    assert facts.own_test and facts.sizes["test"] == 6
    assert test.stored[:, 0, 0, 0].tolist() == [*range(6)]
    assert test.labels.tolist() == [0, 1] * 3
