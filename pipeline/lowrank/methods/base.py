"""The contract of a factorization method."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor, nn

from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.methods.uniqueness import Uniqueness
from pipeline.lowrank.network.targets import CONVOLUTIONS, Target, dense_weight, groups_of

if TYPE_CHECKING:  # networks are loaded without their analysis
    from pipeline.lowrank.analysis.metrics import Metric


@dataclass(frozen=True)
class Certificate:
    """Two-sided bound on the squared error of a factorization, and the theorem it rests on."""

    lower: float
    upper: float
    theorem: str


class Method(Protocol):
    """A method knows layers, spectra and ranks; it knows no policy.

    Weights are (out, in / groups, *kernel); `factors` are float64 tensors in the shapes of the
    weights of the standard layers that replace the target, first layer first. The groups of a
    grouped convolution are decomposed apart, with the same ranks.

    The first factor alone contracts the input channels (its mode 1), the last one alone makes
    the output channels (its mode 0). So a metric on the channels can be multiplied into the
    weight before and divided out of these two factors afterwards.

    `views` names the view of `Spectra` that each rank truncates, in the order of the ranks
    (kernels with fewer axes use the first ones); empty where ranks truncate no view.
    """

    name: ClassVar[str]
    views: ClassVar[tuple[str, ...]]
    on_matrices: ClassVar[str] = "svd"  # the method that this one is on a matrix

    @abstractmethod
    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        """Every worthwhile choice of ranks with its costs and squared error."""

    def candidate(
        self, target: Target, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> Candidate | None:
        """The candidate with exactly these ranks, which may be one that `candidates` leaves out
        because another beats it. None where the method has no other than those: all ranks of a
        truncated SVD below break-even are listed."""
        listed = self.candidates(target, weight, spectra)
        return next((c for c in listed if c.ranks == tuple(ranks)), None)

    @abstractmethod
    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """The factors of one candidate, from nothing but these three; `spectra` need not be
        those of the weight in its own norm, but hold bases that fit its shape."""

    def factorize_in(
        self, metric: Metric, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """What `factorize` makes of the whitened weight, and the metric divided out again: factors
        of `weight` itself, float64."""
        return metric.unwhiten(self.factorize(metric.whiten(weight), spectra, ranks))

    @abstractmethod
    def certify(self, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
        """Bounds on the squared error that hold for what `factorize` returns."""

    @staticmethod
    def uniqueness(shape: Sequence[int], ranks: Sequence[int]) -> Uniqueness | None:
        """Whether the factors of one group's weight, of this shape, are the only ones; None for
        the methods whose factors are a basis of subspaces, which never are."""
        return None

    @staticmethod
    @abstractmethod
    def layers(module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        """Uninitialised standard layers that replace `module`; the last one carries the bias."""

    @staticmethod
    def balanced(factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Factors with the same product that train well: no factor far larger than another, as
        `factorize` and a metric divided out leave them. The same factors where the form stores
        none of them as they are."""
        return tuple(factors)

    @staticmethod
    def store(layers: Sequence[nn.Module], factors: Sequence[Tensor]) -> None:
        """Writes the factors into `layers`, in their own dtype."""
        for weight, factor in zip(_weights(layers), factors, strict=True):
            weight.copy_(factor)

    @staticmethod
    def stored(layers: Sequence[nn.Module]) -> list[Tensor]:
        """The factors that `layers` hold (reshaping layers hold none), first to last."""
        return _weights(layers)

    @staticmethod
    @abstractmethod
    def reconstruct(factors: Sequence[Tensor]) -> Tensor:
        """The dense weight (out, in / groups, *kernel) that the factors stand for."""

    @staticmethod
    @abstractmethod
    def check_ranks(shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        """What is wrong with `ranks` for one group's weight, of this shape, or None."""


def pointwise(
    module: nn.Module, inputs: int, outputs: int, *, groups: int = 1, bias: bool = False
) -> nn.Module:
    """A 1×1 convolution of `module`'s dimension, device and dtype, weights uninitialised."""
    return _convolution(module)(inputs, outputs, 1, groups=groups, bias=bias, **_placement(module))


def like(
    module: nn.Module, inputs: int, outputs: int, *, groups: int = 1, bias: bool = False
) -> nn.Module:
    """A convolution with `module`'s kernel, stride, padding and dilation, other channels."""
    return _convolution(module)(
        inputs,
        outputs,
        module.kernel_size,
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        padding_mode=module.padding_mode,
        groups=groups,
        bias=bias,
        **_placement(module),
    )


def along(
    module: nn.Module,
    axis: int,
    inputs: int,
    outputs: int,
    *,
    depth: int = 0,
    groups: int = 1,
    bias: bool = False,
) -> nn.Module:
    """A convolution with `module`'s kernel, stride, padding and dilation along one axis of the
    kernel, and of size 1 along the others and along `depth` more axes put before them."""

    def only(values: Any, neutral: int) -> tuple[int, ...]:
        kept = (value if index == axis else neutral for index, value in enumerate(values))
        return (*(neutral,) * depth, *kept)

    padding = module.padding
    dimensions = len(module.kernel_size) + depth  # type: ignore[arg-type]
    return CONVOLUTIONS[f"conv{dimensions}d"](
        inputs,
        outputs,
        only(module.kernel_size, 1),  # type: ignore[arg-type]
        stride=only(module.stride, 1),  # type: ignore[arg-type]
        padding=padding if isinstance(padding, str) else only(padding, 0),  # type: ignore[arg-type]
        dilation=only(module.dilation, 1),  # type: ignore[arg-type]
        padding_mode=module.padding_mode,  # type: ignore[arg-type]
        groups=groups,
        bias=bias,
        **_placement(module),
    )


def linear(module: nn.Module, inputs: int, outputs: int, *, bias: bool = False) -> nn.Module:
    return nn.Linear(inputs, outputs, bias=bias, **_placement(module))


def embedding(module: nn.Embedding, dimension: int) -> nn.Module:
    """A table with `module`'s entries and padding index, rows of another dimension."""
    return nn.Embedding(
        module.num_embeddings, dimension, padding_idx=module.padding_idx, **_placement(module)
    )


def channels(module: nn.Module) -> tuple[int, int, int, bool]:
    """(input channels, output channels, groups, whether there is a bias) of a layer."""
    outputs, inputs, *_ = dense_weight(module).shape
    groups = groups_of(module)
    return inputs * groups, outputs, groups, getattr(module, "bias", None) is not None


def _weights(layers: Sequence[nn.Module]) -> list[Tensor]:
    return [dense_weight(layer) for layer in layers if hasattr(layer, "weight")]


def check_rank(label: str, rank: int, limit: int) -> str | None:
    if 1 <= rank <= limit:
        return None
    return f"{label} {rank} is not in 1..{limit}"


def _convolution(module: nn.Module) -> Callable[..., nn.Module]:
    return next(c for c in CONVOLUTIONS.values() if isinstance(module, c))


def _placement(module: nn.Module) -> dict[str, Any]:
    weight = dense_weight(module)
    return {"device": weight.device, "dtype": weight.dtype}
