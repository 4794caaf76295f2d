"""Latency for the summary, from the store of timings that is no output of a stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.evaluation.latency import machine_facts
from pipeline.evaluation.timings import FOLDER, Timings, load_timings
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms.shards import weight_files, weights_sha256
from pipeline.lowrank.planning.plan import Plan
from pipeline.machine.scratch import scratch
from pipeline.reporting.words import percent

# The folders of the three networks, by the names they have in metrics.json and in timings.
FOLDERS = {"dense": "out/baseline", "compressed": "out/compressed", "fine_tuned": "out/fine_tuned"}


def find_timings(root: Path) -> Timings | None:
    """The newest timings of exactly these networks on this very machine; None where there are none.

    `measured_once` stored them, in $LOWRANK_SCRATCH or root/.scratch; nothing is measured here.
    """
    stored = sorted(scratch(FOLDER, root).glob("*.json"), key=_age)
    folders = {name: root / folder for name, folder in FOLDERS.items()}
    files = [path for folder in folders.values() for path in weight_files(folder)]
    if not stored or not all(path.is_file() for path in files):
        return None
    weights = {name: weights_sha256(folder) for name, folder in folders.items()}
    for path in stored:
        timings = load_timings(path)
        here = replace(machine_facts(timings.machine.threads), gpu=timings.machine.gpu)
        if timings.weights == weights and timings.machine == here:
            return timings
    return None


def quiet_latency_ms(timings: Timings) -> float:
    """The latency of the last network, as an objective. Raises LowRankError where a busy machine
    spoilt it: a search would take the noise for a gain."""
    if timings.fine_tuned.busy:
        raise LowRankError(
            "objectives: the machine was busy while latency_ms was measured, twice; leave a core "
            "to each job (n_jobs, fabric.threads), or take macs instead"
        )
    return timings.fine_tuned.latency_ms


def expected_beside(plan: Plan, timings: Timings) -> str | None:
    """What the plan expects of the latency beside what was measured; None where latency was not
    what its policy saved."""
    expected = plan.expected.latency
    if expected is None:
        return None
    told = f"The plan expects {percent(expected.kept)} of the dense network's latency"
    return told if timings.busy else f"{told}; measured: {percent(1 / timings.speedup)}"


def _age(path: Path) -> tuple[int, str]:
    """A sorting key that puts the newest first, and equally old ones by name."""
    return -path.stat().st_mtime_ns, path.name
