"""A folder for files that are neither inputs nor outputs of a stage, kept beside the runs under a
key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


def scratch(folder: str, root: Path = Path()) -> Path:
    """The scratch folder of that name, in $LOWRANK_SCRATCH or by default in root/.scratch."""
    return Path(os.environ.get("LOWRANK_SCRATCH") or root / ".scratch") / folder


@contextmanager
def scratch_for_now(folder: str) -> Iterator[Path]:
    """An empty folder in the scratch folder of that name, which is gone after the context."""
    parent = scratch(folder)
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=parent) as made:
        yield Path(made)
