"""A folder for files that are neither inputs nor outputs of a stage, kept beside the runs under a
key."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from pipeline.machine.checksums import content_sha256


def scratch(folder: str, root: Path = Path()) -> Path:
    """The scratch folder of that name, in $LOWRANK_SCRATCH or by default in root/.scratch."""
    return Path(os.environ.get("LOWRANK_SCRATCH") or root / ".scratch") / folder


def scratch_for(folder: str, read: Iterable[Path]) -> Path:
    """A folder in the scratch folder of that name for what is made of these files and folders: a
    run that was stopped finds it again, and no run of others does."""
    content = "".join(content_sha256(path) for path in read)
    return scratch(folder) / hashlib.sha256(content.encode()).hexdigest()
