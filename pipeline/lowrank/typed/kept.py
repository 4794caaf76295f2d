"""Files that one process keeps for another, which goes on where it was stopped. They are named by
what is in them, so that one that was cut or changed is known."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

from pipeline.lowrank.typed.content import file_sha256

_END = ".safetensors"


def keep(folder: Path, name: str, write: Callable[[Path], None]) -> Path:
    """Makes a file of the folder in the place of the one that was kept under this name; its path.
    There is a whole one at any moment, also where the machine loses its power.

    name: letters, digits and dashes. write: writes it to the path that it is given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{name}.{os.getpid()}.part"
    write(part)
    file = folder / f"{name}.{file_sha256(part)}{_END}"
    to_disk(part)
    os.replace(part, file)
    to_disk(folder)
    for last in folder.glob(f"{name}.*{_END}"):
        if last != file:
            last.unlink(missing_ok=True)
    return file


def kept(folder: Path, name: str) -> Path | None:
    """The file that was kept under this name; None where there is none. One that is damaged is
    warned of and removed."""
    for file in sorted(folder.glob(f"{name}.*{_END}")):
        if file.name == f"{name}.{file_sha256(file)}{_END}":
            return file
        file.unlink(missing_ok=True)
        warnings.warn(
            f"{file}: its content is not what was written; it was removed, and what it held is "
            "computed again",
            stacklevel=2,
        )
    return None


def to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, would survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
