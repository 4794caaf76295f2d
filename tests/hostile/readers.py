"""Every reader of files that come from elsewhere, each with a good folder that it reads."""

from __future__ import annotations

import copy
import csv
import json
import shutil
from collections.abc import Callable
from contextlib import chdir, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from pipeline import lowrank as lr
from pipeline.config.compose import compose_params
from pipeline.config.configuration import Configuration
from pipeline.data.files import load_facts, load_split, load_task
from pipeline.data.options import DataOptions
from pipeline.data.preparation import prepare_data
from pipeline.data.preprocessing import load_preprocessing, save_preprocessing
from pipeline.evaluation.quality import evaluate_quality
from pipeline.lowrank.forms.building import build_model
from pipeline.lowrank.forms.weights import load_weights
from pipeline.lowrank.tasks import get_task
from pipeline.lowrank.typed import options_from
from pipeline.machine.checksums import file_sha256
from pipeline.reporting.run.facts import read_facts
from pipeline.reporting.sweep.record import SweepRecord, read_jobs, read_record
from pipeline.reporting.sweep.status import JobStatus, write_status
from stages._io import section
from tests.hostile.trial import Reader
from tests.imports import ROOT
from tests.reporting.report_case import write_case

SPEC: dict[str, Any] = {"_target_": "torch.nn.Linear", "in_features": 12, "out_features": 9}


@cache
def network() -> tuple[nn.Module, lr.Plan]:
    """A small network and a plan for it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 9))
    batch = torch.randn(40, 12, generator=torch.Generator().manual_seed(1))
    return net, lr.plan(net, lr.Budget(params=0.7), calibration=[batch])


def write_network(folder: Path) -> None:
    torch.manual_seed(0)
    net = build_model(SPEC)
    lr.compress_(net, lr.Energy(0.5), torch.randn(4, 12))
    lr.save(net, folder / "small")
    lr.save(build_model(SPEC), folder / "dense")


def sign(folder: Path) -> None:
    """Puts the checksums of the files as they are into network.json, as a forger would."""
    path = folder / "network.json"
    with suppress(ValueError, TypeError, AttributeError):
        told = json.loads(path.read_text())
        told["checksums"] = {"model.safetensors": file_sha256(folder / "model.safetensors")}
        path.write_text(json.dumps(told))


def read_networks(folder: Path) -> None:
    for name in ("small", "dense"):
        lr.load(folder / name)


def read_signed(folder: Path) -> None:
    for name in ("small", "dense"):
        path = folder / name / "network.json"
        before = path.read_bytes()
        sign(folder / name)
        try:
            lr.load(folder / name)
        finally:
            path.write_bytes(before)


def write_plan(folder: Path) -> None:
    lr.save_plan(folder / "plan.json", network()[1])


def read_plan(folder: Path) -> None:
    plan = lr.load_plan(folder / "plan.json")
    str(plan)
    net, made = network()
    lr.apply_(copy.deepcopy(net), plan, made.analysis)


def write_weights(folder: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    save_file(net.state_dict(), folder / "w.safetensors")
    torch.save(net.state_dict(), folder / "w.pt")


def read_weights(folder: Path) -> None:
    for file in ("w.safetensors", "w.pt"):
        load_weights(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), folder / file)


def write_npz(folder: Path) -> None:
    inputs = np.arange(120, dtype=np.float32).reshape(40, 3)
    np.savez(folder / "d.npz", inputs=inputs, labels=np.arange(40) % 3)
    save_file(
        {"inputs": torch.from_numpy(inputs), "labels": torch.arange(40) % 3},
        folder / "d.safetensors",
    )


def write_tables(folder: Path) -> None:
    rows = [{"a": n, "b": n / 2, "label": "no" if n % 2 else "yes"} for n in range(40)]
    (folder / "d.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with (folder / "d.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["a", "b", "label"])
        table.writeheader()
        table.writerows(rows)


def write_images(folder: Path) -> None:
    for number in range(24):
        place = folder / "d" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (5, 4), number * 9).save(place / f"{number}.png")


def prepared(name: str, *files: str, **options: Any) -> Callable[[Path], None]:
    """Reads each file as the stage prepare does."""

    def read(folder: Path) -> None:
        for file in files:
            sizes: dict[str, Any] = {"calibration": 8, "validation": 4, "test": 4}
            chosen = DataOptions(
                name=name, path=str(folder / file), normalise="none", **sizes, **options
            )
            try:
                prepare_data(folder / "out/data", chosen, get_task("classification"), 0)
            finally:
                shutil.rmtree(folder / "out", ignore_errors=True)

    return read


def write_prepared(folder: Path) -> None:
    write_tables(folder)
    options = DataOptions(
        name="table", path=str(folder / "d.csv"), calibration=8, validation=4, test=4
    )
    data = folder / "data"
    facts = prepare_data(data, options, get_task("classification"), 0)
    save_preprocessing(data, facts.preprocessing)
    for file in folder.glob("d.*"):
        file.unlink()


def read_prepared(folder: Path) -> None:
    data = folder / "data"
    load_preprocessing(data)
    task, examples = load_task(data), load_facts(data).examples
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    for split in ("calibration", "test"):
        found = load_split(data, split)
        task.check(examples) if hasattr(task, "check") else None
        evaluate_quality(net, found, task, 4)


def write_params(folder: Path) -> None:
    (folder / "params.yaml").write_text(json.dumps(_coarse(_params())))


def _coarse(value: Any) -> Any:
    """Without numbers such as JSON's 1e-05, which YAML takes for a text."""
    if isinstance(value, dict):
        return {key: _coarse(one) for key, one in value.items()}
    return max(value, 1e-3) if isinstance(value, float) else value


@cache
def _params() -> dict[str, Any]:
    return compose_params(ROOT / "conf")


def read_params(folder: Path) -> None:
    with chdir(folder):
        found = {name: section(name) for name in _params()}
    options_from(Configuration, found, "")


def write_reports(folder: Path) -> None:
    write_case(folder / "case")
    write_status(
        folder / "sweep/0", JobStatus(job=0, overrides=("seed=1",), state="done", started=1.0,
                                      host="here", pid=1)
    )  # fmt: skip
    record = SweepRecord(
        state="done", overrides=(), objectives=("accuracy",), total=1, started=1.0,
        parent_run_id="a", experiment="b", tracking_uri="c", jobs=read_jobs(folder / "sweep"),
    )  # fmt: skip
    from pipeline.lowrank.typed import save_record

    save_record(folder / "sweep/sweep.json", record)


def read_reports(folder: Path) -> None:
    read_facts(folder / "case")
    read_record(folder / "sweep")
    read_jobs(folder / "sweep")


def write_analysis(folder: Path) -> None:
    found = network()[1].analysis
    assert found is not None
    lr.save_analysis(folder / "analysis", found)


def read_analysis(folder: Path) -> None:
    net, analysis = network()[0], lr.load_analysis(folder / "analysis")
    lr.plan_from(net, analysis, lr.Budget(params=0.7), example=torch.zeros(1, 12))


READERS = [
    Reader("network", write_network, read_networks),
    Reader("signed network", write_network, read_signed),
    Reader("plan", write_plan, read_plan, share=0.8),
    Reader("weights", write_weights, read_weights),
    Reader("arrays", write_npz, prepared("tensors", "d.npz", "d.safetensors"), share=0.5),
    Reader("tables", write_tables, prepared("table", "d.jsonl", "d.csv"), share=0.4),
    Reader("images", write_images, prepared("image_folder", "d", colour="grey"), share=0.2),
    Reader("prepared data", write_prepared, read_prepared, share=0.5),
    Reader("params.yaml", write_params, read_params, share=0.5),
    Reader("reports", write_reports, read_reports),
    Reader("analysis", write_analysis, read_analysis, share=0.5),
]
