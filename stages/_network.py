"""The networks of this run, for the stages that read them."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pipeline.lowrank.forms.files import load
from stages._io import section


def load_network(folder: Path) -> nn.Module:
    """A network of this run, which may be of the class that params.yaml names. Its numbers stay in
    the file, which no stage writes that reads it."""
    return load(folder, allow=named_code(), mapped=True)


def named_code() -> list[str]:
    """The class or function that params.yaml names as the network."""
    return [section("model")["_target_"]]
