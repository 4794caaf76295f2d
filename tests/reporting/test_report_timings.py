"""Latency for the summary is looked up by weights and machine; DVC's templates fit the files."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.evaluation.latency import machine_facts
from pipeline.evaluation.timings import Latency, Timings
from pipeline.lowrank.typed import save_record
from pipeline.machine.checksums import file_sha256
from pipeline.reporting import run as reporting
from pipeline.reporting.run.rows import KINDS, columns
from pipeline.reporting.run.timings import FOLDERS, expected_beside, find_timings

TEMPLATES = sorted((Path(reporting.__file__).parent / "templates").glob("*.json"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("LOWRANK_SCRATCH", raising=False)
    for place, folder in enumerate(FOLDERS.values()):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "model.safetensors").write_bytes(bytes([place]) * 99)
    return tmp_path


def _store(scratch: Path, root: Path, name: str, age: int, **changes: Any) -> None:
    weights = {n: file_sha256(root / f / "model.safetensors") for n, f in FOLDERS.items()}
    latency = Latency(float(age), 0.1)
    timings = Timings(machine_facts(2), weights, 32, latency, latency, latency, speedup=1.0)
    path = scratch / "timings" / f"{name}.json"
    save_record(path, replace(timings, **changes))
    os.utime(path, (1e9 - age, 1e9 - age))


def test_nothing_stored_is_none(root: Path) -> None:
    assert find_timings(root) is None


def test_the_newest_of_these_weights_and_this_machine(root: Path) -> None:
    scratch = root / ".scratch"
    _store(scratch, root, "other_machine", 1, machine=replace(machine_facts(2), cpu="abacus"))
    _store(scratch, root, "other_weights", 2, weights=dict.fromkeys(FOLDERS, "0" * 64))
    assert find_timings(root) is None
    _store(scratch, root, "older", 40)
    _store(scratch, root, "newer", 30)
    found = find_timings(root)
    assert found is not None
    assert found.dense.latency_ms == 30.0
    (root / FOLDERS["fine_tuned"] / "model.safetensors").write_bytes(b"retrained")
    assert find_timings(root) is None


def test_shared_scratch_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWRANK_SCRATCH", str(root / "shared"))
    _store(root / "shared", root, "a", 5)
    found = find_timings(root)
    assert found is not None
    assert found.batch_size == 32


def test_what_a_plan_expects_stands_beside_what_was_measured() -> None:
    quiet = Latency(1.0, 0.0)
    timings = Timings(machine_facts(1), {}, 32, Latency(2.0, 0.0), quiet, quiet, speedup=2.0)
    plan: Any = SimpleNamespace(expected=SimpleNamespace(latency=SimpleNamespace(kept=0.6)))
    assert expected_beside(plan, timings) == (
        "The plan expects 60 % of the dense network's latency; measured: 50 %"
    )
    busy = replace(timings, dense=Latency(2.0, 0.0, own_share=0.2))
    assert "measured" not in str(expected_beside(plan, busy))
    plan.expected.latency = None
    assert expected_beside(plan, timings) is None


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_templates_have_dvcs_anchors_and_our_columns(path: Path) -> None:
    text = path.read_text()
    for anchor in ("DATA", "X", "Y"):
        assert f"<DVC_METRIC_{anchor}>" in text
    fields = _fields(json.loads(text)) - {"rev"}
    known = columns(KINDS[path.stem]) if path.stem in KINDS else ()
    assert {f for f in fields if not f.startswith("<DVC_METRIC_")} <= set(known)
    # DVC draws an empty cell as 0; every template leaves it out.
    assert "datum['<DVC_METRIC_Y>'] !== ''" in text


def test_all_templates_are_there() -> None:
    assert [path.stem for path in TEMPLATES] == [
        "energy", "layers", "spectra", "steps", "training", "weights",
    ]  # fmt: skip


def _fields(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(_fields, value))
    if not isinstance(value, dict):
        return set()
    own = {value["field"]} if isinstance(value.get("field"), str) else set()
    return own.union(*map(_fields, value.values()))
