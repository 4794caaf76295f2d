"""What is neither an input nor an output of a stage: kept beside the runs, under a key."""

from __future__ import annotations

import os
from pathlib import Path


def scratch(folder: str, root: Path = Path()) -> Path:
    """The folder of that name in $LOWRANK_SCRATCH, by default in root/.scratch."""
    return Path(os.environ.get("LOWRANK_SCRATCH") or root / ".scratch") / folder
