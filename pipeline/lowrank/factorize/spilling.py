"""Factorized layers that go to disk as soon as they are built. A process that is stopped leaves the
finished ones for the next, which takes them up."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.lowrank.factorize.layer import LayerReport
from pipeline.lowrank.forms.surgery import Factorized
from pipeline.lowrank.forms.weights import load_weights, tied_once
from pipeline.lowrank.typed import from_json
from pipeline.lowrank.typed.kept import keep, kept

_REPORT = "report"


def take_up(folder: Path, name: str, empty: Factorized) -> LayerReport | None:
    """The report of a layer that `put_away` wrote, whose factors `empty` then holds, in the file;
    None where there is none.

    empty: what `surgery.unfilled` makes for the method and the ranks of the plan.
    """
    path = kept(folder, _key(name, empty))
    if path is None:
        return None
    with safe_open(path, framework="pt") as file:
        told = json.loads(file.metadata()[_REPORT])
    load_weights(empty, path, mapped=True)
    return from_json(told, LayerReport, str(path), "remove it, and it is made again")


def put_away(folder: Path, name: str, layer: Factorized, report: LayerReport | None) -> Path:
    """Writes the numbers of a layer to a file of the folder, and returns it.

    report: of the layer; one without it is not taken up.
    """
    key = _key(name, layer) if report is not None else f"{_key(name, layer)}-alone"
    told = {_REPORT: json.dumps(asdict(report))} if report is not None else {}
    state = tied_once(layer.state_dict())
    return keep(folder, key, lambda part: save_file(state, part, told))


def _key(name: str, layer: Factorized) -> str:
    """A layer's name may hold what no file's name does."""
    known = f"{name} {layer.form.name} {list(layer.ranks)}"
    return hashlib.sha256(known.encode()).hexdigest()[:32]
