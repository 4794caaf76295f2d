"""Ranks that the user gives."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.lowrank.network.costs import CostUnit, Totals
from pipeline.lowrank.planning.policies.base import COST_UNIT, Choice, LocalPolicy, Offer, Selection
from pipeline.lowrank.planning.policies.ranks import Ranks, at_ranks, check_given, named_ranks
from pipeline.lowrank.typed import knob, options


@options
class Fixed(LocalPolicy):
    """Ranks that the user gives: one number for all, a fraction of the full rank of each view, or
    {shell-style pattern on layer names: number, fraction, or list with one number a rank}.

    Of several patterns the first that matches counts; a layer that none matches stays dense. Ranks
    at or above break-even become the nearest below it. `cost_unit` decides between methods.
    """

    ranks: Any = knob(
        default=0.25,
        help="fixed: a number for all, a fraction of the full rank, or {pattern: number, "
        "fraction or list}",
    )
    cost_unit: CostUnit = COST_UNIT

    name: ClassVar[str] = "fixed"
    names_ranks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.ranks, Mapping):
            for value in self.ranks.values():
                check_given(value)
        else:
            check_given(self.ranks)

    def select(self, offers: Mapping[str, Offer], totals: Totals) -> Selection:
        if isinstance(self.ranks, Mapping):
            check_patterns("rank_select.ranks", self.ranks, offers)
        return super().select(offers, totals)

    def choose(self, offer: Offer) -> Choice:
        name = offer.target.name
        value: Ranks | Mapping[str, Ranks] = self.ranks
        if isinstance(value, Mapping):
            pattern = first_match(value, name)
            if pattern is None:
                return Choice(offer.dense, "dense: no pattern of the given ranks matches it")
            value = value[pattern]
        return at_ranks(offer, named_ranks(offer, value), self.cost_unit, f"ranks given ({value})")


def first_match(patterns: Mapping[str, object], name: str) -> str | None:
    """The first shell-style pattern that matches the name; None where none does."""
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)


def check_patterns(key: str, patterns: Mapping[str, object], names: Mapping[str, object]) -> None:
    """Raises LowRankError for a pattern that matches no name: it was mistyped."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise LowRankError(
                f"{key}: the pattern {pattern!r} matches no layer that may be factorized; "
                f"{suggest(pattern, names)}"
            )
