"""Muon for matrices and kernels, AdamW for vectors, as one optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Five steps with these bring singular values from [0.01, 1] into about [0.7, 1.2].
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_USUAL_SIZE = 0.2  # root mean square of AdamW's update


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon on parameters of two dimensions or more, AdamW on the others (biases, norms).

    Muon steps along the orthogonal matrix nearest to the momentum (Jordan et al. 2024), so that
    all singular directions of a factor learn, not only the few that dominate its gradient; a
    kernel is the matrix out × (in·taps). Its step has the size that AdamW's usually has (Liu et
    al. 2025): one learning rate, one momentum (AdamW's β₁; its β₂ is 0.99) and one decoupled
    decay serve both; vectors are not decayed. torch's own (from 2.9 on) computes in bfloat16,
    which many CPUs do number by number.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        learning_rate: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        vectors = [p for p in parameters if p.dim() < 2]
        self._adamw = torch.optim.AdamW(
            [{"params": vectors}], lr=learning_rate, betas=(momentum, 0.99), weight_decay=0.0
        )
        matrices = {
            "params": [p for p in parameters if p.dim() >= 2],
            "lr": learning_rate,
            "momentum": momentum,
            "weight_decay": weight_decay,
        }
        super().__init__([matrices, *self._adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step with the parameters' present gradients; a closure is not called."""
        matrices, *vectors = self.param_groups
        for parameter in matrices["params"]:
            if parameter.grad is not None:
                self._step(parameter, parameter.grad, matrices)
        self._adamw.param_groups, self._adamw.state = vectors, self.state
        self._adamw.step()

    def _step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(momentum, group["momentum"]).flatten(1)  # Nesterov
        size = _USUAL_SIZE * math.sqrt(max(direction.shape))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        update = orthogonalized(direction).view_as(parameter)
        parameter.add_(update, alpha=-group["lr"] * size)


def orthogonalized(matrix: Tensor) -> Tensor:
    """About U·Vᵀ of matrix = U·Σ·Vᵀ, by Newton–Schulz iterations: (rows, columns), its dtype."""
    a, b, c = _COEFFICIENTS
    wide = matrix.shape[0] <= matrix.shape[1]
    norm: Tensor = torch.linalg.matrix_norm(matrix)
    found = (matrix if wide else matrix.mT) / norm.clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = found @ found.mT
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found if wide else found.mT
