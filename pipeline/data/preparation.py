"""Splits, made once: examples are read, checked, split and written with checksums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.data.files import DATA_JSON, DataFacts
from pipeline.data.options import DataOptions
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.sources import SOURCES, RawData, check_examples
from pipeline.data.splits import Channels, Splits, stratified_indices
from pipeline.data.text import read_token_splits
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks import Task
from pipeline.lowrank.typed import save_record


def prepare_data(folder: Path, options: DataOptions, task: Task, seed: int) -> DataFacts:
    """Reads a source and writes its disjoint splits and data.json, which is returned, to `folder`.

    Labelled examples are stratified; text is split by `text.read_token_splits`, with a split "ood"
    where there is a second text. `options.train` None takes all examples that the others leave;
    `options.test` is ignored where the source has its own test split. The calibration examples
    are two splits: "held_out", the last ones, which no statistic sees, and "calibration". The same
    arguments give the same files, bit for bit. Nothing is written before everything is checked.

    Raises LowRankError for missing, corrupted or invalid data and for impossible sizes.
    """
    sizes = {k: getattr(options, k) for k in ("calibration", "validation", "test", "train")}
    if options.name in SOURCES:
        splits, facts = _read_images(options, task, sizes, seed)
    else:
        splits, facts = read_token_splits(options, task, sizes, seed)
    splits = _with_held_out(splits, options.held_out)
    facts = replace(facts, sizes={key: len(split["inputs"]) for key, split in splits.items()})
    folder.mkdir(parents=True, exist_ok=True)
    for key, tensors in splits.items():
        save_file(tensors, folder / f"{key}.safetensors")
    save_record(folder / DATA_JSON, facts)
    return facts


def _with_held_out(splits: Splits, share: float) -> Splits:
    """The splits with the calibration split in two, "held_out" being the last `share` of it."""
    parts: Splits = {}
    for name, split in splits.items():
        if name != "calibration":
            parts[name] = split
            continue
        count = len(split["inputs"])
        kept = count - round(share * count)
        for part, rows in (("calibration", slice(kept)), ("held_out", slice(kept, None))):
            parts[part] = {key: value[rows].contiguous() for key, value in split.items()}
    return parts


def channel_statistics(inputs: Tensor) -> Channels:
    """Mean and standard deviation of each channel (dimension 1); uint8 counts as x/255.

    A channel without variation gets the deviation 1, so that it is only centred.
    """
    means, deviations = [], []
    for channel in inputs.transpose(0, 1):
        if inputs.dtype == torch.uint8:  # exact, and without eight bytes a pixel
            counts = torch.bincount(channel.flatten(), minlength=256).double()
            levels = torch.arange(256, dtype=torch.float64) / 255
            weights = counts / counts.sum()
            mean = float(weights @ levels)
            deviation = float(weights @ (levels - mean) ** 2) ** 0.5
        else:
            values = channel.double()
            mean, deviation = float(values.mean()), float(values.std(correction=0))
        means.append(mean)
        deviations.append(deviation if deviation > 0 else 1.0)
    return Channels(tuple(means), tuple(deviations))


def _read_images(
    options: DataOptions, task: Task, sizes: Mapping[str, int | None], seed: int
) -> tuple[Splits, DataFacts]:
    if (task.inputs, task.labels) != ("values", "class"):
        raise LowRankError(
            f"data.name={options.name}: holds values with a class each, which the task {task.name} "
            "has no use for; choose data=text, or the task classification"
        )
    raw = SOURCES[options.name](options.path, options.sha256)
    check_examples(raw)
    splits = _split(raw, sizes, seed)
    channels = channel_statistics(splits["train"]["inputs"])
    return splits, DataFacts(
        name=options.name,
        task=task.name,
        source=raw.source,
        input_shape=tuple(raw.inputs.shape[1:]),
        sizes={},
        sha256=raw.sha256,
        classes=raw.classes,
        class_names=tuple(raw.class_names),
        label_shape=(),
        preprocessing=Preprocessing({"inputs": channels}),
    )


def _split(raw: RawData, sizes: Mapping[str, int | None], seed: int) -> Splits:
    own_test = raw.test_inputs is not None and raw.test_labels is not None
    wanted = {k: v for k, v in sizes.items() if not (k == "test" and own_test)}
    indices = stratified_indices(raw.labels, wanted, rest="train", seed=seed)
    splits = {
        split: {"inputs": raw.inputs[chosen].contiguous(), "labels": raw.labels[chosen]}
        for split, chosen in indices.items()
    }
    if raw.test_inputs is not None and raw.test_labels is not None:
        splits["test"] = {
            "inputs": raw.test_inputs.contiguous(),
            "labels": raw.test_labels.contiguous(),
        }
    absent = (torch.bincount(splits["train"]["labels"], minlength=raw.classes) == 0).nonzero()
    if len(absent):
        raise LowRankError(
            f"{raw.source}: the train split has no example of class {int(absent[0])}; give more "
            "examples of it, or smaller data.calibration, data.validation, data.test"
        )
    return splits
