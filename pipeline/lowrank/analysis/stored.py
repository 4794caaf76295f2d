"""Metrics as they are stored: in float32, by which they are defined, in memory or in files. One in
float64 is made when it is asked for, and takes memory for as long as it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.lowrank.analysis.metrics import Metric
from pipeline.lowrank.errors import LowRankError

_FILE = "metrics.safetensors"

Parts = Mapping[str, Tensor]  # {field of a metric: its numbers, float32}


class StoredMetrics(Mapping[str, Metric]):
    """{target: its metric}, of {target: its parts}."""

    def __init__(self, parts: Mapping[str, Parts]) -> None:
        self.parts = parts

    def __getitem__(self, name: str) -> Metric:
        found = {key: value.double() for key, value in self.parts[name].items()}
        return Metric(found.get("left"), found["right"], found.get("mean"))

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def parts_of(metric: Metric) -> Parts:
    """The numbers of a metric as they are stored."""
    found = {key: value for key, value in vars(metric).items() if value is not None}
    return {key: value.float().contiguous() for key, value in found.items()}


def save_metrics(folder: Path, metrics: Mapping[str, Metric]) -> None:
    """Writes folder/metrics.safetensors (float32); writes nothing where there are no metrics."""
    if not metrics:
        return
    known = metrics.parts if isinstance(metrics, StoredMetrics) else None
    parts = known or {name: parts_of(metric) for name, metric in metrics.items()}
    tensors = {f"{name}/{key}": value for name in parts for key, value in parts[name].items()}
    save_file(tensors, folder / _FILE)


def load_metrics(folder: Path, device: torch.device | str = "cpu") -> StoredMetrics:
    """Reads what `save_metrics` wrote, to `device`; on the CPU the numbers stay in the file, and
    are read when they are needed. Raises LowRankError when it is missing or damaged."""
    path = folder / _FILE
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in read_parts(path, device)[0].items():
        name, _, part = key.rpartition("/")
        found.setdefault(name, {})[part] = value
    if not all("right" in parts for parts in found.values()):
        raise LowRankError(f"{path}: no readable metrics (parts are missing); rerun analyze")
    return StoredMetrics(found)


def read_parts(
    path: Path, device: torch.device | str
) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """(the tensors of a file, which stay there on the CPU; its metadata). Raises LowRankError where
    it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            told = file.metadata() or {}
        return {key: value.to(device) for key, value in found.items()}, told
    except (OSError, SafetensorError, RuntimeError) as error:
        raise LowRankError(f"{path}: no readable metrics ({error}); rerun analyze") from error
