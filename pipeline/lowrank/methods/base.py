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
from pipeline.lowrank.typed import knob

# The option of the methods that cut a layer's channels.
MULTIPLE_OF: int = knob(
    default=1,
    ge=1,
    help="svd, svd_in, spatial_svd, tucker2, tucker, cp: ranks are multiples of this, or full "
    "(8, 16, 32 run faster); 1 under a budget of latency: what this device likes, by measurement",
)


@dataclass(frozen=True)
class Certificate:
    """Bounds lower ≤ ‖W − Ŵ‖² ≤ upper of a factorization, and the theorem that they rest on."""

    lower: float
    upper: float
    theorem: str


class Method(ABC):
    """A method finds the factors of a form. It knows layers, spectra and ranks; it knows no policy.
    Its fields are its options.

    Weights are (out, in / groups, *kernel) in the metric's norm (whitened, see `analysis.metrics`);
    the groups of a grouped convolution are decomposed apart, with the same ranks.

    name: in plans and in the configuration.
    form: the form whose factors the method finds.
    views: the view of `Spectra` that each rank truncates, in the order of the ranks (kernels with
        fewer axes use the first ones); () where ranks truncate no view.
    on_matrices: the name of the method that this one becomes on a matrix.
    reads_weight: whether candidates need the weight itself. Where they need its spectra alone, they
        are given an empty weight, so that none is whitened in vain.
    """

    name: ClassVar[str]
    form: ClassVar[Form]
    views: ClassVar[tuple[str, ...]]
    on_matrices: ClassVar[str] = "svd"
    reads_weight: ClassVar[bool] = True

    def obstacle(self, target: Target) -> str | None:
        """Why the method has no candidates for a layer of this kind; None where it may have."""
        return None

    @abstractmethod
    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        """Every worthwhile choice of ranks with its costs and squared error."""

    @abstractmethod
    def candidate(
        self, target: Target, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> Candidate | None:
        """The candidate with exactly these ranks, even if it saves nothing or if another one beats
        it; None for ranks that the layer cannot have."""

    @abstractmethod
    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """The float64 factors of one candidate in the shapes of its form; nothing but the arguments
        decides them. `spectra` may be those of another weight, if their bases fit its shape."""

    def factorize_in(
        self, metric: Metric, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Factors of `weight` itself, float64: those that `factorize` finds for the whitened
        weight, with the metric divided out again."""
        return metric.unwhiten(self.factorize(metric.whiten(weight), spectra, ranks))

    @abstractmethod
    def certify(self, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
        """Bounds on the squared error that hold for what `factorize` returns."""

    def uniqueness(self, shape: Sequence[int], ranks: Sequence[int]) -> Uniqueness | None:
        """Whether the factors are the only ones of this product; None for methods whose factors are
        bases of subspaces, which never are.

        shape: (out, in, *kernel) of the weight of one group.
        """
        return None


def priced(
    method: Method, target: Target, ranks: Tensor, squared_error: Tensor, kind: ErrorKind = "exact"
) -> CandidateGrid:
    """Candidates with the costs of the method's form.

    ranks: (n, number of ranks) int64.
    squared_error: (n,) float64.
    kind: of the errors.
    """
    params, macs = method.form.costs(target, ranks)
    return CandidateGrid(method.name, ranks, params, macs, squared_error, kind)


def every_rank(method: Method, target: Target, spectra: Spectra) -> CandidateGrid:
    """Candidates at all ranks of a method that truncates one view, worthwhile or not. Their errors
    are exact (Eckart–Young)."""
    view = spectra.views[method.views[0]]
    ranks = torch.arange(1, len(view.eigenvalues) + 1)[:, None]
    return priced(method, target, ranks, view.tails[1:])


def eckart_young(method: Method, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
    """The certificate of a truncated SVD, whose squared error is the tail of its view, neither more
    nor less (Eckart & Young 1936)."""
    tail = spectra.views[method.views[0]].tails[ranks[0]].item()
    return Certificate(tail, tail, "Eckart-Young")


def hosvd(method: Method, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
    """The certificate of a truncated HOSVD: max tail ≤ error² ≤ sum of tails, over the truncated
    modes (De Lathauwer et al. 2000). HOOI only lowers the error."""
    views = method.views[: len(ranks)]
    tails = [spectra.views[v].tails[r].item() for v, r in zip(views, ranks, strict=True)]
    return Certificate(max(tails), sum(tails), "HOSVD")
