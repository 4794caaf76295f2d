"""Spatial SVD: a convolution down the rows, then one along them (Jaderberg et al. 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from pipeline.lowrank.analysis.spectra import Spectra, spatial_matrix
from pipeline.lowrank.forms import FORMS, Form
from pipeline.lowrank.methods.base import MULTIPLE_OF, Certificate, Method, eckart_young, every_rank
from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.network.linalg import split_groups
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.typed import options


@options
class SpatialSVD(Method):
    """The truncated SVD of a Conv2d's kernel as the matrix (in·height) × (out·width); ranks =
    (rank,). Kernels of height or width 1 have no candidates: for them it is the same as `SVDIn` or
    `SVD`."""

    rank_multiple_of: int = MULTIPLE_OF

    name: ClassVar[str] = "spatial_svd"
    reads_weight: ClassVar[bool] = False
    form: ClassVar[Form] = FORMS["spatial_svd"]
    views: ClassVar[tuple[str, ...]] = ("spatial",)

    def obstacle(self, target: Target) -> str | None:
        fits = target.kind in ("conv2d", "conv_transpose2d") and min(target.shape[2:]) > 1
        return None if fits else "spatial_svd needs a Conv2d with two axes longer than 1"

    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        if self.obstacle(target):
            return []
        return every_rank(self, target, spectra).worthwhile(target, self.rank_multiple_of)

    def candidate(
        self, target: Target, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> Candidate | None:
        return every_rank(self, target, spectra).find(ranks)

    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        (rank,) = ranks
        outputs, inputs, height, width = weight.shape
        matrix = spatial_matrix(split_groups(weight.double(), spectra.groups))
        basis = spectra.views["spatial"].basis[..., :rank]
        first = basis.mT.reshape(-1, inputs, height, 1)
        last = (basis.mT @ matrix).reshape(spectra.groups, rank, -1, width).transpose(1, 2)
        return first, last.reshape(outputs, rank, 1, width)

    def certify(self, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
        return eckart_young(self, spectra, ranks)
