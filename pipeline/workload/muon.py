"""Muon for matrices and AdamW for what is none, as one optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.lowrank.errors import LowRankError


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon on parameters of two dimensions, AdamW on all others (biases, norms, kernels).

    Muon steps along the nearest orthogonal matrix of the momentum (Jordan et al. 2024), so that
    all singular directions of a factor learn, not only the few that dominate its gradient. Its
    step has the size that AdamW's usually has (Liu et al. 2025): one learning rate, one
    momentum (AdamW's β₁; its β₂ is 0.99) and one decoupled decay serve both.

    Raises LowRankError where there is no matrix, and for a torch before 2.9.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        learning_rate: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise LowRankError(
                f"optimizer=muon: torch {torch.__version__} has no Muon; install torch 2.9 or "
                "newer, or choose adamw"
            )
        matrices = [p for p in parameters if p.dim() == 2]
        if not matrices:
            raise LowRankError("optimizer=muon: nothing that is trained is a matrix; choose adamw")
        others = [
            {"params": [p for p in parameters if p.dim() > 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        self._muon = torch.optim.Muon(
            matrices,
            lr=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        self._adamw = torch.optim.AdamW(others, lr=learning_rate, betas=(momentum, 0.99))
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of both, on this optimizer's groups and state."""
        if closure is not None:
            raise NotImplementedError("the loop calls backward itself")
        for part, groups in (
            (self._muon, self.param_groups[:1]),
            (self._adamw, self.param_groups[1:]),
        ):
            part.param_groups, part.state = groups, self.state
            part.step()  # type: ignore[no-untyped-call]
