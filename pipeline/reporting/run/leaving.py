"""What a network of a run takes along when it leaves: examples, tokenizer, normalisation, and what
the run found out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from pipeline.data.files import DATA_JSON, load_split
from pipeline.data.preprocessing import load_preprocessing
from pipeline.data.splits import Split, Values, taken
from pipeline.lowrank.exports.normalised import Constants
from pipeline.lowrank.planning.files import load_plan
from pipeline.models.huggingface import load_tokenizer
from pipeline.reporting.run.metrics import FILE, read_metrics

_EXAMPLES, _TOKENS = 4, 64  # of a call: an export is compared, not measured
_CALIBRATION, _BATCH = 256, 16


def data_of(workspace: Path | None) -> Path | None:
    """The prepared data of the run; None where there are none."""
    folder = None if workspace is None else workspace / "out/data"
    return folder if folder is not None and (folder / DATA_JSON).is_file() else None


def example(data: Path, *, stored: bool) -> Any:
    """The first examples of the test split.

    stored: as they are stored, not normalised.
    """
    values = _rows(load_split(data, "test"), slice(0, _EXAMPLES), stored=stored)
    if isinstance(values, dict):
        return {key: _short(value) for key, value in values.items()}
    return _short(values)


def batches(data: Path, *, stored: bool) -> list[Any]:
    """Batches of the calibration split, by which 8 bits choose their ranges."""
    split = load_split(data, "calibration")
    starts = range(0, min(len(split), _CALIBRATION), _BATCH)
    return [_rows(split, slice(s, s + _BATCH), stored=stored) for s in starts]


def _rows(split: Split, rows: slice, *, stored: bool) -> Values:
    return taken(split.stored, rows) if stored else split.batch(rows)[0]


def _short(value: Tensor) -> Tensor:
    is_tokens = value.dim() == 2 and value.dtype == torch.int64
    return value[:, :_TOKENS] if is_tokens else value


def tokenizer(workspace: Path | None) -> Any:
    """The tokenizer of the run's network; None where the run does not say which that is."""
    params = {} if workspace is None else yaml.safe_load((workspace / "params.yaml").read_text())
    model = params.get("model", {})
    if not str(model.get("_target_", "")).endswith("huggingface.load"):
        return None
    return load_tokenizer(model["name"], model.get("sha256"))


def constants(folder: Path) -> Mapping[str, Constants]:
    channels = load_preprocessing(folder).channels
    return {name: Constants(one.mean, one.std) for name, one in channels.items()}


def notes(workspace: Path | None) -> list[str]:
    """Quality, sizes, certificate and plan of the run, in Markdown."""
    if workspace is None or not (workspace / "reports" / FILE).is_file():
        return []
    metrics = read_metrics(workspace / "reports" / FILE)
    networks = [one.figures() for one in metrics.networks.values()]
    head = f"| | {' | '.join(metrics.networks)} |"
    rows = [
        f"| {name} | {' | '.join(f'{figures[name]:.6g}' for figures in networks)} |"
        for name in networks[0]
    ]
    table = "\n".join(["## What it was measured to be", "", head, "|---|---|---|---|", *rows])
    error = metrics.output_error
    certified = (
        f"The output's error before fine-tuning is at most {error.measured:.3g} on the examples "
        "that were measured"
    )
    if error.certified:
        certified += f", and certified to be at most {error.certificate:.3g} on them"
    plan = f"## The plan\n```text\n{load_plan(workspace / 'out/plan.json')}\n```"
    return [table, certified + ".", plan]
