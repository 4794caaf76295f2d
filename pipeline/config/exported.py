"""The quality of an exported network: it is run in the place of the one in memory."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline.data.files import load_split, load_task
from pipeline.data.splits import Split, Values
from pipeline.evaluation.quality import evaluate_quality
from pipeline.lowrank.exports.fresh import run
from pipeline.lowrank.exports.normalised import Constants, Normalised
from pipeline.lowrank.exports.quiet import quiet
from pipeline.lowrank.exports.record import Export
from pipeline.lowrank.exports.to_huggingface import CONFIG
from pipeline.lowrank.exports.to_onnx import FILE
from pipeline.models.heads import adapt

_BATCH = 16


class Session(nn.Module):
    """A session of ONNX Runtime in the place of the network that it was made of."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session

    def forward(self, *given: Tensor, **named: Tensor) -> Tensor | dict[str, Tensor]:
        found = run(self.session, given, named)
        return found["output"] if list(found) == ["output"] else found


class Stored(Split):
    """Examples as they are stored, for a graph that normalises them itself."""

    def normalise(self, stored: Values) -> Values:
        return stored


def quality_line(
    network: nn.Module,
    made: Export,
    folder: Path,
    data: Path,
    constants: Mapping[str, Constants] | None,
) -> str:
    """The task's first measure of the network in memory and of its export on the test split, with
    the sizes of both.

    constants: those of the normalisation that is a part of the export; None: it is none.
    """
    task, split = load_task(data), load_split(data, "test")
    dense = network
    if constants is not None:
        dense, split = Normalised(network, constants), Stored(split.stored, split.labels)
    measure = task.measures[0].name
    exported = _opened(made.to, folder, task.name)
    before = evaluate_quality(dense, split, task, _BATCH)[measure]
    after = evaluate_quality(exported, split, task, _BATCH, dense)[measure]
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    return (
        f"{made.to}, int8: {measure} {before:.4f} → {after:.4f} on {len(split)} test "
        f"examples, {size / 1e6:.2f} → {made.bytes / 1e6:.2f} MB"
    )


def _opened(to: str, folder: Path, task: str) -> nn.Module:
    """The export as a module that is called as the network in memory is."""
    if to == "onnx":
        return Session(importlib.import_module("onnxruntime").InferenceSession(folder / FILE))
    transformers: Any = importlib.import_module("transformers")
    auto = list(json.loads((folder / CONFIG).read_text())["auto_map"])[-1]
    with quiet():
        model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)
    return adapt(model, task)
