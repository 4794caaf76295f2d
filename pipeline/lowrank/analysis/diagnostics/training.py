"""The change of a spectrum in training: three claims of the literature, measured, not assumed.

Leading singular values grow, trailing ones shrink, the effective rank rises and then falls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from pipeline.lowrank.analysis.diagnostics.rank import NOISE, effective_rank

# A rise or fall of the effective rank below one part in a thousand counts as no change.
_MARGIN = 1e-3


@dataclass(frozen=True)
class TrainingEffect:
    """The change of one matrix from its initial to its trained state.

    leading_ratio, trailing_ratio: root mean square of the largest tenth and of the smaller half of
        the singular values, trained / initial.
    norm_ratio: the same of all values, ‖W‖_F. Weight decay moves all three ratios: dividing by
        norm_ratio leaves the change of shape. They are None where the initial values are zero.
    effective_ranks: of every state, in the order of training.
    peak: the place of the largest of them.
    leading_grew, trailing_shrank, rank_rose_then_fell: whether the claims hold; None where nothing
        decides it: ratios of zeros, or fewer than three states.
    """

    leading_ratio: float | None
    trailing_ratio: float | None
    norm_ratio: float | None
    effective_ranks: tuple[float, ...]
    peak: int
    leading_grew: bool | None
    trailing_shrank: bool | None
    rank_rose_then_fell: bool | None


def measure_training(states: Sequence[Tensor]) -> TrainingEffect:
    """What training did to one matrix.

    states: its singular values (n,), descending, float64, at two or more moments, the initial state
        first and the trained one last.
    """
    before, after = states[0], states[-1]
    lead, half = math.ceil(len(before) / 10), len(before) // 2
    leading = _ratio(before[:lead], after[:lead], before)
    trailing = _ratio(before[half:], after[half:], before)
    ranks = tuple(effective_rank(values) for values in states)
    return TrainingEffect(
        leading_ratio=leading,
        trailing_ratio=trailing,
        norm_ratio=_ratio(before, after, before),
        effective_ranks=ranks,
        peak=ranks.index(max(ranks)),
        leading_grew=None if leading is None else leading > 1.0,
        trailing_shrank=None if trailing is None else trailing < 1.0,
        rank_rose_then_fell=_rose_then_fell(ranks),
    )


@dataclass(frozen=True)
class Claim:
    """The number of matrices in which a claim `holds`, and `of` how many that decide it."""

    holds: int
    of: int


@dataclass(frozen=True)
class Claims:
    """The three claims, over the matrices of a network."""

    leading_grew: Claim
    trailing_shrank: Claim
    rank_rose_then_fell: Claim


def count_claims(effects: Iterable[TrainingEffect]) -> Claims:
    """For each claim, the number of matrices in which it holds, and in which it is decided."""
    every = list(effects)
    return Claims(
        leading_grew=_count(effect.leading_grew for effect in every),
        trailing_shrank=_count(effect.trailing_shrank for effect in every),
        rank_rose_then_fell=_count(effect.rank_rose_then_fell for effect in every),
    )


def _count(verdicts: Iterable[bool | None]) -> Claim:
    decided = [held for held in verdicts if held is not None]
    return Claim(sum(decided), len(decided))


def _ratio(before: Tensor, after: Tensor, whole: Tensor) -> float | None:
    """Norm of `after` / norm of `before`; None where `before` is rounding beside the whole."""
    start = float(before.norm())
    if start <= NOISE * float(whole[0]) * math.sqrt(len(before)):
        return None
    return float(after.norm()) / start


def _rose_then_fell(ranks: Sequence[float]) -> bool | None:
    if len(ranks) < 3:
        return None
    return max(ranks[1:-1]) > (1.0 + _MARGIN) * max(ranks[0], ranks[-1])
