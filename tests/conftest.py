"""Fixtures that the tests of data and training share: prepared digits, one Fabric, small
networks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric

from pipeline.data.options import DataOptions
from pipeline.data.preparation import prepare_data
from pipeline.lowrank.tasks import Classification
from pipeline.machine.devices import FabricOptions, make_fabric

SIZES: dict[str, Any] = {"calibration": 180, "validation": 180, "test": 360}


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "data"
    prepare_data(folder, DataOptions(name="digits", **SIZES), Classification(), seed=0)
    return folder


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    """Deterministic from here to the end of the test; seeded with 0."""
    threads = torch.get_num_threads()
    yield make_fabric(FabricOptions(threads=1), seed=0)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
