"""What a refinement has done so far, in a file, so that one that was stopped goes on there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.lowrank.factorize.report import RefinedBlock
from pipeline.lowrank.typed import from_json
from pipeline.lowrank.typed.kept import keep, kept

_REMEDY = "remove it"


class Progress:
    """The blocks that are done, with their tensors in a safetensors file, which is named by the
    checksum of all that the result depends on, and by its own: one that is damaged is warned of,
    and nothing is done then.

    done: how many blocks are done.
    seconds: the time that they took.
    blocks: {name: what became of it} of those of them that were trained.
    """

    def __init__(
        self, folder: Path | None, model: nn.Module, given: Sequence[Tensor | object]
    ) -> None:
        """folder: of the file; None keeps nothing. model: as it is at the beginning; given: what
        else the result depends on, tensors and what repr tells whole."""
        self._folder, self._name = folder, ""
        self._file: Path | None = None
        if folder is not None:
            self._name = _checksum([*model.state_dict().values(), *given])
            self._file = kept(folder, self._name)
        self.done, self.seconds = 0, 0.0
        self.blocks: dict[str, RefinedBlock] = {}

    def resume_(self, model: nn.Module, blocks: Sequence[str]) -> None:
        """Reads the file, where there is one, and gives the blocks of `model` what it holds. Raises
        LowRankError for a file of another version."""
        if self._file is None:
            return
        with safe_open(self._file, "pt") as stored:
            told = stored.metadata() or {}
            self.done, self.seconds = int(told["done"]), float(told["seconds"])
            self.blocks = {
                name: from_json(value, RefinedBlock, str(self._file), _REMEDY)
                for name, value in json.loads(told["blocks"]).items()
            }
            for block in blocks[: self.done]:
                module = model.get_submodule(block)
                keys = module.state_dict()
                module.load_state_dict({k: stored.get_tensor(f"{block}.{k}") for k in keys})

    def keep(self, model: nn.Module, blocks: Sequence[str], seconds: float) -> None:
        """One more block is done, after so many seconds in all; another refinement that is killed
        now goes on behind it."""
        self.done, self.seconds = self.done + 1, seconds
        if self._folder is None:
            return
        tensors = {
            f"{block}.{key}": tensor.clone()
            for block in blocks[: self.done]
            for key, tensor in model.get_submodule(block).state_dict().items()
        }
        records = {name: asdict(block) for name, block in self.blocks.items()}
        told = {"done": str(self.done), "seconds": repr(seconds), "blocks": json.dumps(records)}
        self._file = keep(self._folder, self._name, lambda part: save_file(tensors, part, told))

    def finish(self) -> None:
        """Forgets the refinement: it is done."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)


def _checksum(given: Sequence[Tensor | object]) -> str:
    found = hashlib.sha256()
    for one in given:
        told = one.detach().cpu().contiguous() if isinstance(one, Tensor) else one
        if isinstance(told, Tensor):
            found.update(f"{told.dtype} {tuple(told.shape)}".encode())
            found.update(told.flatten().view(torch.uint8).numpy().data)
        else:
            found.update(repr(told).encode())
    return found.hexdigest()
