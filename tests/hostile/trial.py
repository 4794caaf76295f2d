"""One damaged file is read: nothing but a result or one line may come of it."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.lowrank import LowRankError
from tests.hostile.damage import Damage

SECONDS = 20  # of processor time; a read takes milliseconds
MEMORY = 2 << 30  # bytes more than before; the files have a few thousand


@dataclass(frozen=True)
class Reader:
    """`write` makes a good folder, `files` says which of its files are damaged (all, where None),
    `read` reads the folder as the product does, and may write into folder/out."""

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], object]
    files: Callable[[Path], list[Path]] | None = None
    share: float = 1.0  # of the cases that others get: slow readers get fewer

    def damaged(self, folder: Path) -> list[Path]:
        found = [path for path in folder.rglob("*") if path.is_file()]
        return sorted(self.files(folder) if self.files else found)


class HangError(Exception):
    """A read took longer than any good one."""


def trial(reader: Reader, folder: Path, which: float, damage: Damage) -> str | None:
    """Damages one of the files, reads, and mends it. Returns what was told, None where the damage
    was none. Raises AssertionError for what is no line, and whatever else comes."""
    files = reader.damaged(folder)
    file = files[int(which * len(files))]
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    try:
        with _watched(folder):
            reader.read(folder)
    except LowRankError as error:
        told = str(error)
        assert told and told.count("\n") <= 1, f"no line: {told!r}"
        assert len(told) < 1500, f"{len(told)} characters: {told[:200]!r}"
        return told
    finally:
        file.write_bytes(whole)
    return None


@contextmanager
def _watched(folder: Path) -> Iterator[None]:
    """Raises in a read that hangs, asks for gigabytes, starts a process or writes elsewhere."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGPROF, _hangs)
    _install_guard()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, limit[1]))
    _GUARD.allowed, _GUARD.broken = str(folder), None
    try:
        yield
    finally:
        broken, _GUARD.allowed = _GUARD.broken, None
        resource.setrlimit(resource.RLIMIT_AS, limit)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert broken is None, broken


def _hangs(number: int, frame: FrameType | None) -> None:
    raise HangError(f"{SECONDS} s of processor time")


@dataclass
class _Guard:
    """allowed: the folder that may be written while a read is watched; None: nobody watches."""

    allowed: str | None = None
    broken: str | None = None
    installed: bool = False


_GUARD = _Guard()
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def _install_guard() -> None:
    """Audit hooks stay for the life of a process: this one is silent while nobody watches."""
    if not _GUARD.installed:
        _GUARD.installed = True
        sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _GUARD.allowed is None:
        return
    if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect"):
        _GUARD.broken = f"{event}{arguments}"
    elif event == "open":
        path, _, flags = arguments
        if not isinstance(path, str | bytes) or not (flags or 0) & _WRITING:
            return
        place = os.path.realpath(os.fsdecode(path))
        if not place.startswith((_GUARD.allowed, "/dev/")) and "__pycache__" not in place:
            _GUARD.broken = f"wrote {place}"
    elif event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink"):
        if event in ("os.remove", "os.rmdir") and arguments[1] != -1:
            return  # below a folder that was opened, as shutil.rmtree does
        place = os.path.realpath(os.fsdecode(arguments[0]))
        if not place.startswith(_GUARD.allowed) and "__pycache__" not in place:
            _GUARD.broken = f"{event} {place}"
