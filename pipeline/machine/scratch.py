"""What is neither an input nor an output of a stage: kept beside the runs, under a key."""

from __future__ import annotations

import os
from pathlib import Path


def scratch(folder: str, root: Path = Path()) -> Path:
    """The folder of that name in $LOWRANK_SCRATCH, by default in root/.scratch."""
    return Path(os.environ.get("LOWRANK_SCRATCH") or root / ".scratch") / folder


def write_whole(path: Path, text: str) -> None:
    """Whole or not at all, also where two runs write at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(text)
    part.replace(path)
