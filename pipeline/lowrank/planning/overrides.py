"""What a user decides for some layers, in place of the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.lowrank.methods import get_method
from pipeline.lowrank.planning.policies.ranks import Ranks, check_ranks


@dataclass(frozen=True)
class Override:
    """What the user decides for some layers, in place of the policy; what is None is left open.

    keep: "dense", to leave them as they are. ranks: as in the policy `fixed`. method: the only
    one that may be used; without `ranks` the policy still chooses them.
    """

    method: str | None = None
    ranks: Ranks | None = None
    keep: str | None = None

    def __post_init__(self) -> None:
        if self.keep is not None and self.keep != "dense":
            raise LowRankError(f"keep is {self.keep!r}: {suggest(self.keep, ['dense'])}")
        if self.method is not None:
            get_method(self.method)
        if self.ranks is not None:
            check_ranks(self.ranks)
        if (self.keep is None) == (self.method is None and self.ranks is None):
            raise LowRankError("an override is either keep=dense, or a method, ranks or both")


def make_overrides(value: Mapping[str, Mapping[str, object]] | None) -> dict[str, Override]:
    """Overrides by pattern, from the configuration. Raises LowRankError naming the pattern."""
    made = {}
    for pattern, given in (value or {}).items():
        try:
            made[pattern] = Override(**given)  # type: ignore[arg-type]
        except LowRankError as error:
            raise LowRankError(f"overrides, {pattern!r}: {error}") from error
    return made


def named_methods(overrides: Mapping[str, Override]) -> list[str]:
    """The methods that overrides ask for, which `make_methods` must make besides the others."""
    return [override.method for override in overrides.values() if override.method]
