"""Options of the data: which examples there are, and how they are split."""

from __future__ import annotations

from typing import Literal

from pipeline.lowrank.analysis.options import HELD_OUT
from pipeline.lowrank.typed import knob, options


@options
class TextOptions:
    """Options of data=text."""

    tokenizer: str = knob(help="the network whose tokenizer is used")
    tokenizer_sha256: str | None = knob(None, help="checksum of the tokenizer's files; filled in")
    sequence_length: int = knob(512, ge=1, help="tokens an example has, or is cut off after")
    text_column: str = knob("text", help="column with the text of .jsonl, .parquet and datasets")
    label_column: str | None = knob(None, help="sequence_classification: the column of the classes")
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
    sequences."""

    name: Literal["digits", "fashion_mnist", "tensors", "text"] = knob(
        help="where the examples come from"
    )
    path: str | None = knob(None, help="where the examples lie, for sources that are files")
    sha256: str | None = knob(
        None, help="checksum of the data; filled in by python -m pipeline; dvc repro needs it"
    )
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
    text: TextOptions | None = knob(None, help="options of data=text")
