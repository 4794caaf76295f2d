"""The process of one job: reproduces the DVC workspace in the current directory.

Two jobs that miss the same stage at once would compute it twice, and can corrupt each other's
data. So each stage runs under a file lock named by all that determines it: the commands and
parameters of the stage and of everything upstream. The second job waits, then finds the
result in the run-cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import networkx
import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from filelock import FileLock


def reproduce_here(locks: Path) -> None:
    """Reproduces every stage of the current directory, one at a time, each under its lock.

    Raises DvcException when a stage fails.
    """
    repo = Repo(".")
    chain = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    params = yaml.safe_load(Path("params.yaml").read_text())
    locks.mkdir(parents=True, exist_ok=True)
    graph = repo.index.graph  # edges point from a stage to what it needs
    for stage in reversed(list(networkx.topological_sort(graph))):
        upstream = sorted({s.addressing for s in networkx.descendants(graph, stage)})
        key = stage_key([*upstream, stage.addressing], chain, params)
        with FileLock(locks / f"{stage.addressing}-{key}.lock"):
            repo.reproduce(targets=[stage.addressing], single_item=True)


def stage_key(names: list[str], chain: dict[str, Any], params: dict[str, Any]) -> str:
    """Hash of the commands and parameter values of the stages `names`."""
    determined = [
        [name, chain[name]["cmd"], {key: params[key] for key in chain[name].get("params", [])}]
        for name in names
    ]
    return hashlib.sha256(json.dumps(determined, sort_keys=True).encode()).hexdigest()[:16]


def main() -> int:
    logging.getLogger("dvc").setLevel(logging.INFO)
    try:
        reproduce_here(Path(os.environ["LOWRANK_SCRATCH"]) / "locks")
    except DvcException as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
