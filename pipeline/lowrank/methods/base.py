"""The contract of a factorization method: how the factors of a form are found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.lowrank.analysis.metrics import Metric
from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.forms.base import Form
from pipeline.lowrank.methods.candidate import Candidate, CandidateGrid, ErrorKind
from pipeline.lowrank.methods.uniqueness import Uniqueness
from pipeline.lowrank.network.targets import Target


@dataclass(frozen=True)
class Certificate:
    """Two-sided bound on the squared error of a factorization, and the theorem it rests on."""

    lower: float
    upper: float
    theorem: str


class Method(ABC):
    """A method knows layers, spectra and ranks; it knows no policy, and names the form whose
    factors it finds. Its fields are its options.

    Weights are (out, in / groups, *kernel) in the metric's norm (whitened, see
    `analysis.metrics`); the groups of a grouped convolution are decomposed apart, with the same
    ranks.

    `views` names the view of `Spectra` that each rank truncates, in the order of the ranks
    (kernels with fewer axes use the first ones); empty where ranks truncate no view.
    `on_matrices` names the method that this one is on a matrix. `reads_weight`: whether its
    candidates need the weight itself; where they need its spectra alone they are given an empty
    weight, so that nothing is whitened for nothing.
    """

    name: ClassVar[str]
    form: ClassVar[Form]
    views: ClassVar[tuple[str, ...]]
    on_matrices: ClassVar[str] = "svd"
    reads_weight: ClassVar[bool] = False

    @abstractmethod
    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        """Every worthwhile choice of ranks with its costs and squared error."""

    @abstractmethod
    def candidate(
        self, target: Target, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> Candidate | None:
        """The candidate with exactly these ranks, whether it saves anything and whether another
        one beats it or not; None for ranks that the layer cannot have."""

    @abstractmethod
    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """The float64 factors of one candidate, as its form has them, from nothing but these
        three; `spectra` need not be those of the weight in its own norm, but hold bases that fit
        its shape."""

    def factorize_in(
        self, metric: Metric, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """What `factorize` makes of the whitened weight, and the metric divided out again: factors
        of `weight` itself, float64."""
        return metric.unwhiten(self.factorize(metric.whiten(weight), spectra, ranks))

    @abstractmethod
    def certify(self, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
        """Bounds on the squared error that hold for what `factorize` returns."""

    def uniqueness(self, shape: Sequence[int], ranks: Sequence[int]) -> Uniqueness | None:
        """Whether the factors of one group's weight, of this shape, are the only ones; None for
        the methods whose factors are a basis of subspaces, which never are."""
        return None


def priced(
    method: Method, target: Target, ranks: Tensor, squared_error: Tensor, kind: ErrorKind = "exact"
) -> CandidateGrid:
    """Candidates of a method with the costs of its form.

    ranks: (n, number of ranks) int64; squared_error: (n,) float64.
    """
    params, macs = method.form.costs(target, ranks)
    return CandidateGrid(method.name, ranks, params, macs, squared_error, kind)


def every_rank(method: Method, target: Target, spectra: Spectra) -> CandidateGrid:
    """All ranks of a method that truncates one view, worthwhile or not: the errors are exact
    (Eckart–Young)."""
    view = spectra.views[method.views[0]]
    ranks = torch.arange(1, len(view.eigenvalues) + 1)[:, None]
    return priced(method, target, ranks, view.tails[1:])


def eckart_young(method: Method, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
    """The error of a truncated SVD is the tail of its view, neither more nor less."""
    tail = spectra.views[method.views[0]].tails[ranks[0]].item()
    return Certificate(tail, tail, "Eckart-Young")


def hosvd(method: Method, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
    """max tail ≤ error² ≤ sum of tails, over the truncated modes (De Lathauwer et al. 2000); HOOI
    only lowers the error."""
    views = method.views[: len(ranks)]
    tails = [spectra.views[v].tails[r].item() for v, r in zip(views, ranks, strict=True)]
    return Certificate(max(tails), sum(tails), "HOSVD")
