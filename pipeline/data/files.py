"""Splits on disk, as the stage prepare writes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.data.splits import Split, TokenSplit
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks import Task, get_task
from pipeline.lowrank.tasks.base import Examples
from pipeline.lowrank.typed import load_record

SPLITS = ("train", "calibration", "held_out", "validation", "test", "ood")
DATA_JSON = "data.json"


@dataclass(frozen=True)
class DataFacts:
    """The content of data.json: the facts of prepared data.

    name: of the source, as in the configuration.
    source: where the data come from, in words.
    input_shape: of one example.
    sizes: {split: number of examples}.
    sha256: {what was read: its checksum}.
    classes, class_names: None where examples have no class.
    vocabulary: number of the tokenizer's tokens; None where examples are values, which then have
        the mean and std of each channel.
    """

    name: str
    task: str
    source: str
    input_shape: tuple[int, ...]
    sizes: dict[str, int]
    sha256: dict[str, str]
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    vocabulary: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def examples(self) -> Examples:
        """The facts that a task needs to know of the examples."""
        return Examples(self.name, self.input_shape, self.classes, self.vocabulary)


def load_facts(folder: Path) -> DataFacts:
    """The content of data.json. Raises LowRankError where there is none, or a damaged one."""
    return load_record(folder / DATA_JSON, DataFacts, "run the stage prepare")


def load_task(folder: Path) -> Task:
    """The task that this data was prepared for."""
    return get_task(load_facts(folder).task)


def load_split(folder: Path, split: str) -> Split:
    """One split of prepared data; inputs are normalised when they are asked for."""
    if split not in SPLITS:
        raise LowRankError(f"split {split!r}: unknown; choose one of {', '.join(SPLITS)}")
    facts = load_facts(folder)
    path = folder / f"{split}.safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise LowRankError(f"{path}: cannot be read ({error}); run the stage prepare") from error
    if get_task(facts.task).inputs == "tokens":
        return TokenSplit(tensors["inputs"], tensors["labels"])
    return Split(tensors["inputs"], tensors["labels"], facts.mean, facts.std)


def example_input(examples: Examples, task: Task) -> Tensor:
    """An example of zeros as the network takes it, a batch of one: float32 values, or token ids."""
    dtype = torch.int64 if task.inputs == "tokens" else torch.float32
    return torch.zeros(1, *examples.shape, dtype=dtype)
