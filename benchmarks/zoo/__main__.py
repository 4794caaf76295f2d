"""python -m benchmarks.zoo: tries every network in every metric, one after the other."""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch

from benchmarks.zoo import vision
from benchmarks.zoo.checks import try_network
from benchmarks.zoo.coverage import Coverage, coverage_of
from benchmarks.zoo.entry import Entry
from benchmarks.zoo.pages import NetworkRecord, ZooRecord, write
from benchmarks.zoo.registry import chosen
from pipeline.lowrank.analysis.options import MetricName

METRICS: tuple[MetricName, ...] = get_args(MetricName)
DOCS = Path(__file__).parents[2] / "docs"


def tried(entry: Entry, metrics: Sequence[MetricName]) -> NetworkRecord:
    """One network in these metrics; its coverage is that of the first plan that was made."""
    coverage: Coverage | None = None
    failed = {}
    for metric in metrics:
        started = time.perf_counter()
        outcome = try_network(entry, metric)
        if outcome.plan is not None and coverage is None:
            coverage = coverage_of(entry.build(), outcome.plan)
        failed[metric] = outcome.failed
        seconds = time.perf_counter() - started
        told = "; ".join(f"{check}: {line}" for check, line in outcome.failed.items()) or "passes"
        reached = "" if coverage is None else f"{coverage.reached:7.1%}"
        print(f"{entry.name:45} {metric:7} {seconds:5.1f} s {reached} {told}", flush=True)
    return NetworkRecord(coverage, failed)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], help="shell-style patterns of names")
    parser.add_argument("--metric", nargs="+", default=list(METRICS), choices=METRICS)
    parser.add_argument(
        "--to", type=Path, help="folder for the page and the record (default: docs, where all runs)"
    )
    given = parser.parse_args()
    try:
        networks = chosen(given.only)
        if any(entry.family == "timm" for entry in networks):
            vision.import_vision()
    except (ValueError, ModuleNotFoundError) as error:
        parser.error(str(error))
    warnings.simplefilter("ignore")  # of networks that are none of this project's
    torch.set_num_threads(1)
    record = ZooRecord({entry.name: tried(entry, given.metric) for entry in networks})
    whole = not given.only and tuple(given.metric) == METRICS
    if (folder := given.to or (DOCS if whole else None)) is not None:
        write(folder, record)
    failing = [name for name, one in record.networks.items() if not one.is_whole]
    print(f"{len(networks) - len(failing)} passed, {len(failing)} failed")


if __name__ == "__main__":
    main()
