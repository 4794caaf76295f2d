"""What analyze knows of each target goes to disk as soon as it is known: the target's metric after
the pass that collected its moments, then its spectra. A process that is stopped leaves both for the
next, which takes them up."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.lowrank.analysis.measurable import Measured
from pipeline.lowrank.analysis.metrics import Metric
from pipeline.lowrank.analysis.options import AnalysisOptions
from pipeline.lowrank.analysis.spectra import Spectra, spilled
from pipeline.lowrank.analysis.stored import StoredMetrics, read_parts
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.typed.kept import keep, kept

_REASON, _NOTE = "reason", "note"


@dataclass(frozen=True)
class Spill:
    """A folder for the metrics and the spectra of one network.

    statistics: on what they depend beside the network, the calibration data and the task; empty
        for the metric `weight`.
    """

    folder: Path
    statistics: str

    @classmethod
    def of(cls, folder: Path, chosen: AnalysisOptions, seed: int) -> Spill:
        """The folder, for these options."""
        if chosen.metric == "weight":
            return cls(folder, "")
        facts = [chosen.metric, chosen.damping, chosen.gradient_share, chosen.bf16, seed]
        return cls(folder, json.dumps(facts))

    def measured(self, name: str, device: torch.device | str) -> Measured | None:
        """What was kept of a target, its numbers in the file or on another device; None where there
        is nothing."""
        path = kept(self.folder, self._key(name, "metric"))
        return None if path is None else _read(path, device)

    def keep(self, name: str, found: Measured, device: torch.device | str) -> Measured:
        """What is known of a target, after it was written and read again as `measured` does it."""
        told = {_NOTE: found.note} | ({_REASON: found.reason} if found.reason else {})
        parts, key = dict(found.parts), self._key(name, "metric")
        return _read(keep(self.folder, key, lambda part: save_file(parts, part, told)), device)

    def spectra(self, name: str, weight: Tensor, groups: int) -> Spectra:
        """The spectra of a target, computed where they were not kept."""

        def whiten(weight: Tensor) -> Tensor:
            return self._metric(name, weight.device).whiten(weight)

        key = self._key(name, "spectra")
        return spilled(self.folder, key, weight, groups, whiten if self.statistics else None)

    def _metric(self, name: str, device: torch.device) -> Metric:
        found = self.measured(name, device)
        if found is None:
            raise LowRankError(f"{self.folder}: the metric of {name!r} is gone; rerun analyze")
        return StoredMetrics({name: found.parts})[name]

    def _key(self, name: str, what: str) -> str:
        """A layer's name may hold what no file's name does."""
        known = json.dumps([name, self.statistics])
        return f"{hashlib.sha256(known.encode()).hexdigest()[:32]}-{what}"


def _read(path: Path, device: torch.device | str) -> Measured:
    parts, told = read_parts(path, device)
    return Measured(parts, told.get(_REASON), told[_NOTE])
