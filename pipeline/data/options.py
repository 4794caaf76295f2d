"""Options of the data: which examples there are, and how they are split."""

from __future__ import annotations

from typing import Any, Literal

from pipeline.lowrank.analysis.options import HELD_OUT
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.typed import knob, options

SourceName = Literal[
    "digits", "fashion_mnist", "tensors", "text", "image_folder", "table", "dataset", "hub"
]
_CHANNELS = ("normalise", "mean", "std")
_COLUMNS = ("columns", "inputs", "labels", "class_names")
_IMAGES = ("size", "resize", "colour", "transform", "processor", "processor_sha256", "code_sha256")
_OWN_TEST = ("test_path", "test_sha256")
# What each source reads of the options below; every source has the sizes of splits.
USED: dict[SourceName, tuple[str, ...]] = {
    "digits": _CHANNELS,
    "fashion_mnist": ("path", *_CHANNELS),
    "tensors": (
        "path", "sha256", *_CHANNELS, "transform", "code_sha256", "class_names",
    ),
    "text": ("path", "sha256", "text", "class_names"),
    "image_folder": (
        "path", "sha256", *_OWN_TEST, *_CHANNELS, *_IMAGES, "class_names", "limit",
    ),
    "table": ("path", "sha256", *_OWN_TEST, *_CHANNELS, *_COLUMNS, "limit"),
    "dataset": (
        "path", "sha256", "dataset", "test_dataset", *_CHANNELS, *_COLUMNS, *_IMAGES,
        "limit",
    ),
    "hub": ("path", "sha256", *_CHANNELS, *_COLUMNS, *_IMAGES, "limit"),
}  # fmt: skip


@options
class TextOptions:
    """Options of data=text."""

    tokenizer: str = knob(help="the network whose tokenizer is used")
    tokenizer_sha256: str | None = knob(None, help="checksum of the tokenizer's files; filled in")
    sequence_length: int = knob(512, ge=1, help="tokens an example has, or is cut off after")
    text_column: str = knob("text", help="column with the text of .jsonl, .parquet and datasets")
    label_column: str | None = knob(
        None, help="tasks with a label for each text (each word): the column of the labels"
    )
    target_column: str | None = knob(None, help="seq2seq: the column of the texts to write")
    target_length: int = knob(64, ge=1, help="seq2seq: tokens of it, or cut off after")
    generated: int = knob(
        0,
        ge=0,
        help="causal_lm: sequences that the network itself writes, added to calibration's",
    )
    ood_path: str | None = knob(
        None,
        help="a second text, from another domain: evaluated beside the first, never seen before",
    )
    ood_sha256: str | None = knob(None, help="checksum of the second text; filled in")
    ood: int = knob(16, ge=1, help="sequences of the second text")


@options
class DataOptions:
    """Which examples there are, and how they are split. Sizes count examples; of text they count
    sequences. docs/data.md tells which source reads which option."""

    name: SourceName = knob(help="where the examples come from")
    path: str | None = knob(None, help="where the examples lie, for sources that are files")
    sha256: str | None = knob(
        None, help="checksum of the data; filled in by python -m pipeline; dvc repro needs it"
    )
    test_path: str | None = knob(None, help="where a test split of its own lies; null: it is drawn")
    test_sha256: str | None = knob(None, help="checksum of the own test split; filled in")
    train: int | None = knob(
        None, ge=1, help="cap on training examples; null: all that the other splits leave"
    )
    calibration: int = knob(180, ge=1, help="held out for statistics")
    held_out: float = knob(
        HELD_OUT,
        ge=0,
        lt=1,
        help="fraction of the calibration examples that statistics never see; plans and refits are "
        "compared on them",
    )
    validation: int = knob(180, ge=1, help="held out for choosing the best state")
    test: int = knob(
        360, ge=1, help="examples to evaluate on; a source's own test split is used whole"
    )
    limit: int | None = knob(
        None, ge=1, help="read so many examples, drawn at random from all; null: all of them"
    )
    normalise: Literal["from_data", "none"] | None = knob(
        None,
        help="from_data: by the training split's mean and deviation of each channel; none: not at "
        "all; null: by mean and std or the model's own, where a network is trained here from_data",
    )
    mean: tuple[float, ...] | None = knob(
        None, help="mean of each channel in the network's unit (bytes are 0…1), or one for all"
    )
    std: tuple[float, ...] | None = knob(None, help="standard deviation likewise")
    transform: dict[str, Any] | None = knob(
        None, help="`_target_` and arguments of a callable that makes an example an input"
    )
    processor: str | None = knob(None, help="the network whose processor (transformers) does that")
    processor_sha256: str | None = knob(None, help="checksum of its files; filled in")
    code_sha256: str | None = knob(
        None, help="checksum of your own dataset's and transform's code; filled in"
    )
    size: tuple[int, ...] | None = knob(
        None, min_length=1, max_length=2, help="height and width of images, or one for both"
    )
    resize: Literal["crop", "squash", "pad"] = knob(
        "crop",
        help="crop: the shorter side fits and the middle is kept; pad: the longer side fits; "
        "squash: both, whatever the aspect",
    )
    colour: Literal["rgb", "grey"] = knob("rgb", help="three channels, or one")
    columns: tuple[str, ...] | None = knob(
        None, help="columns (keys) that are the input; null: all but the labels"
    )
    inputs: dict[str, tuple[str, ...]] | None = knob(
        None, help="columns of each of several inputs, by the names of the forward's keywords"
    )
    labels: tuple[str, ...] | None = knob(
        None, help="columns (keys) with the labels; null: label or labels, where there is one"
    )
    class_names: tuple[str, ...] | None = knob(
        None,
        help="the classes in the order of the network's outputs; null: the model's own id2label, "
        "else sorted",
    )
    dataset: dict[str, Any] | None = knob(
        None, help="data=dataset: `_target_` and arguments of a Dataset, a DataModule or a factory"
    )
    test_dataset: dict[str, Any] | None = knob(
        None, help="arguments that differ for the test split of its own, {split: test} say"
    )
    text: TextOptions | None = knob(None, help="options of data=text")

    def __post_init__(self) -> None:
        self._check_used()
        if (self.mean is None) != (self.std is None):
            given = "mean" if self.std is None else "std"
            raise LowRankError(f"{given}={list(getattr(self, given))}: give mean and std, or none")
        for value in self.std or ():
            if not value > 0:
                raise LowRankError(f"std={list(self.std or ())}: choose numbers above 0")
        if self.mean is not None and self.normalise is not None:
            raise LowRankError(
                f"normalise={self.normalise}: not together with mean and std; set it to null"
            )
        if self.columns is not None and self.inputs is not None:
            raise LowRankError("columns and inputs: give one of them; inputs names several inputs")
        if self.transform is not None and self.processor is not None:
            raise LowRankError("transform and processor: give one of them")
        for key in ("transform", "dataset"):
            value = getattr(self, key)
            if value is not None and not isinstance(value.get("_target_"), str):
                raise LowRankError(f"{key}={value}: give its _target_, an import path")

    def _check_used(self) -> None:
        """Raises LowRankError for an option that this source would ignore in silence."""
        own = {key for used in USED.values() for key in used}
        for key in sorted(own - set(USED[self.name])):
            value = getattr(self, key)
            if value not in (None, _default(key)):
                fitting = ", ".join(name for name, used in USED.items() if key in used)
                raise LowRankError(
                    f"{key}={value}: the source {self.name} doesn't use it; leave it as it is, or "
                    f"choose the data {fitting}"
                )

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) that images get; None: they stay as they are."""
        return None if self.size is None else (self.size[0], self.size[-1])


def _default(key: str) -> object:
    return DataOptions.__pydantic_fields__[key].default  # type: ignore[attr-defined]
