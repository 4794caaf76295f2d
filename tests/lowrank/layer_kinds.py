"""The layer kinds that every method is tested on: a new kind is a new row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.lowrank.cost import describe_target, trace_positions
from pipeline.lowrank.spectrum import Spectra, analyze_weight
from pipeline.lowrank.target import Target, dense_weight


@dataclass(frozen=True)
class LayerKind:
    name: str
    make: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    is_kernel: bool = True


LAYER_KINDS = [
    LayerKind("linear wide", lambda: nn.Linear(24, 10), (24,), False),
    LayerKind("linear tall", lambda: nn.Linear(10, 24, bias=False), (10,), False),
    LayerKind("linear tokens", lambda: nn.Linear(12, 12), (5, 12), False),
    LayerKind("conv2d 1x1", lambda: nn.Conv2d(16, 12, 1, bias=False), (16, 6, 6), False),
    LayerKind("conv2d 1x1 strided", lambda: nn.Conv2d(16, 12, 1, stride=2), (16, 6, 6), False),
    LayerKind("conv2d", lambda: nn.Conv2d(8, 12, 3, padding=1), (8, 7, 7)),
    LayerKind(
        "conv2d asymmetric",
        lambda: nn.Conv2d(8, 12, (3, 2), (2, 1), (1, 0), dilation=(1, 2), bias=False),
        (8, 9, 9),
    ),
    LayerKind(
        "conv2d reflect",
        lambda: nn.Conv2d(6, 9, 3, padding=1, padding_mode="reflect"),
        (6, 7, 7),
    ),
    LayerKind("conv2d same", lambda: nn.Conv2d(6, 9, 3, padding="same"), (6, 7, 7)),
    LayerKind("conv1d", lambda: nn.Conv1d(8, 12, 5, stride=2, padding=2), (8, 20)),
    LayerKind("conv3d", lambda: nn.Conv3d(6, 8, 3, padding=1), (6, 5, 5, 5)),
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
        example = torch.randn(1, *kind.input_shape, dtype=dtype)
    positions = trace_positions(module, example)[""]
    weight = dense_weight(module)
    target = describe_target("layer", module, positions)
    return Case(module, example, target, weight, analyze_weight(weight))
