"""Checksums, which name everything that comes from outside by its content."""

from __future__ import annotations

import glob
import hashlib
from pathlib import Path

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.typed.content import file_sha256

__all__ = ["check_sha256", "content_sha256", "file_sha256", "files_at"]


def files_at(place: Path) -> list[Path]:
    """A file; or the files of a folder and of the folders in it; or those that a pattern matches.
    Sorted; none where there is nothing."""
    if place.is_file():
        return [place]
    found = place.rglob("*") if place.is_dir() else map(Path, glob.glob(str(place), recursive=True))
    return sorted(file for file in found if file.is_file())


def content_sha256(place: Path) -> str:
    """The checksum of a file; for a folder or pattern, the checksum of its files' names (in a
    folder their paths: a class may be a folder) and checksums."""
    files = files_at(place)
    if files == [place]:
        return file_sha256(place)
    names = [file.relative_to(place).as_posix() if place.is_dir() else file.name for file in files]
    lines = "".join(
        f"{name}:{file_sha256(file)}\n" for name, file in zip(names, files, strict=True)
    )
    return hashlib.sha256(lines.encode()).hexdigest()


def check_sha256(label: str, actual: str, expected: str, remedy: str) -> None:
    """Raises LowRankError unless the checksums agree."""
    if actual != expected.lower():
        raise LowRankError(
            f"{label}: the checksum is sha256 {actual}, expected {expected.lower()}; {remedy}"
        )
