"""The contract of a factorization method."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from pipeline.lowrank.candidate import Candidate
from pipeline.lowrank.spectrum import Spectra
from pipeline.lowrank.target import CONVOLUTIONS, Target


@dataclass(frozen=True)
class Certificate:
    """Two-sided bound on the squared error of a factorization, and the theorem it rests on."""

    lower: float
    upper: float
    theorem: str


class Method(Protocol):
    """A method knows layers, spectra and ranks; it knows no policy.

    Weights are (out, in, *kernel) float64; `factors` are tensors in the shapes of the weights of
    the standard layers that replace the target, first layer first.
    """

    name: ClassVar[str]

    @abstractmethod
    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        """Every worthwhile choice of ranks with its costs and squared error."""

    @abstractmethod
    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """The factors of one candidate."""

    @abstractmethod
    def certify(self, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
        """Bounds on the squared error that hold for what `factorize` returns."""

    @staticmethod
    @abstractmethod
    def layers(module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        """Uninitialised standard layers that replace `module`; the last one carries the bias."""

    @staticmethod
    @abstractmethod
    def reconstruct(factors: Sequence[Tensor]) -> Tensor:
        """The dense weight (out, in, *kernel) that the factors stand for."""

    @staticmethod
    @abstractmethod
    def check_ranks(shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        """What is wrong with `ranks` for a weight of this shape, or None."""


def pointwise(module: nn.Module, inputs: int, outputs: int, *, bias: bool) -> nn.Module:
    """A 1×1 convolution of `module`'s dimension, device and dtype, weights uninitialised."""
    return _convolution(module)(inputs, outputs, 1, bias=bias, **_placement(module))


def like(module: nn.Module, inputs: int, outputs: int, *, groups: int, bias: bool) -> nn.Module:
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


def linear(module: nn.Module, inputs: int, outputs: int, *, bias: bool) -> nn.Module:
    return nn.Linear(inputs, outputs, bias=bias, **_placement(module))


def check_rank(label: str, rank: int, limit: int) -> str | None:
    if 1 <= rank <= limit:
        return None
    return f"{label} {rank} is not in 1..{limit}"


def _convolution(module: nn.Module) -> Callable[..., nn.Module]:
    return next(c for c in CONVOLUTIONS.values() if isinstance(module, c))


def _placement(module: nn.Module) -> dict[str, Any]:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return {"device": weight.device, "dtype": weight.dtype}
