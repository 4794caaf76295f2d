"""Every command of the README and of the pages about the chain is run, in a copy of the tree, as
it stands there; so are the README's lines for a notebook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline import lowrank as lr
from tests.chain import Tree
from tests.imports import ROOT

README = (ROOT / "README.md").read_text()
CHAIN = (ROOT / "docs/chain.md").read_text()
PAGES = README + CHAIN + (ROOT / "docs/results.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGES, flags=re.MULTILINE | re.DOTALL)
(OWN,) = (block for block in BLOCKS if "<<'PY'" in block)
(NOTEBOOK,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
MOST_WORDS = 1000
# Run elsewhere: make by .ci/run (make test would run itself), the whole data set by hand: its
# quarter of an hour is cut to a minute by fewer epochs and examples.
MAKE = "make "
QUICK = {
    "python -m pipeline experiment=fashion_mnist": " baseline.epochs=1 fine_tune.epochs=1"
    " fabric.precision=32-true"
    " data.train=2000 data.calibration=500 data.validation=500 data.test=10000"
    " 'model.widths=[8,16]' 'model.blocks=[1,1]'"
    " rank_select.budget=0.6"
}
FASHION = Path("/usr/share/datasets/fashion-mnist")


def commands() -> list[str]:
    """One entry a command, but for those with a here-document, which a newcomer follows below."""
    found = []
    for block in BLOCKS:
        if block is not OWN:
            found.extend(line.partition("  #")[0].strip() for line in block.splitlines())
    return [c for c in found if c and not c.startswith(MAKE)]


@pytest.mark.e2e
@pytest.mark.parametrize("command", commands(), ids=lambda c: " ".join(c.split()[:6]))
def test_the_command_works(tree: Tree, command: str) -> None:
    if "fashion_mnist" in command and not FASHION.is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    output = tree.run("bash", "-euc", command + QUICK.get(command, ""))
    assert "Traceback" not in output
    if "python -m pipeline" in command:
        assert "MLflow run" in output
        assert ("2 done" if "pipeline -m " in command else "fine-tuned") in output


# As the README of an export says, where there is nothing but the class and the export.
ELSEWHERE = r"""
import json, re, sys
for name in ("pipeline", "stages"):
    sys.modules[name] = None  # not to be had
sys.path.insert(0, ".")
import torch
text = open("exported/README.md").read()
code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
names = {}
exec(code.replace('folder = "."', 'folder = "exported"'), names)
torch.manual_seed(0)
print(json.dumps(names["model"](torch.randn(4, 1, 8, 8)).tolist()))
"""


@pytest.mark.e2e
def test_a_newcomers_path(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the README to an own network, its page, its export, and to a place where that is used
    without this project; each step as the step before says."""
    output = tree.run("bash", "-euc", OWN)
    assert "Traceback" not in output
    told = dict(re.findall(r"^(network|page|MLflow run|next) +(\S.*)$", output, re.MULTILINE))
    verdict = output[output.index("fine-tuned") : output.index("\nnetwork ")]
    assert re.search(r"× smaller, .*accuracy", verdict, re.DOTALL)
    page = (tree.path / told["page"]).read_text()
    assert "<html" in page and "MyNet" in page
    assert "network checked in a fresh process" in tree.run("bash", "-euc", told["next"])
    place = tmp_path / "elsewhere"
    place.mkdir()
    shutil.move(tree.path / "exported", place / "exported")
    shutil.copy(tree.path / "my_net.py", place)
    shown = subprocess.check_output([sys.executable, "-c", ELSEWHERE], cwd=place, text=True)
    monkeypatch.syspath_prepend(str(place))
    net = lr.load(tree.path / told["network"], allow=["my_net"])
    torch.manual_seed(0)
    with torch.no_grad():
        expected = net(torch.randn(4, 1, 8, 8))
    assert torch.allclose(torch.tensor(json.loads(shown)), expected, atol=1e-5)


def test_the_own_network_was_not_trained_on_its_test_split() -> None:
    """The training in the example reads only arrays that are not in the file's test split."""
    assert {"test_inputs", "test_labels"} <= set(re.findall(r'"(\w+)":', OWN))
    trained = OWN[OWN.index("torch.manual_seed") :]
    assert not re.search(r"\bimages\b|\blabels\b(?!\"\])|\btest\b", trained)


def test_the_lines_for_a_notebook_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class MyNet(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 10))

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net, batches = MyNet().eval(), [torch.randn(64, 32) for _ in range(4)]
    names = {"net": net, "batches": batches, "MyNet": MyNet}
    exec(NOTEBOOK, names)
    shown = capsys.readouterr().out
    assert {"layer", "method", "ranks", "kept"} <= set(shown.split())
    loaded, inputs = names["net"], batches[0]
    assert loaded is not net
    assert torch.equal(loaded(inputs), net(inputs))
    small = sum(p.numel() for p in loaded.parameters())
    assert small <= 0.4 * sum(p.numel() for p in MyNet().parameters())


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= MOST_WORDS


def test_the_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"\bmake (\w+)", "\n".join(BLOCKS) + README.replace("`make`", "")))
    makefile = (ROOT / "Makefile").read_text()
    assert {"repro", "ui"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_option_in_the_table_exists() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ((?:`\w+` ?)+)\|", CHAIN, re.MULTILINE)
    assert rows
    for group, options in rows:
        listed = set(re.findall(r"`(\w+)`", options))
        files = (ROOT / "conf" / group).glob("[!_]*.yaml")  # _base is no option
        assert listed == {p.stem for p in files}, group


def test_the_pictures_are_there() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert pictures
    for path in pictures:
        assert (ROOT / path).stat().st_size > 1000


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.findall(r"\b(?:TODO|FIXME|HERO\w*|\w+_TABLE)\b", PAGES)
