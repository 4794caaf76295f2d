"""The rooms: imports go one way, and DVC knows everything that a stage depends on."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from tests.chain import STAGES
from tests.imports import FILES, ROOT, has_code, imported, needed_by

CHAIN = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
ORCHESTRATORS = {"hydra", "omegaconf", "dvc", "mlflow"}
# room → the rooms of this project that it may import.
MAY_IMPORT = {
    "pipeline/lowrank": ("pipeline.lowrank",),
    "pipeline/workload": ("pipeline.lowrank", "pipeline.workload"),
    "pipeline/orchestration": ("pipeline.lowrank", "pipeline.workload", "pipeline.orchestration"),
    "stages": ("pipeline.lowrank", "pipeline.workload", "pipeline.orchestration", "stages"),
}
LOWRANK_MAY_IMPORT = {"torch", "tensorly", "safetensors", "pipeline"}
# The stages that may speak to orchestration: the two ends of the chain, and live curves.
MAY_ORCHESTRATE = {"configure.py", "track.py", "_training.py"}


def room_of(file: Path) -> str | None:
    return next((room for room in MAY_IMPORT if file.is_relative_to(room)), None)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_go_one_way(file: Path) -> None:
    room = room_of(file)
    for name in imported(file):
        top = name.split(".")[0]
        if room and top in ("pipeline", "stages") and name != "pipeline":
            assert name.startswith(MAY_IMPORT[room]), f"{file} imports {name}"
        if top in ORCHESTRATORS:
            allowed = room == "pipeline/orchestration" or file == Path("pipeline/__main__.py")
            assert allowed, f"{file} imports {name}"
        if name.startswith("pipeline.orchestration") and room == "stages":
            assert file.name in MAY_ORCHESTRATE, f"{file} imports {name}"


def test_the_core_needs_torch_tensorly_and_safetensors_only() -> None:
    import sys

    for file in FILES:
        if room_of(file) == "pipeline/lowrank":
            others = {name.split(".")[0] for name in imported(file)} - LOWRANK_MAY_IMPORT
            assert others <= set(sys.stdlib_module_names), f"{file} imports {others}"


@pytest.mark.parametrize("stage", CHAIN)
def test_deps_are_exactly_what_a_stage_imports(stage: str) -> None:
    needed = needed_by(CHAIN[stage]["cmd"])
    declared = [Path(d) for d in CHAIN[stage]["deps"] if d.startswith(("pipeline", "stages"))]
    missing = [f for f in needed if not any(f.is_relative_to(d) for d in declared)]
    assert not missing, f"{stage} misses {sorted(map(str, missing))}: python -m tests.imports"
    for path in declared:
        assert (ROOT / path).exists(), f"{stage} depends on {path}, which does not exist"
        inside = [f for f in FILES if f.is_relative_to(path) and has_code(f)]
        unused = set(inside) - needed
        assert inside, f"{path} holds no code"
        assert not unused, (
            f"{stage} has {sorted(map(str, unused))} too much: python -m tests.imports"
        )


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


@pytest.mark.parametrize("file", FILES, ids=str)
def test_files_are_short(file: Path) -> None:
    limit = 70 if file.parts[0] == "stages" else 260
    assert len((ROOT / file).read_text().splitlines()) <= limit
