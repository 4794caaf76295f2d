"""Random networks of layers that are hard for numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from pipeline import lowrank as lr
from pipeline.lowrank.methods import METHODS, Method
from pipeline.lowrank.planning.policies import Policy

T = TypeVar("T")
FORMATS = (torch.float32, torch.bfloat16, torch.float16)
SORTS = ("normal", "denormal", "ill", "deficient", "zero", "huge")
KINDS: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
)
SIZES = (1, 2, 3, 7, 8, 13, 16, 24, 31, 47)
METRICS = ("weight", "input", "fisher")
TASK = lr.tasks.Regression(variance=1.0)
EXAMPLES = 24


class Beside(nn.Module):
    """Layers that each read their own input, (N, …) by name; their outputs side by side, in the
    order of the names."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)

    def forward(self, **inputs: Tensor) -> Tensor:
        found = {name: layer(inputs[name]) for name, layer in self.layers.items()}
        return torch.cat([found[name].flatten(1).double() for name in sorted(found)], 1)


@dataclass(frozen=True)
class Case:
    """A network, a batch, and how it is to be compressed."""

    net: Beside
    batch: dict[str, Tensor]
    sorts: dict[str, str]
    metric: str
    method: Method
    policy: Policy

    def analyzed(self, net: Beside) -> lr.Analysis:
        chosen = lr.AnalysisOptions(metric=self.metric)  # type: ignore[arg-type]
        return lr.analyze(net, calibration=[self.batch], chosen=chosen, task=TASK)

    def planned(self, net: Beside, analysis: lr.Analysis) -> lr.Plan:
        try:
            return lr.plan_from(net, analysis, self.policy, methods=[self.method])
        except lr.LowRankError as error:
            if "cannot be met" not in str(error):  # most layers are too small to become smaller
                raise
            return lr.plan_from(net, analysis, lr.Error(relative_error=0.5), methods=[self.method])


class Draw:
    """Cases from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def case(self, layers: int) -> Case:
        """A network of that many layers, a batch for it, a metric, a method and a policy."""
        drawn, sorts, batch = {}, {}, {}
        for place in range(layers):
            name, form, sort = f"layer{place}", self._one(FORMATS), self._one(SORTS)
            module, shape = self._layer()
            self._fill_(module, sort, form)
            drawn[name] = module.to(form).eval()
            size = 1e-4 if sort == "huge" else 1.0
            batch[name] = (size * self._normal((EXAMPLES, *shape))).to(form)
            sorts[f"layers.{name}"] = f"{type(module).__name__} {sort} {form}".replace("torch.", "")
        method = lr.make_method(self._one(tuple(METHODS)), {"cp_iterations": 8, "cp_rank_grid": 2})
        policy = self._policy()
        return Case(Beside(drawn), batch, sorts, self._one(METRICS), method, policy)

    def _policy(self) -> Policy:
        share = 0.2 + 0.75 * float(torch.rand((), generator=self.generator))
        return self._one(
            (
                lr.Budget(params=share, scope="targets"),
                lr.Budget(macs=share, scope="targets", allocation="exact"),
                lr.Error(relative_error=1 - share),
                lr.Energy(energy=share),
                lr.Compute(compression_ratio=1 / share),
            )
        )

    def _layer(self) -> tuple[nn.Module, tuple[int, ...]]:
        """A layer of random kind and sizes, and the shape of one of its inputs."""
        kind, bias = self._one(KINDS), self._one((True, False))
        outputs, inputs = self._one(SIZES), self._one(SIZES)
        if kind is nn.Linear:
            return nn.Linear(5 * inputs, 5 * outputs, bias), (
                *self._one(((), (3,))),
                5 * inputs,
            )
        axes = 3 if "3d" in kind.__name__ else 2 if "2d" in kind.__name__ else 1
        kernel = tuple(self._one((1, 2, 3)) for _ in range(axes))
        groups = self._one((1, 1, 1, 2))
        module = kind(groups * inputs, groups * outputs, kernel, groups=groups, bias=bias)
        return module, (groups * inputs, *[4] * axes)

    @torch.no_grad()
    def _fill_(self, module: nn.Module, sort: str, form: torch.dtype) -> None:
        for parameter in module.parameters():
            parameter.copy_(self._normal(parameter.shape))
        weight, limits = module.weight, torch.finfo(form)
        assert isinstance(weight, Tensor)
        rows, columns = weight.flatten(1).shape
        rank = min(rows, columns, 3)
        if sort == "normal":
            weight.div_(columns**0.5)
        elif sort == "denormal":
            weight.mul_(0.05 * limits.smallest_normal)
        elif sort == "ill":
            falling = torch.logspace(0, -12, columns)
            weight.copy_((self._normal((rows, columns)) * falling).reshape(weight.shape))
        elif sort == "deficient":  # small whole numbers, exact in every format
            left, right = (self._normal(s).round() for s in ((rows, rank), (rank, columns)))
            weight.copy_((left @ right).reshape(weight.shape))
        elif sort == "zero":
            weight.zero_()
        else:
            weight.copy_(weight.clamp(-1, 1) * limits.max)

    def _normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def _one(self, values: Sequence[T]) -> T:
        return values[int(torch.randint(len(values), (), generator=self.generator))]
