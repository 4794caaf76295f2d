"""Environments that have only the libraries of those who use an export."""

from __future__ import annotations

import venv
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_LEFT_OUT = (".", "..", "bin", "share", "etc", "__pycache__")


def alone(folder: Path, packages: Iterable[str]) -> Path:
    """Makes a virtual environment with these packages and what they require and nothing else, all
    of it linked from this one; returns its Python."""
    venv.create(folder, symlinks=True)
    (site,) = (folder / "lib").glob("python3*/site-packages")
    for name in sorted(required(packages)):
        found = distribution(name)
        tops = {file.parts[0] for file in found.files or ()}
        for top in sorted(tops.difference(_LEFT_OUT)):
            if not top.endswith(".pth") and not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))
    return folder / "bin/python"


def required(packages: Iterable[str]) -> set[str]:
    """The packages, and those which they require, without extras."""
    known: set[str] = set()
    waiting = [canonicalize_name(name) for name in packages]
    while waiting:
        name = waiting.pop()
        if name not in known:
            known.add(name)
            waiting.extend(_requirements(name))
    return known


def _requirements(name: str) -> Iterator[str]:
    for text in distribution(name).requires or ():
        one = Requirement(text)
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            try:
                distribution(one.name)
            except PackageNotFoundError:  # the environment is not complete: the import will tell
                continue
            yield canonicalize_name(one.name)
