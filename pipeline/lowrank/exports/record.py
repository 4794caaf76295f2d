"""export.json: what is known of an export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EXPORT_JSON = "export.json"
# What was run in the fresh process.
Checked = Literal["network", "layers", "weights"]


@dataclass(frozen=True)
class Export:
    """The content of export.json, beside every export.

    to: the format; form: of the factorized layers in it; dtype: of its parameters.
    checked: what was compared in a process without this project: the outputs of the whole network,
        or, of a network whose class is known to its owner alone, the outputs of each factorized
        layer (and here those of the whole network), or the weights.
    largest_difference: from the network in memory in the same number format, over all outputs.
    relative_difference: the same, divided by the largest output. It is at most `tolerance`.
    rounding: what the number format alone changed, relative to the largest output; None where the
        export keeps the network's own.
    bytes: of all files of the export.
    parameters: of the exported network.
    load_s, latency_ms: seconds to load it, and the median time of one run of the example, in the
        fresh process; None in an output of the chain, which holds no times.
    batch: examples in that run.
    torch: its version.
    """

    format: Literal[1]
    to: str
    form: str
    dtype: str
    checked: Checked
    largest_difference: float
    relative_difference: float
    tolerance: float
    rounding: float | None
    bytes: int
    parameters: int
    load_s: float | None
    latency_ms: float | None
    batch: int
    torch: str

    def __str__(self) -> str:
        size = f"{self.bytes / 1e6:.2f} MB"
        times = ""
        if self.load_s is not None and self.latency_ms is not None:
            times = (
                f"; loads in {self.load_s:.2f} s, {self.latency_ms:.2f} ms a batch of {self.batch}"
            )
        return (
            f"{self.to}: {self.parameters:,} parameters, {size}, form {self.form}, {self.dtype}; "
            f"{self.checked} checked in a fresh process, largest difference "
            f"{self.largest_difference:.2g} ({self.relative_difference:.2g} of the largest "
            f"output){times}"
        )
