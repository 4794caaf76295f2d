"""The matrices of a network at a few moments of its training, on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms.building import build_model
from pipeline.lowrank.forms.files import NETWORK, read_network
from pipeline.lowrank.forms.weights import load_weights
from pipeline.lowrank.typed.content import checked

INIT = "init.safetensors"
FOLDER = "snapshots"


class Snapshots:
    """Keeps `count` evenly spaced states between the first step and the last, in
    folder/snapshots/<step>.safetensors: the weight matrices and kernels alone.

    Only reads the network: training gives the same bits with and without it.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._count = folder / FOLDER, count

    def __call__(self, model: nn.Module, step: int, total: int) -> None:
        """Writes the state if it is one of those to keep; see `snapshot_steps`."""
        if step not in snapshot_steps(self._count, total):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        matrices = {
            name: value.detach().cpu().contiguous()
            for name, value in model.named_parameters()
            if value.dim() > 1
        }
        save_file(matrices, self._folder / f"{step:08d}.safetensors")


def snapshot_steps(count: int, total: int) -> set[int]:
    """`count` steps that cut 0…total into equal parts; fewer where there are fewer steps."""
    return {round(total * i / (count + 1)) for i in range(1, count + 1)} - {0, total}


def training_states(
    folder: Path, before: int, builder: Mapping[str, Any] | None
) -> Iterator[tuple[int, nn.Module]]:
    """(step, network) of the initial state and of the snapshots before step `before`.

    folder: a network folder of the baseline stage that holds init.safetensors. builder: how its
    network, which was loaded, was built. One module, whose matrices change from one state to the
    next; all else in it stays initial.
    """
    file = read_network(folder)
    assert builder is not None, "the stage baseline writes it"
    model = build_model(builder)
    load_weights(model, checked(folder, INIT, file.checksums, NETWORK))
    yield 0, model
    for name in states_in(folder)[1:]:
        step = int(Path(name).stem)
        if step < before:
            _load_matrices(model, checked(folder, name, file.checksums, NETWORK))
            yield step, model


def states_in(folder: Path) -> list[str]:
    """The files of states in a network folder of the baseline stage, by their names in it: the
    initial one, and the snapshots in their order."""
    return [
        INIT,
        *(f"{FOLDER}/{path.name}" for path in sorted((folder / FOLDER).glob("*.safetensors"))),
    ]


def _load_matrices(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(load_file(path), strict=False)
    except (SafetensorError, RuntimeError) as error:
        raise LowRankError(
            f"{path}: does not fit the model ({error}); rerun dvc repro --force baseline"
        ) from error
