"""Splits on disk, as the stage prepare writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.data.preprocessing import Preprocessing
from pipeline.data.splits import Split, TokenSplit, unnamed
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks import Task, get_task
from pipeline.lowrank.tasks.base import DType, Examples, Shape
from pipeline.lowrank.tasks.options import TaskOptions
from pipeline.lowrank.typed import load_record
from pipeline.lowrank.typed.content import Checksums, checked

SPLITS = ("train", "calibration", "held_out", "validation", "test", "ood")
DATA_JSON, TASK_JSON = "data.json", "task.json"


@dataclass(frozen=True)
class DataFacts:
    """The content of data.json: the facts of prepared data.

    name: of the source, as in the configuration.
    source: where the data come from, in words.
    input_shape: of one example; of several inputs, by name.
    sizes: {split: number of examples}.
    sha256: {what was read: its checksum}.
    input_dtype: of what the network reads, float32 or int64; None: as the task reads it.
    label_shape: of one example's labels; of several, by name; None where there are none.
    own_test: whether the test split is the source's own, and not drawn from the other examples.
    classes, class_names: None where examples have no class.
    vocabulary: number of the tokenizer's tokens; None where examples are values.
    preprocessing: of values that are stored as they were read.
    checksums: {file of a split: its sha256}, verified where the split is read.
    """

    name: str
    task: str
    source: str
    input_shape: Shape
    sizes: dict[str, int]
    sha256: dict[str, str]
    input_dtype: DType | dict[str, DType] | None = None
    label_shape: Shape | None = None
    own_test: bool = False
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    vocabulary: int | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    checksums: Checksums = field(default_factory=dict)

    @property
    def labelled(self) -> bool:
        return self.label_shape is not None

    @property
    def examples(self) -> Examples:
        """The facts that a task needs to know of the examples."""
        return Examples(
            self.name,
            self.input_shape,
            self.classes,
            self.vocabulary,
            self.input_dtype,
            self.label_shape,
        )


def load_facts(folder: Path) -> DataFacts:
    """The content of data.json. Raises LowRankError where there is none, or a damaged one."""
    return load_record(folder / DATA_JSON, DataFacts, "run the stage prepare")


def load_task(folder: Path) -> Task:
    """The task that this data was prepared for; where the examples have no labels, without them."""
    facts, written = load_facts(folder), folder / TASK_JSON
    task = get_task(facts.task)
    if written.is_file():
        task = load_record(written, TaskOptions, "run the stage prepare").made()
    return task if facts.labelled else task.unlabelled()


def load_split(folder: Path, split: str) -> Split:
    """One split of prepared data; inputs are normalised when they are asked for."""
    if split not in SPLITS:
        raise LowRankError(f"split {split!r}: unknown; choose one of {', '.join(SPLITS)}")
    facts = load_facts(folder)
    path = checked(folder, f"{split}.safetensors", facts.checksums, DATA_JSON)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise LowRankError(f"{path}: cannot be read ({error}); run the stage prepare") from error
    inputs, labels = unnamed("inputs", tensors), unnamed("labels", tensors)
    if inputs is None:
        raise LowRankError(f"{path}: holds no inputs; run the stage prepare")
    kind = Split if facts.vocabulary is None else TokenSplit
    return kind(inputs, labels, facts.preprocessing.channels)


def example_input(examples: Examples, task: Task) -> Any:
    """An example of zeros as the network takes it, a batch of one: float32 values or int64 ids, a
    tensor or {name: tensor}."""
    default = "int64" if task.inputs == "tokens" else "float32"
    if not isinstance(examples.shape, dict):
        assert not isinstance(examples.dtype, dict)
        return _zeros(examples.shape, examples.dtype or default)
    dtypes = examples.dtype if isinstance(examples.dtype, dict) else {}
    return {key: _zeros(one, dtypes.get(key, default)) for key, one in examples.shape.items()}


def _zeros(shape: tuple[int, ...], dtype: str) -> Tensor:
    return torch.zeros(1, *shape, dtype=getattr(torch, dtype))
