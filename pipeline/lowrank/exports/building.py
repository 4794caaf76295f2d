"""How a fresh process builds the user's own module, or what it checks where nobody told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from pipeline.lowrank.exports.base import Check
from pipeline.lowrank.exports.calls import Call
from pipeline.lowrank.exports.fresh import PROJECT
from pipeline.lowrank.forms.shards import WEIGHTS


def building(builder: Mapping[str, Any] | None) -> str | None:
    """Python that makes `network`, the dense module, without this project; None where nobody told
    how it is built, or where its class is this project's own."""
    target = str(builder.get("_target_", "")) if builder else ""
    home, _, name = target.rpartition(".")
    if not builder or not home or target.partition(".")[0] in PROJECT:
        return None
    arguments = ", ".join(f"{k}={v!r}" for k, v in builder.items() if k != "_target_")
    return f"from {home} import {name}\nnetwork = {name}({arguments})\n"


def weights_check(network: nn.Module, folder: Path) -> Check:
    """All tensors of the file against those in memory."""
    state = network.state_dict()
    code = (
        "from safetensors.torch import load_file\n"
        f"tensors = load_file(folder + '/{WEIGHTS}')\n"
        "model = lambda: tensors\n"
    )
    expected = {key: state[key].detach() for key in load_file(folder / WEIGHTS)}
    return Check("weights", code, [Call()], [expected])
