"""External inputs pinned by content: what comes from outside is named by its sha256."""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from pipeline.lowrank.errors import LowRankError

# section → the key of a path in it; the section's sha256 pins that file.
_FILES = {"data": "path", "baseline": "weights"}
_PINS = (("data", "sha256"), ("baseline", "sha256"), ("baseline", "model_sha256"))


def pin(params: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Fills in missing checksums and makes the paths absolute (relative to `directory`).

    With its inputs named by content, a run's DVC keys are exact: another file under the same
    name is another run. Raises LowRankError for a file that is missing.
    """
    pinned = {
        key: dict(value) if isinstance(value, dict) else value for key, value in params.items()
    }
    for section, key in _FILES.items():
        if not pinned[section][key]:
            continue
        path = Path(directory, pinned[section][key]).absolute()
        if not path.exists():
            raise LowRankError(f"{section}.{key}={path}: no such file; correct the path")
        pinned[section][key] = str(path)
        if path.is_file() and pinned[section]["sha256"] is None:
            pinned[section]["sha256"] = file_sha256(path)
    if pinned["baseline"]["model_sha256"] is None:
        pinned["baseline"]["model_sha256"] = source_sha256(pinned["model"]["_target_"], directory)
    return pinned


def require_pins(params: dict[str, Any], directory: Path) -> None:
    """For plain `dvc repro`: every external input must be pinned in conf/ already.

    Raises LowRankError with the line to add: a file that is swapped later can then never be
    taken for the one that was meant.
    """
    pinned = pin(params, directory)
    missing = [
        f"{section}.{key}: {pinned[section][key]}"
        for section, key in _PINS
        if pinned[section][key] != params[section][key]
    ]
    if missing:
        raise LowRankError(
            "dvc repro needs external inputs pinned by content; add to the configuration:\n  "
            + "\n  ".join(missing)
            + "\n(python -m pipeline fills them in by itself)"
        )


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_sha256(target: str, directory: Path) -> str | None:
    """Hash of the source of a class that is neither this project's nor an installed package's.

    A module is hashed as its file, a package as all its .py files. None for project code (a
    DVC dependency) and for installed packages (versions are logged with each run).
    """
    top = target.partition(".")[0]
    if top in ("pipeline", "stages"):
        return None
    spec = PathFinder.find_spec(top, [str(directory), *sys.path])
    if spec is None or spec.origin is None or _installed(Path(spec.origin)):
        return None
    origin = Path(spec.origin)
    if not spec.submodule_search_locations:
        return file_sha256(origin)
    digest = hashlib.sha256()
    for path in sorted(origin.parent.rglob("*.py")):
        digest.update(f"{path.relative_to(origin.parent)}:{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _installed(path: Path) -> bool:
    roots = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    return any(path.is_relative_to(root) for root in roots)
