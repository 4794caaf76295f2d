"""Records: dataclasses in JSON files, read back as the types that were written."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.lowrank.errors import LowRankError

T = TypeVar("T")


def save_record(path: Path, value: Any) -> None:
    """Writes a dataclass (nested ones, mappings, tuples and numbers inside) as indented JSON.

    A reader sees the old file or the new one, never a part, also where two processes write. NaN
    and infinity, which JSON doesn't have, are refused with the path.
    """
    adapter = _adapter(type(value))
    try:
        text = json.dumps(adapter.dump_python(value, mode="json"), indent=2, allow_nan=False)
    except ValueError as error:
        raise LowRankError(f"{path}: a result is NaN or Inf ({error}); nothing written") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(_NUMBERS.sub(_on_one_line, text) + "\n", encoding="utf-8")
    part.replace(path)


# A list of nothing but numbers, one a line: ranks, shapes.
_NUMBERS = re.compile(r"\[\n\s+([-+.\deE]+(?:,\n\s+[-+.\deE]+)*)\n\s+\]")


def _on_one_line(found: re.Match[str]) -> str:
    return f"[{', '.join(number.strip() for number in found[1].split(','))}]"


def load_record(path: Path, cls: type[T], remedy: str) -> T:
    """The `cls` that `save_record` wrote; a person may have edited it.

    Raises LowRankError, one line with the place in the file, for what is no such record.
    """
    try:
        return _adapter(cls).validate_json(path.read_bytes(), strict=True, extra="forbid")
    except OSError as error:
        raise LowRankError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except ValidationError as error:
        raise _no_record(str(path), error, remedy) from None


def from_json(value: object, cls: type[T], source: str, remedy: str) -> T:
    """A `cls` from the plain types of JSON, which `source` (a file) holds in another layout.

    Raises LowRankError as `load_record` does.
    """
    try:
        return _adapter(cls).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise _no_record(source, error, remedy) from None


def _no_record(source: str, error: ValidationError, remedy: str) -> LowRankError:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the file"
    told = "unknown key" if first["type"] == "unexpected_keyword_argument" else first["msg"]
    return LowRankError(f"{source}: {place}: {told}; {remedy}")


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _adapter(cls: type[T]) -> TypeAdapter[T]:
    """Made once a type: a sweep's view reads the same small records twice a second."""
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]
