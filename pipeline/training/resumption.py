"""Keeps a training's state on disk, so that a training that was stopped continues where it was."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipeline.machine.scratch import scratch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

State = dict[str, Any]

_SECONDS = 60.0  # seconds of training that an interruption may lose


class Resumption:
    """Keeps the state of one training in a file, at most once a minute.

    key: all that the result depends on, in JSON's types; precision, strategy and number of
    devices are those of `fabric`. The file is named by the checksum of these, so that a training
    of anything else starts afresh, and is removed when the training is done.
    """

    def __init__(self, key: Any, fabric: Fabric, seconds: float = _SECONDS) -> None:
        strategy = fabric.strategy
        way = [type(strategy).__name__, strategy.precision.precision, fabric.world_size]
        name = hashlib.sha256(json.dumps([key, way], sort_keys=True).encode()).hexdigest()
        self.file = scratch("training") / f"{name}.ckpt"
        self._seconds, self._last = seconds, time.monotonic()

    def load(
        self, fabric: Fabric, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> State | None:
        """The state that `offer` was last given, with model and optimizer set to what they were
        then; None where nothing is kept."""
        if not self.file.is_file():
            return None
        state = fabric.load(self.file, {"model": model, "optimizer": optimizer})
        torch.set_rng_state(state.pop("random"))
        return state

    def offer(
        self,
        fabric: Fabric,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        make: Callable[[], State],
    ) -> None:
        """Keeps model, optimizer and the state that `make` returns (tensors and plain types), if a
        minute has passed."""
        if not fabric.broadcast(time.monotonic() - self._last >= self._seconds):
            return
        part = self.file.with_suffix(".part")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        own = {"model": model, "optimizer": optimizer, "random": torch.get_rng_state()}
        fabric.save(part, own | make())
        if fabric.is_global_zero:
            os.replace(part, self.file)
        self._last = time.monotonic()

    def finish(self, fabric: Fabric) -> None:
        """Forgets the training: it is done."""
        fabric.barrier()
        if fabric.is_global_zero:
            self.file.unlink(missing_ok=True)
