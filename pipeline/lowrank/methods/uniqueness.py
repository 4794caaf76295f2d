"""When is a CP unique? Two conditions that are often taken for each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from pipeline.lowrank.forms.cp import rank_upper_bound


@dataclass(frozen=True)
class Uniqueness:
    """What is known of the uniqueness of a CP.

    rank_limit: a number that the rank of a tensor never exceeds. Theorem 6 of the course module
        (docs/theorems.md) takes it for a condition of uniqueness, which it is not.
    kruskal: whether Kruskal's condition holds, which is one, for factors without special structure.
    """

    rank_limit: int
    kruskal: bool


def cp_uniqueness(sizes: Sequence[int], rank: int) -> Uniqueness:
    """The two figures for a CP of this rank of a tensor of these sizes; modes of size 1 don't
    count."""
    modes = [size for size in sizes if size > 1] or [1]
    k_ranks = generic_k_ranks(modes, rank)
    return Uniqueness(rank_upper_bound(modes), kruskal_sufficient(k_ranks, rank))


def kruskal_sufficient(k_ranks: Sequence[int], rank: int) -> bool:
    """Whether Σk ≥ 2R + N − 1, which makes a CP of N modes and rank R unique up to the order and
    the scales of its components (Kruskal 1977; N modes: Sidiropoulos & Bro 2000). Sufficient, not
    necessary.

    k_ranks: the k-rank of each factor.
    """
    return sum(k_ranks) >= 2 * rank + len(k_ranks) - 1


def generic_k_ranks(sizes: Sequence[int], rank: int) -> list[int]:
    """The k-ranks of factors without special structure: min(I, R) for each mode."""
    return [min(size, rank) for size in sizes]


def k_rank(factor: Tensor, tolerance: float = 1e-10) -> int:
    """The largest k such that *every* k columns of a (size, rank) factor are independent.

    Dependent means: the smallest singular value of the normalised columns is at most
    `tolerance`. Tries all subsets, so it is meant for ranks up to about 15; for large factors
    without structure use `generic_k_ranks`.
    """
    size, rank = factor.shape
    norms = torch.linalg.vector_norm(factor, dim=0)
    if not bool((norms > 0).all()):
        return 0
    columns = factor.to(torch.float64) / norms.to(torch.float64)
    for count in range(2, min(size, rank) + 1):
        for chosen in combinations(range(rank), count):
            if torch.linalg.svdvals(columns[:, list(chosen)])[-1] <= tolerance:
                return count - 1
    return min(size, rank)
