"""A folder for files that are neither inputs nor outputs of a stage, kept beside the runs under a
key."""

from __future__ import annotations

import os
from pathlib import Path


def scratch(folder: str, root: Path = Path()) -> Path:
    """The scratch folder of that name, in $LOWRANK_SCRATCH or by default in root/.scratch."""
    return Path(os.environ.get("LOWRANK_SCRATCH") or root / ".scratch") / folder
