"""External inputs pinned by content: everything that comes from outside is named by its sha256."""

from __future__ import annotations

import copy
import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from pipeline.lowrank.errors import LowRankError
from pipeline.machine.checksums import content_sha256, file_sha256, files_at
from pipeline.machine.fetching import DATASETS, DEBIAN, PYPI

# The key of a path → the key that pins what lies there.
_FILES = {
    "data.path": "data.sha256",
    "data.test_path": "data.test_sha256",
    "data.processor": "data.processor_sha256",
    "data.text.ood_path": "data.text.ood_sha256",
    "data.text.tokenizer": "data.text.tokenizer_sha256",
    "model.name": "model.sha256",
    "baseline.weights": "baseline.sha256",
    "rank_select.path": "rank_select.sha256",
}
_OR_A_NAME = ("data.text.tokenizer", "data.processor", "model.name")  # on a hub
# The sections that name classes or functions by `_target_` → the key that pins their code.
_CODE = {
    ("model",): "baseline.model_sha256",
    ("data.dataset", "data.transform"): "data.code_sha256",
    ("task.loss", "task.measures", "task.output"): "task.code_sha256",
}


def pin(params: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Fills in missing checksums and makes the paths absolute (relative to `directory`).

    With its inputs named by content, a run's DVC keys are exact: another file under the same
    name is another run. Raises LowRankError for a file that is missing, and for code that is no
    longer what it was pinned as (files are verified by what reads them).
    """
    pinned = copy.deepcopy(params)
    for key, sha256 in _files(params).items():
        value = value_at(pinned, key)
        if value is None:
            continue
        path = Path(directory, value).absolute()
        if files_at(path):
            _set(pinned, key, str(path))
            if value_at(pinned, sha256) is None:
                _set(pinned, sha256, content_sha256(path))
        elif not (key in _OR_A_NAME or value.startswith((PYPI, DEBIAN, DATASETS))):
            raise LowRankError(f"{key}={path}: no such file; correct the path")
    for sections, key in _CODE.items():
        specs = [value_at(pinned, section) for section in sections]
        found, meant = _code_sha256(specs, directory), value_at(pinned, key)
        if meant is not None and meant != found:
            raise LowRankError(_other_code(key, sorted(_targets(specs)), meant, found))
        _set(pinned, key, found)
    return pinned


def _other_code(key: str, targets: Sequence[str], meant: str, found: str | None) -> str:
    named = ", ".join(targets)
    if found is None:
        return f"{key}={meant}: {named or 'nothing'} is no code of your own; set it to null"
    return (
        f"{key}={meant}: the code of {named} has sha256 {found} now; get the code that was meant "
        f"again, or set {key}={found}"
    )


def _code_sha256(specs: Sequence[Mapping[str, Any] | None], directory: Path) -> str | None:
    """The checksum of one target's code, or one of those of several."""
    targets = sorted({target for spec in specs for target in _targets(spec)})
    sums = [found for target in targets if (found := source_sha256(target, directory))]
    return sums[0] if len(sums) < 2 and sums else _sha256("\n".join(sums)) if sums else None


def _targets(spec: Any) -> Iterator[str]:
    """Every `_target_` in it, however deep."""
    if isinstance(spec, Mapping):
        if isinstance(spec.get("_target_"), str):
            yield spec["_target_"]
        for value in spec.values():
            yield from _targets(value)
    elif isinstance(spec, list | tuple):
        for value in spec:
            yield from _targets(value)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def require_pins(params: dict[str, Any], directory: Path) -> None:
    """Checks for plain `dvc repro` that every external input is pinned in conf/ already.

    Raises LowRankError with the line to add: a file that is swapped later can then never be taken
    for the one that was meant.
    """
    pinned = pin(params, directory)
    missing = [
        f"{key}: {value_at(pinned, key)}"
        for key in (*_files(params).values(), *_CODE.values())
        if value_at(pinned, key) != value_at(params, key)
    ]
    if missing:
        raise LowRankError(
            "dvc repro needs external inputs pinned by content; add to the configuration:\n  "
            + "\n  ".join(missing)
            + "\n(python -m pipeline fills them in by itself)"
        )


def source_sha256(target: str, directory: Path) -> str | None:
    """Hash of the source code of a class that is neither this project's nor an installed package's.

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


def _files(params: Mapping[str, Any]) -> dict[str, str]:
    """The entries of _FILES that this configuration has; `model`, which is free, has them only for
    transformers."""
    transformer = params["model"]["_target_"] == "pipeline.models.huggingface.load"
    return {k: v for k, v in _FILES.items() if transformer or not k.startswith("model.")}


def _set(params: dict[str, Any], key: str, value: Any) -> None:
    section, _, name = key.rpartition(".")
    value_at(params, section)[name] = value


def value_at(params: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None where a section on the way is null."""
    value: Any = params
    for name in key.split("."):
        value = None if value is None else value[name]
    return value


def _installed(path: Path) -> bool:
    roots = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    return any(path.is_relative_to(root) for root in roots)
