"""The contract of a policy: it is given the candidates of all targets, and chooses one for each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Self

from torch import Tensor

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods.candidate import Candidate, dense_candidate
from pipeline.lowrank.network.costs import CostUnit, Totals
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.typed import knob

# The option of the policies that decide layer by layer.
COST_UNIT: CostUnit = knob(default="params", help="the unit that is saved")


class OutOfReachError(LowRankError):
    """What the policy promises of the whole network cannot be met by its targets alone.

    least: the smallest fraction of the network's cost that they can leave.
    """

    def __init__(self, text: str, least: float) -> None:
        super().__init__(text)
        self.least = least


@dataclass(frozen=True)
class Choice:
    """The chosen candidate of one target, and why it was chosen."""

    candidate: Candidate
    why: str


@dataclass(frozen=True)
class Offer:
    """Everything from which a policy chooses for one target.

    squared_norm: ‖W‖² in the metric.
    candidates: the worthwhile ones, with the dense one.
    singular_values: {view: (r,) descending, float64}, r ≤ both sides of the view.
    views: {competing method: the view that each of its ranks truncates}; () for a method that
        truncates none.
    exact: exact(method, ranks) is the candidate with exactly these ranks, even if another one beats
        it or it saves nothing; it raises LowRankError where the method cannot have them.
    given: the choice, where an override made it already.
    obstacle: why no method has candidates for a layer of this kind, where none has.
    dense_latency: nanoseconds of the layer as it is; 0 where no time was measured.
    weight: how many times its errors count beside those of other targets.
    """

    target: Target
    squared_norm: float
    candidates: Sequence[Candidate]
    singular_values: Mapping[str, Tensor] = field(default_factory=dict)
    views: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exact: Callable[[str, tuple[int, ...]], Candidate | None] | None = None
    given: Choice | None = None
    obstacle: str | None = None
    dense_latency: int = 0
    weight: float = 1.0

    def weighed(self, candidate: Candidate) -> float:
        """The squared error of a candidate as it counts beside those of other targets."""
        return self.weight * candidate.squared_error

    def relative_squared(self, candidate: Candidate) -> float:
        """‖W − Ŵ‖² / ‖W‖², 0 for a zero weight."""
        return candidate.squared_error / self.squared_norm if self.squared_norm > 0 else 0.0

    def worst_squared(self, candidate: Candidate) -> float:
        """The largest ‖W − Ŵ‖² / ‖W‖² of a layer that the offer is for; most are for one."""
        return self.relative_squared(candidate)

    @property
    def dense(self) -> Candidate:
        """The candidate that leaves the layer as it is."""
        return replace(dense_candidate(self.target), latency=self.dense_latency)

    @property
    def settled(self) -> Choice | None:
        """The choice, where nothing is left to choose: the given one, or dense if there is no other
        candidate. Else None."""
        if self.given is None and len(self.candidates) == 1:
            return Choice(self.dense, f"dense: {self.obstacle or 'no rank is below break-even'}")
        return self.given

    def cost(self, candidate: Candidate, unit: CostUnit) -> int:
        """The cost of a layer built as the candidate; bytes are counted in the layer's own number
        format."""
        return candidate.cost(self.target, unit)

    def front(self, unit: CostUnit, *, relative: bool = False) -> list[Candidate]:
        """The candidates that no other beats in both `unit` and error, by rising cost and falling
        error.

        relative: compare relative errors; of one layer these are in the same order.
        """
        front: list[Candidate] = []
        for candidate in sorted(
            self.candidates, key=lambda c: (self.cost(c, unit), c.squared_error)
        ):
            if not front or candidate.squared_error < front[-1].squared_error:
                front.append(candidate)
        return front


@dataclass(frozen=True)
class Selection:
    """The choices of a policy.

    choices: {target: its choice}.
    optimality_gap: the fraction of the total error that a better allocation could save at most;
        None for policies that decide layer by layer.
    """

    choices: Mapping[str, Choice]
    optimality_gap: float | None = None


class Policy(ABC):
    """A policy knows candidates and costs; it knows no method. Its fields are its options."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def cost_unit(self) -> CostUnit:
        """The unit in which the policy saves."""

    @classmethod
    def from_knobs(cls, knobs: Mapping[str, object]) -> Self:
        """The policy with those of the knobs that are options of its own; knobs may be of several
        policies."""
        own = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        return cls(**{key: value for key, value in knobs.items() if key in own})

    def rivals(self) -> tuple[Policy, ...]:
        """Policies that promise the same and may choose differently; a contest takes the one whose
        plan measures best. By default the policy alone."""
        return (self,)

    @abstractmethod
    def select(self, offers: Mapping[str, Offer], totals: Totals) -> Selection:
        """The choice for every target. A choice that an override made (`Offer.given`) is kept.

        totals: costs of the dense network.

        Raises LowRankError where no choice keeps what the policy promises.
        """


class LocalPolicy(Policy):
    """A policy that looks at one layer at a time, or at the layers of one inner dimension together.

    names_ranks: whether it says ranks, and not which candidates are good enough: what has no rank
        of its own, as fewer channels, then takes no part.
    """

    names_ranks: ClassVar[bool] = False

    @abstractmethod
    def choose(self, offer: Offer) -> Choice:
        """The choice for one target that has other candidates than the dense one."""

    def choice(self, offer: Offer) -> Choice:
        """The choice for any target."""
        return offer.settled or self.choose(offer)

    def select(self, offers: Mapping[str, Offer], totals: Totals) -> Selection:
        return Selection({name: self.choice(offer) for name, offer in offers.items()})
