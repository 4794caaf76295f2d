"""The contract of a policy: candidates of all targets in, one candidate a target out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, Self

from torch import Tensor

from pipeline.lowrank.methods.candidate import Candidate, dense_candidate
from pipeline.lowrank.network.costs import CostUnit, Totals
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.typed import knob

# The option of the policies that decide layer by layer.
COST: CostUnit = knob(default="params", help="the unit that is saved")


@dataclass(frozen=True)
class Choice:
    """The chosen candidate of one target, and why it was chosen."""

    candidate: Candidate
    why: str


@dataclass(frozen=True)
class Offer:
    """What a policy is given for one target.

    candidates: the worthwhile ones, with the dense one. singular_values: {view: (r,) descending,
    float64}, r ≤ both sides of the view. views: {competing method: the view that each of its
    ranks truncates}, () for a method that truncates none. exact(method, ranks): the candidate
    with exactly these ranks, also where another one beats it or it saves nothing; LowRankError
    where the method cannot have them. given: the choice, where an override made it already.
    """

    target: Target
    squared_norm: float
    candidates: Sequence[Candidate]
    singular_values: Mapping[str, Tensor] = field(default_factory=dict)
    views: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exact: Callable[[str, tuple[int, ...]], Candidate | None] | None = None
    given: Choice | None = None

    def relative_squared(self, candidate: Candidate) -> float:
        """‖W − Ŵ‖² / ‖W‖², 0 for a zero weight."""
        return candidate.squared_error / self.squared_norm if self.squared_norm > 0 else 0.0

    @property
    def dense(self) -> Candidate:
        return dense_candidate(self.target)

    @property
    def settled(self) -> Choice | None:
        """The choice where there is none to make: the given one, or dense if it stands alone."""
        if self.given is None and len(self.candidates) == 1:
            return Choice(self.dense, "dense: no rank is below break-even")
        return self.given

    def cost(self, candidate: Candidate, unit: CostUnit) -> int:
        """What the candidate costs; bytes are those of the layer's own number format."""
        if unit == "macs":
            return candidate.macs
        return candidate.params * (self.target.bytes_per_param if unit == "bytes" else 1)

    def front(self, unit: CostUnit) -> list[Candidate]:
        """Candidates that no other beats in both `unit` and error: cost up, error down."""
        front: list[Candidate] = []
        # Bytes of one layer are in proportion to its parameters.
        cheapest_first = sorted(
            self.candidates, key=lambda c: (c.macs if unit == "macs" else c.params, c.squared_error)
        )
        for candidate in cheapest_first:
            if not front or candidate.squared_error < front[-1].squared_error:
                front.append(candidate)
        return front


@dataclass(frozen=True)
class Selection:
    """Choices by target name. `optimality_gap` is set by global policies: how much of the total
    error could at most be saved by a better allocation, as a fraction of it."""

    choices: Mapping[str, Choice]
    optimality_gap: float | None = None


class Policy(ABC):
    """A policy knows candidates and costs; it knows no method. Its fields are its options."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def cost(self) -> CostUnit:
        """The unit in which the policy saves."""

    @classmethod
    def from_knobs(cls, knobs: Mapping[str, object]) -> Self:
        """The policy with those of the knobs, which may be of several policies, that it has."""
        own = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        return cls(**{key: value for key, value in knobs.items() if key in own})

    def rivals(self) -> tuple[Policy, ...]:
        """Policies of the same promise, of which the one whose plan measures best is meant."""
        return (self,)

    @abstractmethod
    def select(self, offers: Mapping[str, Offer], totals: Totals) -> Selection:
        """The choice for every target; where an override gave one already (`Offer.given`), that.

        Raises LowRankError when that is impossible.
        """


class LocalPolicy(Policy):
    """A policy that looks at one layer at a time."""

    @abstractmethod
    def choose(self, offer: Offer) -> Choice:
        """The candidate of one target, which has others than the dense one."""

    def select(self, offers: Mapping[str, Offer], totals: Totals) -> Selection:
        return Selection({n: o.settled or self.choose(o) for n, o in offers.items()})
