"""Truncated SVD of the other matrix view of a kernel: (in) × (out·taps)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.forms import FORMS, Form
from pipeline.lowrank.methods.base import MULTIPLE_OF, Certificate, Method, eckart_young, every_rank
from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.network.linalg import split_groups, unfold
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.typed import options


@options
class SVDIn(Method):
    """The truncated SVD of a kernel as the matrix in × (out·taps); ranks = (rank,). Cheaper than
    `SVD` where a layer has more inputs than outputs, or where its inputs are the more
    correlated."""

    rank_multiple_of: int = MULTIPLE_OF

    name: ClassVar[str] = "svd_in"
    reads_weight: ClassVar[bool] = False
    form: ClassVar[Form] = FORMS["svd_in"]
    views: ClassVar[tuple[str, ...]] = ("mode1",)

    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        return every_rank(self, target, spectra).worthwhile(target, self.rank_multiple_of)

    def candidate(
        self, target: Target, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> Candidate | None:
        return every_rank(self, target, spectra).find(ranks)

    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        (rank,) = ranks
        kernel = split_groups(weight.double(), spectra.groups)
        basis = spectra.views["mode1"].basis[..., :rank]
        last = (basis.mT @ unfold(kernel, 1)).reshape(len(kernel), rank, -1, *weight.shape[2:])
        first = basis.mT.reshape(-1, weight.shape[1], *[1] * (weight.ndim - 2))
        return first, last.movedim(1, 2).flatten(0, 1)

    def certify(self, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
        return eckart_young(self, spectra, ranks)
