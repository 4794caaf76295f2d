"""A tree in which a sweep takes seconds: a small network, little data, no repair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.chain import Tree, make_tree

_EDITS = {
    "conf/config.yaml": [
        ("fine_tune: full", "fine_tune: none"),
        ("methods: narrower", "methods: svd"),
    ],
    "conf/rank_select/_base.yaml": [
        ("budget: 0.2", "budget: 0.5"),
        ("contest_examples: 512", "contest_examples: 0"),
    ],
    "conf/data/_base.yaml": [("train: null", "train: 256")],
    "conf/model/digits_resnet.yaml": [
        ("widths: [24, 48]", "widths: [8, 16]"),
        ("hidden: 128", "hidden: 32"),
    ],
    "conf/baseline/train.yaml": [("epochs: 2", "epochs: 1"), ("snapshots: 4", "snapshots: 0")],
    "conf/certify/_base.yaml": [("examples: 256", "examples: 16")],
    "conf/evaluate/_base.yaml": [
        ("latency_repetitions: 50", "latency_repetitions: 3"),
        ("latency_warmup: 5", "latency_warmup: 1"),
    ],
    "conf/track/_base.yaml": [("live: true #", "live: false #")],
}  # fmt: skip


def make_small_tree(path: Path) -> Tree:
    tree = make_tree(path)
    for file, edits in _EDITS.items():
        for old, new in edits:
            tree.edit(file, old, new)
    tree.run(
        "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qam", "small"
    )
    return tree


def record(tree: Tree, sweep: str) -> dict[str, Any]:
    """The sweep.json of a sweep in the tree."""
    found: dict[str, Any] = json.loads((tree.path / sweep / "sweep.json").read_text())
    return found


def ran_in(jobs: list[dict[str, Any]]) -> list[str]:
    """The stages whose commands ran, over all jobs."""
    return [s for job in jobs for s, outcome in job["stages"].items() if outcome == "ran"]
