"""The worked examples of docs/examples.md run as they stand there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.zoo import vision
from tests.chain import Tree, make_tree
from tests.imports import ROOT

PAGE = (ROOT / "docs/examples.md").read_text()
SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
TITLES = {section.partition("\n")[0]: section for section in SECTIONS}
NOTEBOOKS = {t: s for t, s in TITLES.items() if "```python" in s}
CHAINS = {t: s for t, s in TITLES.items() if "```bash" in s}
# The report's measure, and what it must be at least for the dense and for the small network.
QUALITY = {
    "2.": ("accuracy", 0.7, 0.65),
    "3.": ("mean_iou", 0.4, 0.35),
    "4.": ("mae", None, None),
}
# Half a minute of training is cut to a third.
QUICK = {"3.": " baseline.epochs=5 fine_tune.epochs=1"}
SHORTER = {"2.": ("range(6)", "range(4)")}


def code(section: str, language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    return str(block)


def test_there_are_five_and_the_table_has_each() -> None:
    assert len(TITLES) == len(NOTEBOOKS) + len(CHAINS) == 5
    for title in TITLES:
        anchor = re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        assert f"](#{anchor})" in PAGE


@pytest.mark.parametrize("title", NOTEBOOKS)
def test_the_lines_for_a_notebook_run(title: str, tmp_path: Path) -> None:
    first = ""
    if "import timm" in NOTEBOOKS[title]:
        if not vision.is_installed():
            pytest.skip(f"needs timm: {vision.INSTALL}")
        first = "from benchmarks.zoo.vision import import_vision\nimport_vision()\n"
    command = [sys.executable, "-W", "ignore", "-c", first + code(NOTEBOOKS[title], "python")]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    dense, small = re.findall(r"0\.\d{3}", done.stdout.splitlines()[-1])
    assert float(dense) > 0.6
    assert float(small) > float(dense) - 0.05
    assert "measured divergence from the dense network" in done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return make_tree(tmp_path_factory.mktemp("examples") / "tree")


@pytest.mark.e2e
@pytest.mark.parametrize("title", CHAINS)
def test_the_commands_run(tree: Tree, title: str) -> None:
    command = code(CHAINS[title], "bash").rstrip()
    command = command.replace(*SHORTER.get(title[:2], ("", "")))
    several = "data.inputs" in command  # a model of MLflow that is asked by their names
    quick = QUICK.get(title[:2], "")
    output = tree.run("bash", "-euc", f"{command}{quick} track.log_model={str(several).lower()}")
    assert "not as an MLflow model" not in output
    assert not several or len(list((tree.path / "mlartifacts").rglob("MLmodel"))) == 1
    assert "Traceback" not in output
    (workspace,) = re.findall(r"^network +(.+)/out/fine_tuned$", output, flags=re.MULTILINE)
    written = (tree.path / workspace / "reports/metrics.json").read_text()
    metrics: dict[str, Any] = json.loads(written)
    measure, dense, small = QUALITY[title[:2]]
    assert measure in output.replace(" ", "_").lower()
    assert metrics["fine_tuned"]["params"] <= 0.4 * metrics["dense"]["params"]
    if dense is None:
        assert 0 < metrics["fine_tuned"][measure] < 0.75, "in deviations of the labels"
    else:
        assert metrics["dense"][measure] > dense
        assert metrics["fine_tuned"][measure] > small
