"""The rooms: imports go one way, and DVC knows everything that a stage depends on."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.chain import STAGES
from tests.imports import FILES, ROOT, code_deps, imported, needed_by

CHAIN = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# Each room may import itself and the rooms before it.
LOWRANK = (
    "errors",
    "typed",
    "tasks",
    "network",
    "forms",
    "analysis",
    "methods",
    "planning",
    "factorize",
    "bounds",
    "adapters",
    "exports",
)
PIPELINE = (
    "lowrank",
    "machine",
    "models",
    "data",
    "evaluation",
    "training",
    "reporting",
    "tracking",
    "config",
    "sweeps",
)
MOST_ROOMS = {"pipeline": 13, "pipeline/lowrank": 12}
ORCHESTRATORS = {"hydra", "omegaconf", "dvc", "mlflow"}
MAY_ORCHESTRATE = {"config", "tracking", "sweeps", "__main__", "extract_lora"}
LOWRANK_MAY_IMPORT = {"torch", "tensorly", "safetensors", "pydantic", "pydantic_core", "pipeline"}
# Measures and their intervals: where they are computed, and not when the library is imported.
TASKS_MAY_IMPORT = {"torchmetrics", "scipy", "numpy"}
# The stages that may speak to them: the two ends of the chain, and live curves.
STAGES_THAT_ORCHESTRATE = {"configure.py", "track.py", "_training.py"}


def room(file: Path, level: int) -> str:
    """pipeline/lowrank/forms/files.py → forms at level 2; a file counts by its stem."""
    return file.with_suffix("").parts[level]


def place(name: str, level: int, rooms: tuple[str, ...]) -> int | None:
    """Where the room of a dotted name stands among `rooms`; None for a name of no room."""
    parts = name.split(".")
    return rooms.index(parts[level]) if len(parts) > level and parts[level] in rooms else None


def one_way(level: int, rooms: tuple[str, ...]) -> Iterator[str]:
    prefix = ".".join(("pipeline", "lowrank")[:level])
    for file in FILES:
        if file.parts[0] != "pipeline" or len(file.parts) <= level:
            continue
        if level == 2 and file.parts[1] != "lowrank":
            continue
        if room(file, level) not in rooms:
            continue
        here = rooms.index(room(file, level))
        for name in imported(file):
            there = place(name, level, rooms) if name.startswith(f"{prefix}.") else None
            if there is not None and there > here:
                yield f"{file} imports {name}"


@pytest.mark.parametrize(
    ("level", "rooms"), [(1, PIPELINE), (2, LOWRANK)], ids=["pipeline", "lowrank"]
)
def test_imports_go_one_way(level: int, rooms: tuple[str, ...]) -> None:
    assert not list(one_way(level, rooms))
    for file in FILES:
        if file.parts[0] == "pipeline":
            assert not any(name.split(".")[0] == "stages" for name in imported(file)), file


@pytest.mark.parametrize("folder", MOST_ROOMS)
def test_rooms_are_few_and_all_are_listed(folder: str) -> None:
    entries = {p.stem for p in (ROOT / folder).iterdir() if not p.name.startswith("__")}
    listed = {*(LOWRANK if folder.endswith("lowrank") else PIPELINE)}
    doors = set() if folder.endswith("lowrank") else {"export", "extract_lora", "report"}
    assert entries == listed | doors
    assert len(entries) <= MOST_ROOMS[folder]


def test_hydra_dvc_and_mlflow_stay_in_their_rooms() -> None:
    for file in FILES:
        tops = {name.split(".")[0] for name in imported(file)} & ORCHESTRATORS
        allowed = file.parts[0] == "pipeline" and room(file, 1) in MAY_ORCHESTRATE
        assert not tops or allowed, f"{file} imports {tops}"
        if file.parts[0] == "stages" and file.name not in STAGES_THAT_ORCHESTRATE:
            for name in imported(file):
                assert place(name, 1, ("config", "tracking", "sweeps")) is None, f"{file}: {name}"


def test_the_core_needs_torch_tensorly_safetensors_and_pydantic_only() -> None:
    for file in FILES:
        if file.is_relative_to("pipeline/lowrank"):
            others = {name.split(".")[0] for name in imported(file)} - LOWRANK_MAY_IMPORT
            if room(file, 2) == "tasks":
                others -= TASKS_MAY_IMPORT
            assert others <= set(sys.stdlib_module_names), f"{file} imports {others}"


@pytest.mark.parametrize("stage", CHAIN)
def test_deps_cover_what_a_stage_imports(stage: str) -> None:
    """Folders where most of one is needed, files elsewhere: `python -m tests.imports`."""
    needed = needed_by(CHAIN[stage]["cmd"])
    declared = [d for d in CHAIN[stage]["deps"] if d.startswith(("pipeline", "stages"))]
    missing = [f for f in needed if not any(f.is_relative_to(d) for d in declared)]
    assert not missing, f"{stage} misses {sorted(map(str, missing))}: python -m tests.imports"
    assert declared == code_deps(needed), f"{stage}: python -m tests.imports"


@pytest.mark.parametrize("stage", ["prepare", "baseline", "analyze", "fine-tune"])
def test_what_trains_needs_no_solver(stage: str) -> None:
    """A word in one would train the network again."""
    solver = Path("pipeline/lowrank/methods/cp.py")
    assert solver in needed_by(CHAIN["decompose"]["cmd"])
    assert solver not in needed_by(CHAIN[stage]["cmd"])


def test_the_chain_has_its_stages_in_order() -> None:
    assert tuple(CHAIN) == STAGES
    for name, stage in CHAIN.items():
        assert stage["cmd"] == f"python -m stages.{name.replace('-', '_')}"


def test_every_input_is_declared_as_a_dependency() -> None:
    """Paths under out/ and reports/ that a stage's own file names are its deps or its outs."""
    for name, stage in CHAIN.items():
        source = (ROOT / "stages" / f"{name.replace('-', '_')}.py").read_text()
        outs = [o if isinstance(o, str) else next(iter(o)) for o in stage["outs"]]
        declared = [Path(p) for p in [*stage["deps"], *outs, *stage.get("metrics", [])]]
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and str(node.value).startswith("out/"):
                path = Path(node.value)
                assert any(path.is_relative_to(d) for d in declared), f"{name}: {path}"


def test_no_table_of_ours_is_parsed() -> None:
    """CSV is written for people; what we read again is a typed record in JSON."""
    readers = {"reader", "DictReader", "Sniffer", "read_csv", "loadtxt", "genfromtxt"}
    writers = []
    for file in FILES:
        tree = ast.parse((ROOT / file).read_text())
        named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        named |= {name.rpartition(".")[2] for name in imported(file)}
        assert not named & readers, f"{file}: {named & readers}"
        if "csv" in imported(file):
            writers.append(file)
    assert writers == [Path("pipeline/reporting/run/rows.py")]


def test_files_are_short() -> None:
    for file in FILES:
        limit = 70 if file.parts[0] == "stages" else 260
        assert len((ROOT / file).read_text().splitlines()) <= limit, file


def test_a_command_line_waits_for_no_library_that_it_does_not_need() -> None:
    """A second or more each, of which a wrong option would be told that much later."""
    slow = {"lightning_fabric", "matplotlib", "mlflow", "torch._dynamo", "transformers"}
    slow |= {"torchmetrics", "scipy.stats"}
    code = f"import pipeline.__main__, stages.configure, sys; print({slow} & sys.modules.keys())"
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert loaded.strip() == "set()"
