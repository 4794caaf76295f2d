"""The descent theorem beside a real training: what it says, and what is measured.

The course module that this project started from (docs/theorems.md) states L_T ≤ L_0 − T·η·‖∇L‖²/2.
That is false (½x², η = ½, T = 5). For an L-smooth loss and *full-gradient* descent with η ≤ 1/L the
truth is L_T ≤ L_0 − (η/2)·Σ_t‖∇L_t‖²; stochastic gradients of variance s² add T·L·η²·s²/2, in the
mean (Bottou, Curtis & Nocedal 2018, section 4). For momentum, ReLU networks and a finite subset
these are diagnostics, no bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.data.splits import moved
from pipeline.lowrank.network.calling import arguments
from pipeline.training.curve import DescentPoint, SubsetPoint
from pipeline.training.losses import Batch, Objective

_LEAST = 1e-300  # for the logarithm of a gradient that is 0


def printed_formula(loss: float, rates: Sequence[float], squared_norm: float) -> float:
    """L_0 − ‖∇L_0‖²·Σ_t η_t/2, the course module's Theorem 10 as printed. It is false: no bound."""
    return loss - sum(rates) * squared_norm / 2


def descent_bound(loss: float, rates: Sequence[float], squared_norms: Sequence[float]) -> float:
    """L_0 − ½·Σ_t η_t‖∇L_t‖²: an upper bound on L_T for full-gradient descent on an L-smooth
    loss with every η_t ≤ 1/L.

    rates, squared_norms: η_t and ‖∇L_t‖² of the steps t = 0 … T−1, ∇L_t taken before step t.
    """
    return loss - sum(r * g for r, g in zip(rates, squared_norms, strict=True)) / 2


def noise_term(
    rates: Sequence[float], smoothness: Sequence[float], variances: Sequence[float]
) -> float:
    """½·Σ_t L_t·η_t²·s_t², which gradients of variance s² add to the bound on E[L_T]."""
    return sum(a * r**2 * v for a, r, v in zip(smoothness, rates, variances, strict=True)) / 2


def measuring_steps(total: int, points: int) -> set[int]:
    """`points` steps from 0 (before the first) to `total`, evenly apart; none for 0 points."""
    return {round(step) for step in np.linspace(0, total, points)}


class DescentProbe:
    """Loss, ‖∇L‖² and local smoothness on fixed batches of the training data.

    In training mode with a seed of its own, on copies of parameters and buffers: L is one
    function of the parameters, and the training is left as it was to the bit. `rate` is the
    length, in gradients, of the step along which smoothness is estimated; `steps` are those
    after which `at` measures, `steps_per_epoch` of them an epoch.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        objective: Objective,
        rate: float,
        steps: Set[int],
        steps_per_epoch: int = 1,
    ) -> None:
        self._batches, self._objective, self._rate = batches, objective, rate
        self._steps = steps
        self._steps_per_epoch = steps_per_epoch
        self._measured: list[SubsetPoint] = []

    def at(self, step: int, network: nn.Module) -> None:
        """Measures if `step` is one of the steps to measure after."""
        if step in self._steps:
            self._measured.append(self.measure(network, step))

    def state(self) -> list[dict[str, Any]]:
        """The state for `resume`, in plain types."""
        return [asdict(point) for point in self._measured]

    def resume(self, state: list[dict[str, Any]]) -> None:
        self._measured = [SubsetPoint(**point) for point in state]

    def points(
        self, rates: Sequence[float], batch_squared_norms: Sequence[float]
    ) -> list[DescentPoint]:
        """`descent_points` of all that `at` measured; empty where it measured nothing."""
        return descent_points(self._measured, rates, batch_squared_norms) if self._measured else []

    def measure(self, network: nn.Module, step: int = 0) -> SubsetPoint:
        """The figures of the network as it is after this step."""
        trained = {n: p.detach() for n, p in network.named_parameters() if p.requires_grad}
        training = network.training
        network.train()
        try:
            loss, here = self._gradient(network, trained)
            moved = {n: p - self._rate * here[n] for n, p in trained.items()}
            _, there = self._gradient(network, moved)
        finally:
            network.train(training)
        squared_norm = _squared_norm(here)
        change = _squared_norm({n: there[n] - here[n] for n in here}) ** 0.5
        length = self._rate * squared_norm**0.5
        return SubsetPoint(
            step=step,
            epoch=step / self._steps_per_epoch,
            subset_loss=loss,
            subset_gradient_squared_norm=squared_norm,
            smoothness=change / length if length > 0 else 0.0,
        )

    def _gradient(
        self, network: nn.Module, parameters: Mapping[str, Tensor]
    ) -> tuple[float, dict[str, Tensor]]:
        """Mean loss of the batches and its gradient at these parameters."""
        leaves = {n: p.detach().requires_grad_() for n, p in parameters.items()}
        dtype = next(iter(leaves.values())).dtype
        sums = {n: torch.zeros_like(p) for n, p in leaves.items()}
        total = 0.0
        device = next(iter(leaves.values())).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)  # dropout's masks are part of the function
            for batch in self._batches:
                state = leaves | {n: b.clone() for n, b in network.named_buffers()}
                loss = self._objective(
                    lambda inputs, state=state: functional_call(  # type: ignore[misc]
                        network, state, *arguments(moved(inputs, device, dtype))
                    ),
                    batch,
                )
                total += float(loss.detach()) / len(self._batches)
                for name, part in zip(
                    leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True
                ):
                    sums[name] += part / len(self._batches)
        return total, sums


def descent_points(
    measured: Sequence[SubsetPoint],
    rates: Sequence[float],
    batch_squared_norms: Sequence[float],
) -> list[DescentPoint]:
    """The measured figures, with the loss by each of the three formulas at each of their steps.

    measured: the points that `DescentProbe.measure` gives, the first at step 0.
    rates: the effective η of every step.
    batch_squared_norms: ‖gradient‖² of every step's own batch.

    Between points L is interpolated, ‖∇L‖² too (its logarithm, since it decays); s² is by how much
    the batches' mean squared norm exceeds ‖∇L‖² from one point to the next.
    """
    at = [point.step for point in measured]
    steps = np.arange(len(rates))
    norms = [max(point.subset_gradient_squared_norm, _LEAST) for point in measured]
    full = np.exp(np.interp(steps, at, np.log(norms)))
    smooth = np.interp(steps, at, [point.smoothness for point in measured])
    noise = np.zeros(len(rates))
    for start, end in pairwise(at):
        excess = np.mean(batch_squared_norms[start:end]) - np.mean(full[start:end])
        noise[start:end] = max(float(excess), 0.0)
    loss, squared_norm = measured[0].subset_loss, measured[0].subset_gradient_squared_norm
    points = []
    for point in measured:
        done = point.step
        descent = descent_bound(loss, rates[:done], full[:done].tolist())
        added = noise_term(rates[:done], smooth[:done].tolist(), noise[:done].tolist())
        printed = printed_formula(loss, rates[:done], squared_norm)
        points.append(
            DescentPoint(
                **asdict(point),
                printed_false=printed,
                descent=descent,
                descent_sgd=descent + added,
            )
        )
    return points


def _squared_norm(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.stack([t.double().square().sum() for t in tensors.values()]).sum())
