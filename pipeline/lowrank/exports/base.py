"""The contract of an export format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from pipeline.lowrank.exports.calls import Call
from pipeline.lowrank.exports.record import Checked
from pipeline.lowrank.typed import knob, options

FormName = Literal["auto", "plain", "pivoted", "dense"]
DTypeName = Literal["float32", "bfloat16", "float16"]


@options
class ExportOptions:
    """How a network is exported."""

    form: FormName = knob(
        "auto",
        help="of factorized layers: pivoted (as they are), plain (pivots multiplied out), dense; "
        "auto: what suits the format",
    )
    dtype: DTypeName | None = knob(None, help="of the parameters; null keeps the network's own")
    dynamic: bool = knob(
        True,
        help="batch and length stay free in graphs; false: those of the example",
    )
    tolerance: float | None = knob(
        None,
        gt=0,
        help="largest difference from the network in memory, over the largest output; null: by "
        "the number format",
    )
    int8: bool = knob(
        False,
        help="8 bits: of weights (huggingface), or of activations too, by their ranges on "
        "calibration examples (onnx)",
    )
    aoti: bool = knob(
        False, help="pt2: compiled by AOTInductor for this kind of processor (a C++ compiler)"
    )
    shard: str = knob("5GB", help="the largest file of weights (huggingface, dense)")

    def form_for(self, auto: str) -> str:
        """The form, where "auto" is `auto`; pivots lose more to 8 bits than whole factors do."""
        if self.form != "auto":
            return self.form
        return "plain" if self.int8 and auto == "pivoted" else auto


@dataclass(frozen=True)
class Job:
    """One export.

    network: in the form and number format that is written, in eval mode, on the CPU.
    calls: examples in several sizes, the first as it was given.
    builder: how the dense network is built, `_target_` and arguments; None where nobody said.
    calibration: calls whose activations give the ranges of 8 bits.
    tokenizer: or processor, to be written beside a transformer; None: there is none.
    """

    network: nn.Module
    calls: Sequence[Call]
    options: ExportOptions
    builder: Mapping[str, Any] | None
    tokenizer: Any
    calibration: Sequence[Call] = ()


@dataclass(frozen=True)
class Check:
    """What is compared instead of the network in memory: parts of it, where a fresh process cannot
    build it, or the network in 8 bits. Code, calls, and the outputs that they must give."""

    checked: Checked
    code: str
    calls: Sequence[Call]
    expected: Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True)
class Written:
    """What a format wrote.

    usage: Python that makes `model` of the folder `folder`. The fresh process runs it, and the
        export's README shows it.
    notes: paragraphs of the README.
    check: instead of `usage`, for a network that only its owner can build.
    """

    usage: str
    notes: Sequence[str] = ()
    check: Check | None = None


class Format(ABC):
    """A way out of this project: files that load and run without it.

    name: as in `to=`.
    extra: of this package, which brings what the format needs; None: nothing but torch.
    packages: what must be importable where the export is written.
    runtime: what must be importable where it is used.
    form: what `form=auto` means.
    is_graph: whether it is a graph, which may hold the normalisation too.
    fixed: whether it takes the sizes of the example alone.
    int8: what may be in 8 bits: weights alone, or activations too by their ranges on calibration
        examples; None: nothing.
    loses: what the export can't do, in a sentence.
    """

    name: str
    extra: str | None = None
    packages: tuple[str, ...] = ("torch", "safetensors")
    runtime: tuple[str, ...] = ("torch", "safetensors")
    form: Literal["plain", "pivoted", "dense"] = "pivoted"
    is_graph: bool = False
    fixed: bool = False
    int8: Literal["weights", "static"] | None = None
    loses: str

    @abstractmethod
    def write(self, job: Job, folder: Path) -> Written:
        """Writes the network to the folder. Raises LowRankError for a network that the format can't
        hold."""
