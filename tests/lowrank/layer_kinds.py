"""The layer kinds that every method is tested on: a new kind is a new row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.spectra import Spectra, analyze_weight
from pipeline.lowrank.forms import Form
from pipeline.lowrank.forms.surgery import Factorized, fill_, unfilled
from pipeline.lowrank.methods import METHODS, Method, make_method
from pipeline.lowrank.network.costs import describe_target, trace_positions
from pipeline.lowrank.network.same_padding import Conv2dSame
from pipeline.lowrank.network.targets import Target, dense_weight, groups_of


class Conv1D(nn.Module):
    """A copy of transformers' Conv1D, which is known by its qualified name: the weight is (in,
    out)."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf, self.nx = outputs, inputs
        self.weight = nn.Parameter(torch.randn(inputs, outputs) * 0.1)
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


Conv1D.__module__ = "transformers.pytorch_utils"


@dataclass(frozen=True)
class LayerKind:
    """A layer and the shape of one example; for an Embedding, `entries` of its table."""

    name: str
    make: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    is_kernel: bool = True
    entries: int = 0


LAYER_KINDS = [
    LayerKind("linear wide", lambda: nn.Linear(24, 10), (24,), False),
    LayerKind("linear tall", lambda: nn.Linear(10, 24, bias=False), (10,), False),
    LayerKind("linear tokens", lambda: nn.Linear(12, 12), (5, 12), False),
    LayerKind("transformers conv1d", lambda: Conv1D(20, 12), (5, 12), False),
    LayerKind("embedding", lambda: nn.Embedding(40, 12, padding_idx=3), (6,), False, 40),
    LayerKind("conv2d 1x1", lambda: nn.Conv2d(16, 12, 1, bias=False), (16, 6, 6), False),
    LayerKind("conv2d 1x1 strided", lambda: nn.Conv2d(16, 12, 1, stride=2), (16, 6, 6), False),
    LayerKind("conv2d 1x1 grouped", lambda: nn.Conv2d(16, 24, 1, groups=2), (16, 6, 6), False),
    LayerKind("conv2d", lambda: nn.Conv2d(8, 12, 3, padding=1), (8, 7, 7)),
    LayerKind(
        "conv2d asymmetric",
        lambda: nn.Conv2d(8, 12, (3, 2), (2, 1), (1, 0), dilation=(1, 2), bias=False),
        (8, 9, 9),
    ),
    LayerKind("conv2d tall", lambda: nn.Conv2d(2, 20, (2, 3), padding=1), (2, 7, 7)),
    LayerKind(
        "conv2d reflect",
        lambda: nn.Conv2d(6, 9, 3, padding=1, padding_mode="reflect"),
        (6, 7, 7),
    ),
    LayerKind(
        "conv2d circular",
        lambda: nn.Conv2d(6, 9, 3, padding=(2, 1), dilation=(2, 1), padding_mode="circular"),
        (6, 7, 7),
    ),
    LayerKind("conv2d same", lambda: nn.Conv2d(6, 9, (3, 4), padding="same"), (6, 7, 7)),
    LayerKind(
        "conv2d grouped",
        lambda: nn.Conv2d(12, 18, (2, 3), (1, 2), (1, 2), dilation=(2, 1), groups=3),
        (12, 7, 8),
    ),
    LayerKind("conv1d", lambda: nn.Conv1d(8, 12, 5, stride=2, padding=2), (8, 20)),
    LayerKind(
        "conv1d grouped",
        lambda: nn.Conv1d(10, 10, 3, padding=1, groups=2, padding_mode="replicate"),
        (10, 9),
    ),
    LayerKind("conv3d", lambda: nn.Conv3d(6, 8, 3, padding=1), (6, 5, 5, 5)),
    LayerKind(
        "conv2d same strided", lambda: Conv2dSame(6, 9, (3, 4), (2, 3), dilation=(2, 1)), (6, 9, 8)
    ),
    LayerKind(
        "conv_transpose1d",
        lambda: nn.ConvTranspose1d(12, 8, 5, 3, 1, output_padding=2, bias=False),
        (12, 9),
    ),
    LayerKind("conv_transpose1d 1x1", lambda: nn.ConvTranspose1d(12, 8, 1, 2), (12, 9), False),
    LayerKind(
        "conv_transpose2d",
        lambda: nn.ConvTranspose2d(8, 12, (3, 2), (2, 1), (1, 0), (1, 0), dilation=(1, 2)),
        (8, 5, 6),
    ),
    LayerKind(
        "conv_transpose2d grouped",
        lambda: nn.ConvTranspose2d(12, 18, (2, 3), 2, groups=3),
        (12, 4, 4),
    ),
    LayerKind("conv_transpose3d", lambda: nn.ConvTranspose3d(6, 8, 2, 2, bias=False), (6, 3, 3, 3)),
    LayerKind("conv3d grouped", lambda: nn.Conv3d(8, 8, 2, groups=2, bias=False), (8, 4, 4, 4)),
]


@dataclass(frozen=True)
class Case:
    """A seeded layer with everything that a method asks for."""

    module: nn.Module
    example: Tensor
    target: Target
    weight: Tensor
    spectra: Spectra


def make_case(kind: LayerKind, dtype: torch.dtype = torch.float64) -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = kind.make().to(dtype)
        if kind.entries:
            example = torch.randint(kind.entries, (1, *kind.input_shape))
        else:
            example = torch.randn(1, *kind.input_shape, dtype=dtype)
    return case_of(module, example)


def configured(**options: object) -> dict[str, Method]:
    """All methods by name, with those of the options that each of them has."""
    return {name: make_method(name, options) for name in METHODS}


def case_of(module: nn.Module, example: Tensor) -> Case:
    weight = dense_weight(module)
    target = describe_target("layer", module, trace_positions(module, example)[""])
    return Case(module, example, target, weight, analyze_weight(weight, groups_of(module)))


def full_ranks(form: Form, case: Case) -> tuple[int, ...]:
    """The largest ranks that the form takes for this layer."""
    shape = case.target.group_shape
    counts = (count for count in range(1, 9) if form.check_ranks(shape, (1,) * count) is None)
    full = [1] * next(counts)
    for place in range(len(full)):
        while form.check_ranks(shape, [*full[:place], full[place] + 1, *full[place + 1 :]]) is None:
            full[place] += 1
    return tuple(full)


def build(case: Case, method: Method, ranks: tuple[int, ...]) -> Factorized:
    layer = unfilled("layer", case.module, method.form, ranks)
    factors = method.factorize(case.weight, case.spectra, ranks)
    fill_(layer, factors, getattr(case.module, "bias", None))
    return layer
