"""Splits, made once: examples are read, checked, split and written with checksums."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.data.files import DATA_JSON, DataFacts
from pipeline.data.options import DataOptions
from pipeline.data.preprocessing import (
    channel_statistics,
    constant_channels,
)
from pipeline.data.rows import Rows, save_rows
from pipeline.data.sources import SOURCES, RawData, Request, check_examples
from pipeline.data.splits import Channels, Splits, named, stratified_indices
from pipeline.data.text import read_token_splits
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks import Task
from pipeline.lowrank.tasks.base import DType, Shape
from pipeline.lowrank.typed import save_record
from pipeline.lowrank.typed.content import checksums_of


def prepare_data(folder: Path, options: DataOptions, task: Task, seed: int) -> DataFacts:
    """Reads a source and writes its disjoint splits and data.json, which is returned, to `folder`.

    Examples of classes are stratified, others drawn; text is split by `text.read_token_splits`,
    with a split "ood" where there is a second text. `options.train` None takes all examples that
    the others leave; `options.test` is ignored where the source has its own test split. The
    calibration examples are two splits: "held_out", the last ones, which no statistic sees, and
    "calibration". The same arguments give the same files, bit for bit. Nothing is written before
    everything is checked, and nothing is in memory as a whole that the source has as a file.

    Raises LowRankError for missing, corrupted or invalid data and for impossible sizes.
    """
    sizes = {k: getattr(options, k) for k in ("calibration", "validation", "test", "train")}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".reading-") as scratch:
        if options.name in SOURCES:
            request = Request(options, task, seed, Path(scratch))
            splits, facts = _read_examples(request, sizes)
        else:
            texts, facts = read_token_splits(options, task, sizes, seed)
            splits = {k: {n: Rows(v) for n, v in split.items()} for k, split in texts.items()}
        splits = _with_held_out(splits, options.held_out)
        facts = replace(facts, sizes={key: _count(split) for key, split in splits.items()})
        folder.mkdir(parents=True, exist_ok=True)
        for key, tensors in splits.items():
            save_rows(folder / f"{key}.safetensors", tensors)
        checksums = checksums_of(folder, [f"{key}.safetensors" for key in splits])
        facts = replace(facts, checksums=checksums)
        save_record(folder / DATA_JSON, facts)
    return facts


def _count(split: Mapping[str, Rows]) -> int:
    return len(next(iter(split.values())))


def _with_held_out(splits: Splits, share: float) -> Splits:
    """The splits with the calibration split in two, "held_out" being the last `share` of it."""
    parts: Splits = {}
    for name, split in splits.items():
        if name != "calibration":
            parts[name] = split
            continue
        count = _count(split)
        kept = count - round(share * count)
        for part, (start, stop) in {"calibration": (0, kept), "held_out": (kept, count)}.items():
            parts[part] = {key: rows.part(start, stop) for key, rows in split.items()}
    return parts


def _read_examples(request: Request, sizes: Mapping[str, int | None]) -> tuple[Splits, DataFacts]:
    options, task = request.options, request.task
    if task.inputs == "tokens" and options.name not in ("dataset", "hub", "tensors"):
        raise LowRankError(
            f"data.name={options.name}: holds values with a class each, which the task {task.name} "
            "has no use for; choose data=text, or the task classification"
        )
    raw = SOURCES[options.name](request)
    check_examples(raw, task.labels)
    splits = _split(raw, sizes, task, request.seed)
    inputs = {key: rows for key, rows in splits["train"].items() if key.startswith("inputs")}
    labels = {key: rows for key, rows in splits["train"].items() if key.startswith("labels")}
    preprocessing = replace(raw.preprocessing, channels=_channels(options, raw, inputs))
    return splits, DataFacts(
        name=options.name,
        task=task.name,
        source=raw.source,
        input_shape=_shapes("inputs", inputs),
        sizes={},
        sha256=raw.sha256,
        input_dtype=_dtypes(inputs),
        label_shape=_shapes("labels", labels) if labels else None,
        own_test=raw.test_inputs is not None,
        classes=raw.classes,
        class_names=None if raw.class_names is None else tuple(raw.class_names),
        preprocessing=preprocessing,
    )


def _channels(
    options: DataOptions, raw: RawData, inputs: Mapping[str, Rows]
) -> dict[str, Channels]:
    """How each floating input and each of bytes is normalised."""
    if options.normalise == "none" or (raw.transformed and options.mean is None):
        return {}
    values = {k: v for k, v in inputs.items() if v.dtype in (torch.float32, torch.uint8)}
    if options.mean is not None and options.std is not None:
        mean, std = options.mean, options.std
        return {key: constant_channels(mean, std, rows.shape) for key, rows in values.items()}
    return {key: channel_statistics(rows) for key, rows in values.items()}


def _split(raw: RawData, sizes: Mapping[str, int | None], task: Task, seed: int) -> Splits:
    own_test = raw.test_inputs is not None
    wanted = {k: v for k, v in sizes.items() if not (k == "test" and own_test)}
    arrays = named("inputs", raw.inputs) | named("labels", raw.labels)
    classes = raw.labels if task.labels == "class" else None
    # Examples without a class of their own are all of one: they are drawn.
    strata = (
        classes
        if isinstance(classes, Tensor)
        else torch.zeros(len(next(iter(arrays.values()))), dtype=torch.int64)
    )
    indices = stratified_indices(strata, wanted, rest="train", seed=seed)
    splits = {
        split: {key: Rows(value, chosen) for key, value in arrays.items()}
        for split, chosen in indices.items()
    }
    if own_test:
        test = named("inputs", raw.test_inputs) | named("labels", raw.test_labels)
        splits["test"] = {key: Rows(value) for key, value in test.items()}
    if isinstance(classes, Tensor) and raw.complete and raw.classes is not None:
        _check_train(raw, classes[indices["train"]], raw.classes)
    return splits


def _check_train(raw: RawData, labels: Tensor, classes: int) -> None:
    absent = (torch.bincount(labels, minlength=classes) == 0).nonzero()
    if len(absent):
        raise LowRankError(
            f"{raw.source}: the train split has no example of class {int(absent[0])}; give more "
            "examples of it, or smaller data.calibration, data.validation, data.test"
        )


def _shapes(name: str, arrays: Mapping[str, Rows]) -> Shape:
    if name in arrays:
        return arrays[name].shape
    return {key.removeprefix(f"{name}."): rows.shape for key, rows in arrays.items()}


def _dtypes(inputs: Mapping[str, Rows]) -> DType | dict[str, DType]:
    found: dict[str, DType] = {
        key.removeprefix("inputs."): "int64" if rows.dtype == torch.int64 else "float32"
        for key, rows in inputs.items()
    }
    return found["inputs"] if "inputs" in inputs else found
