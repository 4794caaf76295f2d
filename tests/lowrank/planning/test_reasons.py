"""Reasons with numbers: what the next candidate would cost, and what it would gain."""

from __future__ import annotations

import pytest

from pipeline.lowrank.analysis.tables import number_text
from pipeline.lowrank.methods.candidate import dense_candidate
from pipeline.lowrank.planning.overrides import Override
from pipeline.lowrank.planning.policies.base import Choice, Selection
from pipeline.lowrank.planning.reasons import with_margins
from tests.lowrank.planning.offer_cases import offers_of, seeded_weights


def at_rank(rank: int, *, in_nats: bool) -> str:
    """The reason of an SVD at this rank for layer1, which is 64 × 16."""
    offers, _ = offers_of(seeded_weights(), ("svd",))
    candidate = next(c for c in offers["layer1"].candidates if c.ranks == (rank,))
    chosen = Selection({"layer1": Choice(candidate, "its policy's words")})
    return with_margins(chosen, offers, "params", in_nats=in_nats).choices["layer1"].why


def test_the_next_rank_costs_a_row_and_a_column_for_its_singular_value() -> None:
    offers, _ = offers_of(seeded_weights(), ("svd",))
    value = offers["layer1"].singular_values["mode0"][4].item()  # the fifth
    nats = number_text(value**2 / 2)
    assert at_rank(4, in_nats=True) == (
        f"rank 4 of 16: the next would cost 80 parameters for {nats} nats; its policy's words"
    )
    assert "for an error of" in at_rank(4, in_nats=False)


def test_the_last_rank_that_pays_is_followed_by_dense() -> None:
    """64·16 parameters are less than 13·(64 + 16), so 12 is the last rank below break-even."""
    assert "the next, dense, would cost 64 parameters" in at_rank(12, in_nats=True)


def test_a_dense_layer_says_what_it_could_save() -> None:
    offers, _ = offers_of(seeded_weights(), ("svd",))
    offer = offers["layer1"]
    chosen = Selection({"layer1": Choice(dense_candidate(offer.target), "dense: as it is")})
    why = with_margins(chosen, offers, "params", in_nats=True).choices["layer1"].why
    assert why.startswith("the nearest, svd 12, would save 64 parameters for ")


@pytest.mark.parametrize("name", ["layer4", "layer1"])
def test_where_nothing_was_left_to_choose_the_reason_stays(name: str) -> None:
    """layer4 is a row, which has no rank below break-even; layer1 was decided by an override."""
    offers, _ = offers_of(seeded_weights(), ("svd",), {"layer1": Override(keep="dense")})
    settled = offers[name].settled
    assert settled is not None
    chosen = Selection({name: settled}, 0.5)
    assert with_margins(chosen, offers, "params", in_nats=True) == chosen


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (0.94, "0.94"), (12.34, "12.3"), (123_456.0, "123,456"), (1e-5, "10⁻⁵"),
        (2.41e-4, "2.4·10⁻⁴"), (3e7, "3·10⁷"), (-2e-6, "-2·10⁻⁶"),
    ],
)  # fmt: skip
def test_numbers_are_short_at_any_size(value: float, text: str) -> None:
    assert number_text(value) == text
