"""Truncated SVD of the matrix view: W ≈ left · right (Eckart–Young–Mirsky)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from pipeline.lowrank.analysis.metrics import Metric
from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.forms import FORMS, Form
from pipeline.lowrank.methods.base import MULTIPLE_OF, Certificate, Method, eckart_young, every_rank
from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.network.linalg import split_groups
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.typed import options


@options
class SVD(Method):
    """The truncated SVD of the matrix out × (in·taps); ranks = (rank,). It minimises ‖W − Ŵ‖ in
    the metric over all matrices of this rank (Eckart & Young 1936), as numpy.linalg.svd cut to
    `rank`."""

    rank_multiple_of: int = MULTIPLE_OF

    name: ClassVar[str] = "svd"
    reads_weight: ClassVar[bool] = False
    form: ClassVar[Form] = FORMS["svd"]
    views: ClassVar[tuple[str, ...]] = ("mode0",)

    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        return every_rank(self, target, spectra).worthwhile(target, self.rank_multiple_of)

    def candidate(
        self, target: Target, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> Candidate | None:
        return every_rank(self, target, spectra).find(ranks)

    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        view = spectra.views["mode0"]
        basis = view.leading(ranks[0])
        if view.right is not None and view.right.shape[1] == ranks[0]:
            first = view.right.reshape(-1, *weight.shape[1:])
        else:
            first = _project(weight, basis.mT)
        return first, _last(basis, weight.ndim)

    def factorize_in(
        self, metric: Metric, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """As the contract says, for a third of the products: Uᵀ·(left·W·right)·right⁻¹ is
        (Uᵀ·left)·W."""
        basis = spectra.views["mode0"].leading(ranks[0])
        return _project(weight, metric.times_left(basis.mT)), metric.unwhiten_outputs(
            _last(basis, weight.ndim)
        )

    def certify(self, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
        return eckart_young(self, spectra, ranks)


def _project(weight: Tensor, rows: Tensor) -> Tensor:
    """rows (groups, rank, out/groups) · weight, in the shape of a first factor, float64."""
    matrix = split_groups(weight.double(), len(rows)).flatten(2)
    return (rows @ matrix).reshape(-1, *weight.shape[1:])


def _last(basis: Tensor, dimensions: int) -> Tensor:
    """basis (groups, out/groups, rank) in the shape of a last factor."""
    return basis.reshape(-1, basis.shape[-1], *[1] * (dimensions - 2))
