"""The tested set of packages and its lock."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def pinned(name: str) -> dict[str, str]:
    """{package: its version} of a file of requirements."""
    found = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE)
    return {package.lower().replace("_", "-"): version for package, version in found}


def test_the_lock_is_that_of_the_tested_set_and_every_file_has_its_checksum() -> None:
    tested, locked = pinned("requirements.in"), pinned("requirements.lock")
    assert tested.pop("torch") and tested == locked
    entries = re.split(r"^(?=[\w.-]+==)", (ROOT / "requirements.lock").read_text(), flags=re.M)[1:]
    assert len(entries) == len(locked)
    for entry in entries:
        assert re.fullmatch(r"\S+ \\\n( {4}--hash=sha256:[0-9a-f]{64}( \\)?\n)+", entry), entry


def test_what_the_project_asks_for_is_in_the_tested_set() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["dev"], *extras["transformers"], *extras["onnx"]]
    tested = pinned("requirements.in")
    for requirement in map(Requirement, asked):
        name = requirement.name.lower().replace("_", "-").replace(".", "-")
        assert tested[name] in requirement.specifier, requirement
