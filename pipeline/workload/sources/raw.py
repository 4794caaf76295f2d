"""What every source gives, and the checksum that every source verifies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pipeline.lowrank.errors import LowRankError


@dataclass(frozen=True)
class RawData:
    """Examples as the source holds them, before they are split.

    `inputs` (N, C, …) uint8 or float32, `labels` (N,) int64 in 0…classes-1. `sha256` names what
    was verified, or at least fingerprinted; `source` says in words where it is from, without
    a machine's paths.
    """

    inputs: Tensor
    labels: Tensor
    class_names: list[str]
    sha256: dict[str, str]
    source: str
    test_inputs: Tensor | None = None
    test_labels: Tensor | None = None

    @property
    def classes(self) -> int:
        return len(self.class_names)


def file_sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(label: str, actual: str, expected: str, remedy: str) -> None:
    """Raises LowRankError unless the checksums agree."""
    if actual != expected.lower():
        raise LowRankError(
            f"{label}: the checksum is sha256 {actual}, expected {expected.lower()}; {remedy}"
        )


def refuse_unused(name: str, options: dict[str, str | None]) -> None:
    """Raises LowRankError for an option that the source would ignore in silence."""
    for key, value in options.items():
        if value is not None:
            raise LowRankError(
                f"data.{key}={value}: the source {name} doesn't use it; leave it null, or "
                "choose data=tensors for your own data"
            )
