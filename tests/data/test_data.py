"""Splits are disjoint, stratified and the same every time; what is read is normalised."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.data.calibration import (
    all_calibration,
    held_out_batches,
    statistics_batches,
)
from pipeline.data.files import DataFacts, load_facts, load_split
from pipeline.data.options import DataOptions
from pipeline.data.preparation import prepare_data
from pipeline.data.splits import Channels, Split, stratified_indices
from pipeline.lowrank import LowRankError
from pipeline.lowrank.tasks import Classification, Encoder
from tests.conftest import SIZES


def tensors_file(folder: Path, **replaced: Any) -> Path:
    """200 examples of 2 channels whose first value is their own number; classes of 120 and 80."""
    inputs = torch.zeros(200, 2, 3, 3)
    inputs[:, 0, 0, 0] = torch.arange(200)
    labels = torch.tensor([0, 1, 0, 1, 0]).repeat(40)
    arrays = {"inputs": inputs, "labels": labels} | replaced
    save_file({k: v for k, v in arrays.items() if v is not None}, folder / "mine.safetensors")
    return folder / "mine.safetensors"


def prepare(folder: Path, path: Path, seed: int = 0, **changed: Any) -> DataFacts:
    sizes = {"calibration": 20, "held_out": 0.0, "validation": 30, "test": 50}
    options = DataOptions(**({"name": "tensors", "path": str(path), **sizes} | changed))
    return prepare_data(folder / "data", options, Classification(), seed)


def test_splits_are_disjoint_complete_and_stratified(tmp_path: Path) -> None:
    meta = prepare(tmp_path, tensors_file(tmp_path))
    numbers = []
    for split, size in {"train": 100, "calibration": 20, "validation": 30, "test": 50}.items():
        stored = load_file(tmp_path / "data" / f"{split}.safetensors")
        assert len(stored["labels"]) == size == meta.sizes[split]
        assert int((stored["labels"] == 0).sum()) == pytest.approx(0.6 * size, abs=1)
        chosen = stored["inputs"][:, 0, 0, 0].long()
        # Label and input still belong together.
        assert torch.equal(stored["labels"], torch.tensor([0, 1, 0, 1, 0]).repeat(40)[chosen])
        numbers += chosen.tolist()
    assert sorted(numbers) == list(range(200))


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    path = tensors_file(tmp_path)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        prepare(tmp_path / name, path, seed=seed)
    first, again, other = (
        [(tmp_path / n / "data" / f).read_bytes() for f in ("test.safetensors", "data.json")]
        for n in "abc"
    )
    assert first == again
    assert first[0] != other[0]


def test_counts_stay_within_one_of_the_proportion() -> None:
    labels = torch.arange(7).repeat_interleave(torch.tensor([3, 50, 11, 200, 7, 29, 100]))
    indices = stratified_indices(labels, {"test": 37, "train": None}, rest="train", seed=3)
    assert len(indices["test"]) == 37
    for label in range(7):
        exact = 37 * int((labels == label).sum()) / 400
        assert abs(int((labels[indices["test"]] == label).sum()) - exact) < 1


def test_a_cap_on_train_is_kept_and_stratified(tmp_path: Path) -> None:
    assert prepare(tmp_path, tensors_file(tmp_path), train=40).sizes["train"] == 40
    assert load_split(tmp_path / "data", "train").labels.bincount().tolist() == [24, 16]


def test_a_source_keeps_its_own_test_split(tmp_path: Path) -> None:
    own = {"test_inputs": torch.ones(7, 2, 3, 3), "test_labels": torch.tensor([1] * 7)}
    meta = prepare(tmp_path, tensors_file(tmp_path, **own), test=10_000)
    sizes = {"train": 150, "calibration": 20, "held_out": 0, "validation": 30, "test": 7}
    assert meta.sizes == sizes
    assert load_split(tmp_path / "data", "test").labels.tolist() == [1] * 7


def test_digits_are_read_normalised_by_the_train_split(digits: Path) -> None:
    train = load_split(digits, "train")
    assert train.inputs.shape == (1077, 1, 8, 8)
    assert train.inputs.dtype == torch.float32
    assert float(train.inputs.mean()) == pytest.approx(0, abs=1e-5)
    assert float(train.inputs.std(correction=0)) == pytest.approx(1, abs=1e-5)
    chosen = torch.tensor([5, 2, 9])
    inputs, labels = load_split(digits, "train").batch(chosen)
    assert torch.equal(inputs, train.inputs[chosen])
    assert torch.equal(labels, train.labels[chosen])


def test_float_inputs_are_normalised_and_what_is_stored_is_left_alone() -> None:
    stored = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    channels = {"inputs": Channels((2.0, 20.0), (1.0, 10.0))}
    split = Split(stored, torch.tensor([0, 1]), channels)
    assert split.inputs.tolist() == [[-1.0, -1.0], [1.0, 1.0]]
    assert stored.tolist() == [[1.0, 10.0], [3.0, 30.0]]


def test_a_constant_channel_is_centred_only(tmp_path: Path) -> None:
    inputs = torch.rand(200, 2, 3, 3)
    inputs[:, 1] = 5.0
    meta = prepare(tmp_path, tensors_file(tmp_path, inputs=inputs))
    channels = meta.preprocessing.channels["inputs"]
    assert (channels.mean[1], channels.std[1]) == (5.0, 1.0)
    assert channels.std[0] == pytest.approx(12**-0.5, rel=0.05)  # of a uniform distribution


def test_data_json_says_what_the_contract_asks(digits: Path) -> None:
    facts = load_facts(digits)
    assert (facts.name, facts.classes, facts.input_shape) == ("digits", 10, (1, 8, 8))
    assert facts.sizes == SIZES | {"train": 1077, "calibration": 135, "held_out": 45}
    assert facts.class_names == tuple("0123456789")
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in facts.sha256.values())


def test_the_last_calibration_examples_are_held_out(tmp_path: Path) -> None:
    path = tensors_file(tmp_path)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, held_out in ((whole, 0.0), (parts, 0.25)):
        folder.mkdir()
        prepare(folder, path, held_out=held_out)
    everything = load_split(whole / "data", "calibration").inputs
    assert torch.equal(all_calibration(parts / "data").inputs, everything)
    statistics = statistics_batches(parts / "data", 4)
    assert [len(batch) for batch in statistics] == [4, 4, 4, 3]
    assert torch.equal(torch.cat(statistics), everything[:15])
    few = statistics_batches(parts / "data", 4, most=6)
    assert torch.equal(torch.cat(few), everything[:6])
    assert torch.equal(torch.cat(held_out_batches(parts / "data", 4, most=99)), everything[15:])
    assert [len(batch) for batch in held_out_batches(parts / "data", 4, most=3)] == [3]
    assert held_out_batches(whole / "data", 4, most=9) == []


def test_images_are_for_classifiers(tmp_path: Path) -> None:
    options = DataOptions(name="digits")
    with pytest.raises(LowRankError, match="the task encoder has no use for"):
        prepare_data(tmp_path / "data", options, Encoder(), seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration": 0}, "calibration=0: choose a number of at least 1"),
        ({"train": 0}, "train=0: choose a number of at least 1"),
        ({"test": 150}, "200 examples are too few for .*data.test=150 and a train split"),
        ({"train": 101}, "200 examples are too few for .*data.train=101; ask for smaller"),
        ({"name": "cifar"}, "name='cifar': unknown; choose one of digits, fashion_mnist"),
    ],
)
def test_impossible_sizes(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(LowRankError, match=message):
        prepare(tmp_path, tensors_file(tmp_path), **options)
    assert not (tmp_path / "data").exists()


def broken(inputs: float | None = None, label: int | None = None) -> dict[str, torch.Tensor]:
    values, labels = torch.rand(200, 2, 3, 3), torch.tensor([0, 1]).repeat(100)
    if inputs is not None:
        values[17, 1, 2, 0] = inputs
    if label is not None:
        labels[3] = label
    return {"inputs": values, "labels": labels}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (broken(inputs=float("nan")), r"inputs\[17\] holds NaN or Inf; clean the data"),
        (broken(inputs=float("inf")), r"inputs\[17\] holds NaN or Inf"),
        (broken(label=-1), r"labels\[3\] is -1, out of range 0…1"),
        (broken(label=5), "no example has label 2 of 0…5; number the classes from 0"),
        (broken() | {"labels": torch.zeros(200).long()}, "all labels are 0"),
        (broken() | {"labels": torch.zeros(199).long()}, "200 inputs but 199 labels"),
        (
            {"test_inputs": torch.rand(3, 2, 3, 3), "test_labels": torch.tensor([0, 1, 2])},
            r"test_labels\[2\] is 2, out of range 0…1",
        ),
        (
            {"test_inputs": torch.rand(3, 2, 4, 3), "test_labels": torch.tensor([0, 1, 1])},
            r"test_inputs have shape \(2, 4, 3\), inputs \(2, 3, 3\)",
        ),
        ({"inputs": torch.rand(0, 2), "labels": torch.zeros(0).long()}, "labels is empty"),
    ],
)
def test_invalid_examples(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(LowRankError, match=message):
        prepare(tmp_path, tensors_file(tmp_path, **arrays))
    assert not (tmp_path / "data").exists()


def test_a_class_that_train_would_lack(tmp_path: Path) -> None:
    labels = torch.zeros(200).long()
    labels[0] = 1
    with pytest.raises(LowRankError, match=r"the train split has no example of class 1"):
        prepare(tmp_path, tensors_file(tmp_path, labels=labels), calibration=120, validation=10)


def test_reading_before_preparing(tmp_path: Path) -> None:
    with pytest.raises(LowRankError, match=r"data.json: cannot be read .*; run the stage prepare"):
        load_split(tmp_path, "train")
    with pytest.raises(LowRankError, match=r"split 'holdout': unknown; choose one of train, cal"):
        load_split(tmp_path, "holdout")
