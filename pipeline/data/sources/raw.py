"""The examples that every source gives, and what it is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.options import DataOptions
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.splits import Values
from pipeline.lowrank.tasks import Task


@dataclass(frozen=True)
class Request:
    """What a source is asked for.

    options: where the examples are, and how they are read.
    task: it says what labels are.
    seed: of what is drawn at random.
    scratch: an empty folder for what is larger than memory; it is removed afterwards.
    """

    options: DataOptions
    task: Task
    seed: int
    scratch: Path

    @property
    def ignored(self) -> int | None:
        """The number that is no class, beside negative ones."""
        return getattr(self.task, "ignore_index", None)


@dataclass(frozen=True)
class RawData:
    """Examples as the source holds them, before they are split; perhaps mapped from files.

    `inputs` (N, …), one tensor or several by name, uint8, float32, int64 or bool; `labels` (N, …),
    one, several or None; where they are classes (N,) int64 in 0…classes-1, or -100 at a place that
    has none. `sha256` names what was verified, or at least fingerprinted; `source` says in words
    where it is from, without a machine's paths. class_names: None where labels are no classes.
    complete: every class must have an example; not so where the user, or the model, numbers them.
    transformed: the values are what the network reads already: no statistics normalise them.
    preprocessing: what was done to them when they were read.
    """

    inputs: Values
    labels: Values | None
    class_names: list[str] | None
    sha256: dict[str, str]
    source: str
    test_inputs: Values | None = None
    test_labels: Values | None = None
    complete: bool = True
    transformed: bool = False
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    @property
    def classes(self) -> int | None:
        return None if self.class_names is None else len(self.class_names)
