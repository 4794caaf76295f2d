"""How long each stage took, kept in the scratch folder, as outputs of stages hold no times.

A duration is kept under what determines the stage: its command and parameters, and those of every
stage before it. So a stage that came from the cache has the duration of the run that computed it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.lowrank.typed import load_record, save_record
from pipeline.machine.scratch import scratch

FOLDER = "durations"  # of the scratch folder
# What makes the parameters, and what reads durations.
_WITHOUT = ("configure", "track")


@dataclass(frozen=True)
class Duration:
    """The time of one stage from its beginning to its end, less that of starting Python."""

    stage: str
    seconds: float


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """A context that is the stage in the current directory: its duration is kept where it ends
    well. A stage that no dvc.yaml here names is not timed."""
    begun = time.monotonic()
    yield
    key = _keys(Path()).get(stage)
    if key is not None:
        folder = scratch(FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        save_record(folder / f"{key}.json", Duration(stage, time.monotonic() - begun))


def durations(root: Path, before: str | None = None) -> dict[str, float]:
    """{stage: its seconds when it was last computed here}, in the order of the chain in `root`;
    without those that were computed elsewhere.

    before: only the stages before this one.
    """
    folder, found = scratch(FOLDER, root), {}
    for stage, key in _keys(root).items():
        if stage == before:
            break
        path = folder / f"{key}.json"
        if path.is_file():
            remedy = "delete this file: it is written again where the stage is computed again"
            found[stage] = load_record(path, Duration, remedy).seconds
    return found


def _keys(root: Path) -> dict[str, str]:
    """{stage: hash of the commands and parameters of it and of the stages before it}."""
    if not all((root / name).is_file() for name in ("dvc.yaml", "params.yaml")):
        return {}
    stages: Mapping[str, Any] = _read(root / "dvc.yaml")["stages"]
    params = _read(root / "params.yaml")
    before: list[object] = []
    keys = {}
    for name, stage in stages.items():
        if name not in _WITHOUT:
            before.append([stage["cmd"], {key: params[key] for key in stage.get("params", [])}])
            keys[name] = hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()
    return keys


def _read(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
