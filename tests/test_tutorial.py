"""docs/tutorial.ipynb runs from its first cell to its last, and shows what it gives."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.imports import ROOT

FILE = ROOT / "docs/tutorial.ipynb"


def code_of(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    """The notebook, run in a folder of its own on this tree's code; an error in a cell fails."""
    notebook = nbformat.read(FILE, as_version=4)
    for cell in code_of(notebook):
        cell.outputs, cell.execution_count = [], None
    folder = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
        where = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    return notebook


def test_the_network_gets_ten_times_smaller_and_stays_good(done: NotebookNode) -> None:
    text = "\n".join(printed(cell) for cell in code_of(done))
    sizes = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) parameters, test", text)]
    dense, compressed = sizes[:2]
    assert compressed <= 0.1 * dense
    accuracies = [float(a) for a in re.findall(r"test accuracy ([\d.]+)%", text)]
    assert accuracies[0] > 95  # a trained network, not noise
    assert accuracies[-1] > accuracies[0] - 3
    assert f"True {compressed:,} parameters" in text  # loaded: the same to the bit


def test_the_stored_outputs_are_there_and_name_no_machine(done: NotebookNode) -> None:
    stored = nbformat.read(FILE, as_version=4)
    assert [c.source for c in stored.cells] == [c.source for c in done.cells]
    for cell, again in zip(code_of(stored), code_of(done), strict=True):
        assert bool(cell.outputs) == bool(again.outputs), cell.source
    assert not re.search(r"/(?:root|home|work|tmp)/", Path(FILE).read_text())
