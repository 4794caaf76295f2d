"""The contract of a form: what a factorized layer is made of, whichever method found its
factors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from pipeline.lowrank.network.targets import Target, weight_of, write_weight_


class Form(ABC):
    """The layers that take the place of a dense one, for given ranks; a form knows no solver.

    Weights are (out, in / groups, *kernel); `factors` are tensors in the shapes of the weights of
    the standard layers that replace the target, first layer first. The groups of a grouped
    convolution have factors of their own, with the same ranks.

    The first factor alone contracts the input channels (its mode 1), the last one alone makes
    the output channels (its mode 0). So a metric on the channels can be multiplied into the
    weight before a decomposition and divided out of these two factors afterwards.
    """

    name: str

    def __deepcopy__(self, memo: object) -> Self:
        return self  # it holds nothing that a copy of a network could change

    @abstractmethod
    def costs(self, target: Target, ranks: Tensor) -> tuple[Tensor, Tensor]:
        """(parameters, multiply-accumulates of an example) of each row of ranks.

        ranks: (n, number of ranks) int64.

        Returns two tensors (n,) int64; the bias is counted among the parameters.
        """

    @abstractmethod
    def check_ranks(self, shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        """Says what is wrong with `ranks` for the weight of one group, or returns None.

        shape: (out, in, *kernel) of the weight of one group.
        """

    @abstractmethod
    def layers(self, module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        """Uninitialised standard layers that replace `module`, first to last; the last one has the
        bias."""

    def balanced(self, factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Factors with the same product that train well: none is far larger than another, as
        factors are after a decomposition and after a metric was divided out. The factors themselves
        where the form does not store them as they are."""
        return tuple(factors)

    def store(self, layers: Sequence[nn.Module], factors: Sequence[Tensor]) -> None:
        """Writes the factors into `layers`, in the layers' own dtype."""
        weighted = [layer for layer in layers if hasattr(layer, "weight")]
        for layer, factor in zip(weighted, factors, strict=True):
            write_weight_(layer, factor)

    def stored(self, layers: Sequence[nn.Module]) -> list[Tensor]:
        """The factors that `layers` hold (layers that only reshape hold none), first to last, with
        their gradients."""
        return weights_of(layers)

    @abstractmethod
    def reconstruct(self, factors: Sequence[Tensor]) -> Tensor:
        """The dense weight (out, in / groups, *kernel) that the factors stand for."""


def weights_of(layers: Sequence[nn.Module]) -> list[Tensor]:
    """The weights of those layers that have one, as (out, in / groups, *kernel), with their
    gradients."""
    return [weight_of(layer) for layer in layers if hasattr(layer, "weight")]


def check_rank(label: str, rank: int, limit: int) -> str | None:
    """Says what is wrong with one rank, which must lie in 1…limit, or returns None."""
    if 1 <= rank <= limit:
        return None
    return f"{label} {rank} is not in 1..{limit}"
