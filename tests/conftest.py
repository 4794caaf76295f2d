"""Shared by the tests of several rooms. What a fixture needs is imported in it: whoever runs one
file waits for no other's libraries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.chain import STAGES, Tree, make_tree

if TYPE_CHECKING:
    from lightning_fabric import Fabric

SIZES: dict[str, Any] = {"calibration": 180, "validation": 180, "test": 360}


# Files that share the real chain of the fixture `tree`: one process runs them.
TOGETHER = {"tests/test_readme.py": "tests/test_end_to_end.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real chains come first: what starts last decides when all ends."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests stay in one process, in the order above. (xdist's own loadgroup would say
    the same by marks, but does nothing with pytest 9.)"""
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return TOGETHER.get(file, file)

    config.option.loadscopereorder = False
    return Together(config, log)


@pytest.fixture(autouse=True)
def no_store_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow notes in the environment where it logged last, which runs would take for a wish."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A tree in Git in which the whole chain has run once."""
    tree = make_tree(tmp_path_factory.mktemp("session") / "tree")
    assert tree.repro() == list(STAGES)
    return tree


@pytest.fixture
def tree(chain: Tree) -> Iterator[Tree]:
    """The same, with the files that it began with after each test, however the test ends."""
    yield chain
    chain.run("git", "checkout", "--quiet", ".")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pipeline.data.options import DataOptions
    from pipeline.data.preparation import prepare_data
    from pipeline.lowrank.tasks import Classification

    folder = tmp_path_factory.mktemp("digits") / "data"
    prepare_data(folder, DataOptions(name="digits", **SIZES), Classification(), seed=0)
    return folder


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    """Deterministic from here to the end of the test; seeded with 0."""
    import torch

    from pipeline.machine.devices import FabricOptions, make_fabric

    threads = torch.get_num_threads()
    yield make_fabric(FabricOptions(threads=1), seed=0)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
