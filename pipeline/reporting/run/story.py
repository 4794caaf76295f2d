"""All that is known of one run, from its workspace: what its page is made of."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from pipeline.data.files import DataFacts, load_facts, load_task
from pipeline.evaluation.timings import Timings
from pipeline.lowrank.tasks.measure import Measure
from pipeline.reporting.intervals import Interval, interval
from pipeline.reporting.run.facts import Facts, read_facts
from pipeline.reporting.run.layers import LayerRow, read_layers
from pipeline.reporting.run.measures import measures
from pipeline.reporting.run.metrics import FILE as METRICS
from pipeline.reporting.run.metrics import Metrics, Network, read_metrics
from pipeline.reporting.run.timings import find_timings

_TRANSFORMER = "pipeline.models.huggingface.load"  # conf/model/huggingface.yaml
_PACKAGES = ("torch", "tensorly", "lightning-fabric", "safetensors")


@dataclass(frozen=True)
class Origin:
    """Where a run comes from.

    folder: of the workspace, relative to the repository where it lies in it.
    command: makes the run again, in the repository.
    commit: of the code, with "-dirty" behind it where files were changed; None outside of Git.
    params: the content of params.yaml, as text.
    versions: {package: its version}.
    """

    folder: str
    command: str
    commit: str | None
    params: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Story:
    """A run: the results of its stages, the figures of its networks, how long they take (None
    where it was not measured on this machine), its data, and where it comes from. `unit`: of the
    divergence of two networks; `subject`: what was compressed, in words; `is_transformer`: whether
    it is a model of transformers."""

    facts: Facts
    metrics: Metrics
    layers: tuple[LayerRow, ...]
    timings: Timings | None
    data: DataFacts
    unit: str
    subject: str
    origin: Origin
    is_transformer: bool

    @property
    def measures(self) -> list[Measure]:
        """Of the networks, the most telling one first."""
        return measures(self.metrics.dense.scores, self.metrics.measures)

    def interval(self, measure: Measure, network: Network) -> Interval | None:
        """The 95 % interval of a network's score, where one is known."""
        return interval(measure, network.scores, self.data.task, self.data.sizes["test"])


def read_story(root: Path) -> Story:
    """Reads the workspace of a run that is done. Raises LowRankError where a file is missing."""
    reports, data = root / "reports", load_facts(root / "out/data")
    text = (root / "params.yaml").read_text(encoding="utf-8")
    params = yaml.load(text, Loader=yaml.CSafeLoader)
    return Story(
        facts=read_facts(root / "out"),
        metrics=read_metrics(reports / METRICS),
        layers=read_layers(reports),
        timings=find_timings(root),
        data=data,
        unit=load_task(root / "out/data").unit,
        subject=subject_of(params),
        origin=_origin(root, text),
        is_transformer=params["model"]["_target_"] == _TRANSFORMER,
    )


def subject_of(params: Mapping[str, Any]) -> str:
    """What a run compresses, in words: "ResNet on digits", or a model's own name."""
    model = params["model"]
    if model["_target_"] == _TRANSFORMER:  # a name on the hub, or a path
        return f"{str(model['name']).rstrip('/').rpartition('/')[2]} on {params['data']['name']}"
    return f"{model['_target_'].rpartition('.')[2]} on {params['data']['name']}"


def _origin(root: Path, params: str) -> Origin:
    repository = Path(os.environ.get("LOWRANK_ROOT", ".")).absolute()
    folder = root.absolute()
    inside = folder.is_relative_to(repository)
    return Origin(
        folder=str(folder.relative_to(repository)) if inside else str(folder),
        command=_command(root),
        commit=_commit(repository),
        params=params,
        versions={name: version(name) for name in _PACKAGES},
    )


def _command(root: Path) -> str:
    """As it was given: a job's options are those that its own Hydra noted."""
    noted = root / ".hydra/overrides.yaml"
    if not noted.is_file():
        return "dvc repro"
    overrides = yaml.load(noted.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    return shlex.join(["python", "-m", "pipeline", *map(str, overrides)])


def _commit(repository: Path) -> str | None:
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
        cwd=repository,
    )
    return git.stdout.strip() if git.returncode == 0 else None
