"""Files named by what is in them: the checksums that a record holds of the files beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.lowrank.errors import LowRankError

Checksums = Mapping[str, str]  # {path of a file, from its folder: sha256 in hexadecimal}


def file_sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The checksums of the files of these names in a folder."""
    return {name: file_sha256(folder / name) for name in sorted(names)}


def checked(folder: Path, name: str, known: Checksums, record: str) -> Path:
    """The path of the file `name` in a folder, after its content was found to be what was written.

    known: the checksums that the file `record` in the same folder holds. Raises LowRankError for a
    file that is missing, whose content is another, or of which no checksum is known.
    """
    path = folder / name
    if not path.is_file():
        raise LowRankError(f"{path}: no such file; get the folder again, or make it again")
    found = file_sha256(path)
    if name not in known:
        raise LowRankError(
            f"{path}: {folder / record} holds no checksum of it; make the folder again, or, where "
            f'the file is known to be whole, add {{"{name}": "{found}"}} to checksums there'
        )
    if found != known[name]:
        raise LowRankError(
            f"{path}: the file is damaged or was changed: it has sha256 {found}, and was written "
            f"with {known[name]}; get it again, or make it again (docs/reliability.md "
            "says how, in out/ and in a cache)"
        )
    return path
