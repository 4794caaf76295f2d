"""Whose code a folder of a network may name, and what of it is called."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from pipeline import lowrank as lr
from pipeline.lowrank import LowRankError
from tests.lowrank.forms.test_saved_networks import Causal, compressed

HOME = Causal.__module__


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        ({"_target_": "no.such.Net"}, "_target_=no.such.Net: cannot be imported"),
        (
            {"_target_": "builtins.print"},
            "is not called, because it is neither a class of networks",
        ),
        ({}, "_target_ is empty"),
        ({"_target_": 3}, r"_target_=3: give the import path"),
        ({"_target_": f"{HOME}.Causal", "width": 3}, "unexpected keyword argument 'width'"),
    ],
)
def test_a_builder_that_builds_no_network_is_refused(
    builder: dict[str, Any], message: str, tmp_path: Path
) -> None:
    lr.save(compressed("causal"), tmp_path)
    path = tmp_path / "network.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"builder": builder}))
    with pytest.raises(LowRankError, match=message) as info:
        lr.load(tmp_path, allow=["no", "builtins.print", HOME])
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("target", "allow", "told"),
    [
        (f"{HOME}.Causal", [], r"allow=\['tests'\]"),
        (f"{HOME}.Causal", ["test"], r"allow=\['tests'\]"),
        ("nowhere_at_all.Net", [], r"names nowhere_at_all\.Net as its network"),
        ("torch.nnx.Linear", [], r"allow=\['torch'\]"),
        # By the names that a module that is allowed has of others.
        ("torch.nn.modules.module.torch.hub.load", [], "whose code would run here"),
        (f"{__name__}.lr.load", [__name__], r"of pipeline\.lowrank\.forms\.files, as its network"),
        ("pipeline.lowrank.forms.files.load", [], r"allow=\['pipeline'\]"),
        ("pipeline.models.huggingface.load", [], r"allow=\['pipeline'\]"),
        (f"{HOME}.Causal", ["tests"], None),
        (f"{HOME}.Causal", [HOME], None),
        (f"{HOME}.Causal", [f"{HOME}.Causal"], None),
        (f"{HOME}.Causal", [Causal], None),
        ("pipeline.models.resnet.ResNet", [], "layer 'q'"),  # may be built, and is another network
    ],
)
def test_a_folder_names_only_what_the_caller_allows(
    target: str, allow: list[Any], told: str | None, tmp_path: Path
) -> None:
    lr.save(compressed("causal"), tmp_path, {"_target_": target})
    if told is None:
        assert isinstance(lr.load(tmp_path, allow=allow), Causal)
        return
    with pytest.raises(LowRankError, match=told) as info:
        lr.load(tmp_path, allow=allow)
    assert "\n" not in str(info.value) and "nowhere_at_all" not in sys.modules


def _written(path: str) -> nn.Module:
    Path(path).write_text("called")
    return nn.Linear(64, 64)


def _unannotated(path):  # type: ignore[no-untyped-def]
    return _written(path)


@pytest.mark.parametrize(
    ("target", "called"),
    [
        ("os.mkdir", False),
        ("os.system", False),
        (f"{__name__}._unannotated", False),
        (f"{__name__}._written", True),
    ],
)
def test_nothing_is_called_before_it_is_known_to_build_a_network(
    target: str, called: bool, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    argument = {"os.system": {"command": f"touch {place}"}}.get(target, {"path": str(place)})
    lr.save(compressed("causal"), tmp_path / "net", {"_target_": target, **argument})
    with pytest.raises(LowRankError) as info:
        lr.load(tmp_path / "net", allow=[target])
    assert place.exists() is called
    assert ("annotate the function: def make(…) -> nn.Module" in str(info.value)) is not called
