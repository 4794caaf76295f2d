"""Keys that were renamed, so that the error of an old one names the new one."""

from __future__ import annotations

RENAMED = {
    "decompose": "methods",
    "decompose.methods": "methods.names",
    "model.task": "task.name",
    "data.text.task": "task.name",
    "analyze.holdout": "data.held_out",
    "rank_select.cost": "rank_select.cost_unit",
}


def renamed(key: str) -> str | None:
    """The present name of a key, by the longest part of it that was renamed; None where none
    was."""
    old = key
    while old not in RENAMED:
        old, dot, _ = old.rpartition(".")
        if not dot:
            return None
    return RENAMED[old] + key.removeprefix(old)
