"""Keeps a training's state on disk, so that a training that was stopped continues where it was."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipeline.lowrank.errors import LowRankError, reason_of
from pipeline.lowrank.typed.kept import to_disk
from pipeline.machine.checksums import file_sha256
from pipeline.machine.scratch import scratch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

State = dict[str, Any]

_SECONDS = 60.0  # seconds of training that an interruption may lose


class Resumption:
    """Keeps the state of one training in a file, at most once a minute.

    key: all that the result depends on, in JSON's types; precision, strategy and number of
    devices are those of `fabric`. The file is named by the checksum of these, so that a training
    of anything else starts afresh, and by the checksum of its content, so that one that was cut or
    changed is known. It is removed when the training is done.
    """

    def __init__(self, key: Any, fabric: Fabric, seconds: float = _SECONDS) -> None:
        strategy = fabric.strategy
        way = [type(strategy).__name__, strategy.precision.precision, fabric.world_size]
        self.name = hashlib.sha256(json.dumps([key, way], sort_keys=True).encode()).hexdigest()
        self.folder = scratch("training")
        self._seconds, self._last = seconds, time.monotonic()

    def files(self) -> list[Path]:
        """What is kept of this training, the latest first: one file, or, of a process that was
        killed between writing a new one and removing the last, two."""
        found = self.folder.glob(f"{self.name}.*.ckpt")
        return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)

    def load(
        self, fabric: Fabric, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int
    ) -> State | None:
        """The state that `offer` was last given, with model and optimizer set to what they were
        then; None where nothing is kept. A file that is damaged is told and removed.

        steps: of the whole training; a state that claims to have done more is damaged.
        """
        whole = self._whole(steps) if fabric.is_global_zero else None
        file: Path | None = fabric.broadcast(whole)
        if file is None:
            return None
        try:
            state = fabric.load(file, {"model": model, "optimizer": optimizer})
            torch.set_rng_state(state.pop("random"))
        except Exception as error:  # whole, and of another training, such as an older version's
            raise self.unusable(error) from error
        return state

    def unusable(self, error: Exception) -> LowRankError:
        """Removes what is kept, which turned out not to fit this training; the error to
        raise, since the network may hold parts of it."""
        for file in self.files():
            file.unlink(missing_ok=True)
        return LowRankError(
            f"{self.folder}: the state of a training that was stopped does not fit it "
            f"({reason_of(error)}) and was removed; run the same command again"
        )

    def _whole(self, steps: int) -> Path | None:
        for file in self.files():
            problem = _problem(file, steps)
            if problem is None:
                return file
            file.unlink(missing_ok=True)
            print(
                f"warning: {file}: the state of a training that was stopped is damaged ({problem}) "
                "and was removed; what it held is trained again",
                file=sys.stderr,
            )
        return None

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
        part = self.folder / f"{self.name}.part"
        self.folder.mkdir(parents=True, exist_ok=True)
        own = {"model": model, "optimizer": optimizer, "random": torch.get_rng_state()}
        fabric.save(part, own | make())
        if fabric.is_global_zero:
            self._publish(part)
        self._last = time.monotonic()

    def _publish(self, part: Path) -> None:
        """Puts the new state in the place of the last: there is a whole one at any moment, also
        where the machine loses its power."""
        last = self.files()
        file = self.folder / f"{self.name}.{file_sha256(part)}.ckpt"
        to_disk(part)
        os.replace(part, file)
        to_disk(self.folder)
        for one in last:
            if one != file:
                one.unlink(missing_ok=True)

    def finish(self, fabric: Fabric) -> None:
        """Forgets the training: it is done."""
        fabric.barrier()
        if fabric.is_global_zero:
            for file in (*self.files(), self.folder / f"{self.name}.part"):
                file.unlink(missing_ok=True)


def _problem(file: Path, steps: int) -> str | None:
    """What is wrong with a kept state, before anything of it is used; None where nothing is."""
    if file.name.split(".")[1] != file_sha256(file):
        return "its content is not what was written"
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        done = state["done"]
    except Exception:  # unpickling bytes that are no state raises whatever they mean
        return "it is no state of a training"
    if type(done) is not int or not 0 < done <= steps:
        return f"it claims {done!r} of {steps} steps"
    return None
