"""One network of each kind of the zoo, in every metric. `python -m benchmarks.zoo` tries all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.zoo import vision
from benchmarks.zoo.__main__ import METRICS, tried
from benchmarks.zoo.coverage import UNNAMED
from benchmarks.zoo.pages import ENOUGH, NetworkRecord, page, read, read_widths
from benchmarks.zoo.registry import NETWORKS
from tests.imports import ROOT

NETS = [
    "torch/unet",
    "torch/lstm",
    "torch/transformer_encoder",
    "torch/shared_module",
    "torch/two_inputs",
    "torch/by_hand",
    "transformers/bert",
    "transformers/gpt2",
    "transformers/mixtral",
    "transformers/t5",
    "transformers/jamba",
    "transformers/mamba",
    "transformers/detr",
    "transformers/clip",
    "transformers/wav2vec2",
]
VISION = [
    "timm/resnext50_32x4d",
    "timm/convnext_atto",
    "timm/mobilenetv3_small_050",
    "timm/vit_tiny_patch16_224",
    "timm/swinv2_tiny_window8_256",
]


# What is left in it, A of the state space, is exponentiated: it is no matrix.
PARTLY = {"transformers/mamba"}


def check(name: str, record: NetworkRecord) -> None:
    assert record.failed == {metric: {} for metric in METRICS}
    found = record.coverage
    assert found is not None
    assert found.reached >= ENOUGH or name in PARTLY
    assert found.factorized <= found.reached
    assert found.reached + sum(weight.share for weight in found.left) == pytest.approx(1.0)
    assert UNNAMED not in {weight.reason for weight in found.left}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.filterwarnings("ignore")
def test_a_network_of_every_kind_passes_every_check(name: str) -> None:
    check(name, tried(NETWORKS[name], METRICS))


@pytest.mark.skipif(not vision.is_installed(), reason=f"timm is not there: {vision.INSTALL}")
def test_networks_of_timm_pass_every_check(tmp_path: Path) -> None:
    """In a process of their own: torchvision, once imported, would change what transformers is."""
    command = [sys.executable, "-m", "benchmarks.zoo", "--to", str(tmp_path), "--only", *VISION]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=alone, check=True, capture_output=True)
    networks = read(tmp_path).networks
    assert list(networks) == sorted(VISION, key=list(NETWORKS).index)
    for name, record in networks.items():
        check(name, record)


def test_the_zoo_has_every_kind_in_numbers() -> None:
    families = [entry.family for entry in NETWORKS.values()]
    assert families.count("timm") >= 40
    assert families.count("transformers") >= 35
    assert families.count("torch") >= 15


def test_the_page_is_that_of_the_record_and_has_every_network() -> None:
    record = read(ROOT / "docs")
    widths = read_widths(ROOT / "docs")
    assert (ROOT / "docs/coverage.md").read_text() == page(record, widths)
    assert list(record.networks) == list(NETWORKS) == list(widths.networks)
