"""Rows of JSON Lines files, one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.lowrank.errors import LowRankError, reason_of


def json_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl file. Only a line feed ends a line: texts may hold every other sign
    that Unicode takes for one. Empty lines are left out.

    Raises LowRankError, with the line, for what is no JSON object or not UTF-8.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                reason = reason_of(error)
                raise LowRankError(
                    f"{file}: cannot be read: line {number} is no JSON ({reason}); correct it"
                ) from error
            if not isinstance(row, dict):
                raise LowRankError(
                    f"{file}: cannot be read: line {number} is a {type(row).__name__}, not an "
                    'object {"column": value, …}; correct it'
                )
            yield row
