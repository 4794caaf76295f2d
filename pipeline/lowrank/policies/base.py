"""The contract of a policy: candidates of all targets in, one candidate a target out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from pipeline.lowrank.candidate import Candidate, Cost
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.target import Target


@dataclass(frozen=True)
class Option:
    """What a policy is given for one target; `candidates` holds the dense one first."""

    target: Target
    squared_norm: float
    candidates: Sequence[Candidate]

    def relative_squared(self, candidate: Candidate) -> float:
        """‖W − Ŵ‖² / ‖W‖², 0 for a zero weight."""
        return candidate.squared_error / self.squared_norm if self.squared_norm > 0 else 0.0

    @property
    def dense(self) -> Candidate:
        return self.candidates[0]


@dataclass(frozen=True)
class Totals:
    """Costs of the whole dense network, targets and everything else."""

    params: int
    macs: int

    def cost(self, unit: Cost) -> int:
        return self.params if unit == "params" else self.macs


@dataclass(frozen=True)
class Choice:
    """The chosen candidate of one target, and why it was chosen."""

    candidate: Candidate
    why: str


@dataclass(frozen=True)
class Selection:
    """Choices by target name. `optimality_gap` is set by global policies: how much of the total
    error could at most be saved by a better allocation, as a fraction of it."""

    choices: Mapping[str, Choice]
    optimality_gap: float | None = None


class Policy(Protocol):
    """A policy knows candidates and costs; it knows no method."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def cost(self) -> Cost:
        """The unit in which the policy saves."""

    @abstractmethod
    def select(self, options: Mapping[str, Option], totals: Totals) -> Selection:
        """One candidate for every target. Raises LowRankError when that is impossible."""


def cheapest(option: Option, unit: Cost, limit: float) -> Candidate:
    """The cheapest candidate with relative squared error ≤ limit (dense always qualifies)."""
    fitting = [c for c in option.candidates if option.relative_squared(c) <= limit]
    return min(fitting, key=lambda c: (c.cost(unit), c.squared_error))


def check_cost(cost: str) -> None:
    if cost not in ("params", "macs"):
        raise LowRankError(f"cost is {cost!r}: choose 'params' or 'macs'")
