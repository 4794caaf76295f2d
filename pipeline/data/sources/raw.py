"""The examples that every source of images gives."""

from __future__ import annotations

from dataclasses import dataclass

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


def refuse_unused(name: str, options: dict[str, str | None]) -> None:
    """Raises LowRankError for an option that this data source would ignore in silence."""
    for key, value in options.items():
        if value is not None:
            raise LowRankError(
                f"data.{key}={value}: the source {name} doesn't use it; leave it null, or "
                "choose data=tensors for your own data"
            )
