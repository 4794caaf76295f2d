"""What a job is doing, on disk: one small JSON file in its workspace, replaced whole.

Whoever watches a sweep (the launcher's live view, the comparison, a person with cat) reads
these files: they look the same under every launcher, on one machine or on a shared file system.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "status.json"
LOG = "job.log"
# Of a job that ends well, and of one that did not: failed by itself, or was ended by others.
DONE, FAILED, STOPPED, RUNNING = "done", "failed", "stopped", "running"


def write_whole(path: Path, value: Any) -> None:
    """Writes JSON so that a reader sees the old file or the new one, never a part."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(value, indent=2) + "\n")
    part.replace(path)


def read_status(workspace: Path) -> dict[str, Any]:
    """The job's status; empty when it has not begun."""
    try:
        status: dict[str, Any] = json.loads((workspace / FILE).read_text())
    except FileNotFoundError:
        return {}
    return status


def update_status(workspace: Path, **changes: Any) -> None:
    """Changes some fields. A job has one writer at a time: its own process, or the runner that
    this waits for."""
    write_whole(workspace / FILE, {**read_status(workspace), **changes})


def is_alive(status: Mapping[str, Any]) -> bool:
    """Whether the process of a running job is there; assumed of one on another machine."""
    if status.get("host") != socket.gethostname():
        return True
    try:
        os.kill(status["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
