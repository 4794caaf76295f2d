"""What is typed at the door is meant: a slip in a name is an error where it is typed, a number is
a number, whoever made it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import lowrank as lr
from pipeline.lowrank import LowRankError

X = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


MISSPELT: dict[str, tuple[Callable[[], object], str]] = {
    "plan": (
        lambda: lr.plan(mlp(), lr.Budget(params=0.5), X, metirc="fisher"),  # type: ignore[call-arg]
        "plan has no argument 'metirc': did you mean 'metric'",
    ),
    "plan, an option of a method": (
        lambda: lr.plan(mlp(), lr.Budget(params=0.5), X, hooi_iterations=3),  # type: ignore[call-arg]
        "plan has no argument 'hooi_iterations'",
    ),
    "apply_": (
        lambda: lr.apply_(mlp(), None, certifed=False),  # type: ignore[arg-type,call-arg]
        "apply_ has no argument 'certifed': did you mean 'certified'",
    ),
    "compress_": (
        lambda: lr.compress_(mlp(), lr.Budget(params=0.5), X, calibraton=[X]),  # type: ignore[call-arg]
        "compress_ has no argument 'calibraton': did you mean 'calibration'",
    ),
    "a method": (
        lambda: lr.Tucker2(hooi_iteration=3),  # type: ignore[call-arg]
        "Tucker2 has no option 'hooi_iteration': did you mean 'hooi_iterations'",
    ),
    "a policy": (
        lambda: lr.Budget(parms=0.3),  # type: ignore[call-arg]
        "Budget has no option 'parms': did you mean 'params'",
    ),
    "an override": (
        lambda: lr.Override(kep="dense"),  # type: ignore[call-arg]
        "Override has no option 'kep': did you mean 'keep'",
    ),
    "an analysis": (
        lambda: lr.AnalysisOptions(dampng=0.3),  # type: ignore[call-arg]
        "AnalysisOptions has no option 'dampng': did you mean 'damping'",
    ),
    "an adapter": (
        lambda: lr.AdapterOptions(rnk=2),  # type: ignore[call-arg]
        "AdapterOptions has no option 'rnk': did you mean 'rank'",
    ),
    "a metric": (
        lambda: lr.plan(mlp(), lr.Budget(params=0.5), X, metric="fischer"),  # type: ignore[arg-type]
        "metric='fischer': unknown; did you mean 'fisher'",
    ),
    "a task": (
        lambda: lr.plan(mlp(), lr.Budget(params=0.5), X, task="clasification"),
        "'clasification': unknown; did you mean 'classification'",
    ),
    "a method's name": (
        lambda: lr.make_method("tuker2", {}),
        "unknown method 'tuker2': did you mean 'tucker2'",
    ),
    "a name of the door": (
        lambda: lr.Tuker2,  # type: ignore[attr-defined]
        "has no attribute 'Tuker2'",
    ),
    "an override's pattern": (
        lambda: lr.plan(
            mlp(), lr.Budget(params=0.5), X, overrides={"hed": lr.Override(keep="dense")}
        ),
        "the pattern 'hed' matches no layer",
    ),
}


@pytest.mark.parametrize("case", MISSPELT)
def test_a_misspelt_name_is_refused_with_the_near_match(case: str) -> None:
    act, message = MISSPELT[case]
    with pytest.raises((LowRankError, AttributeError)) as info:
        act()
    assert message in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (["svd"], "'svd' is no method; give objects such as"),
        ("auto", "'a' is no method"),
        ([lr.SVD], "is no method; give objects such as"),
        ([], "no method chosen"),
        (
            [lr.Tucker2(), lr.Tucker2(hooi_iterations=0)],
            "tucker2 is given twice, with other options",
        ),
    ],
)
def test_methods_are_objects(methods: Any, message: str) -> None:
    with pytest.raises(LowRankError) as info:
        lr.plan(mlp(), lr.Budget(params=0.5), X, methods=methods)
    assert message in str(info.value)


@pytest.mark.parametrize("policy", ["budget", lr.Budget, 0.4, None])
def test_a_policy_is_an_object(policy: Any) -> None:
    with pytest.raises(LowRankError, match=r"is no policy; give an object such as lr\.Budget"):
        lr.plan(mlp(), policy, X)


NUMBERS: dict[str, tuple[Callable[[], lr.Plan], Callable[[], lr.Plan]]] = {
    "float64": (
        lambda: lr.plan(mlp(), lr.Budget(params=np.linspace(0.1, 0.9, 9)[4]), X),
        lambda: lr.plan(mlp(), lr.Budget(params=0.5), X),
    ),
    "float32": (
        lambda: lr.plan(mlp(), lr.Budget(macs=np.float32(0.5)), X),  # type: ignore[arg-type]
        lambda: lr.plan(mlp(), lr.Budget(macs=0.5), X),
    ),
    "int": (
        lambda: lr.plan(mlp(), lr.Budget(params=1), X),
        lambda: lr.plan(mlp(), lr.Budget(params=1.0), X),
    ),
    "ranks, int64": (
        lambda: lr.plan(mlp(), lr.Fixed(np.int64(3)), X),
        lambda: lr.plan(mlp(), lr.Fixed(3), X),
    ),
    "ranks, a fraction": (
        lambda: lr.plan(mlp(), lr.Fixed(np.float64(0.25)), X),
        lambda: lr.plan(mlp(), lr.Fixed(0.25), X),
    ),
    "ranks, a list and a mapping": (
        lambda: lr.plan(mlp(), lr.Fixed({"0": [np.int32(3)], "2": np.int8(2)}), X),
        lambda: lr.plan(mlp(), lr.Fixed({"0": [3], "2": 2}), X),
    ),
    "ranks, an array": (
        lambda: lr.plan(mlp(), lr.Fixed({"0": np.array([3])}), X),
        lambda: lr.plan(mlp(), lr.Fixed({"0": [3]}), X),
    ),
    "an override": (
        lambda: lr.plan(mlp(), lr.Energy(0.5), X, overrides={"0": lr.Override(ranks=np.uint8(4))}),
        lambda: lr.plan(mlp(), lr.Energy(0.5), X, overrides={"0": lr.Override(ranks=4)}),
    ),
    "an option of a method": (
        lambda: lr.plan(
            mlp(), lr.Energy(0.5), X, methods=[lr.Tucker2(hooi_iterations=np.int64(4))]
        ),
        lambda: lr.plan(mlp(), lr.Energy(0.5), X, methods=[lr.Tucker2(hooi_iterations=4)]),
    ),
    "an edited layer": (
        lambda: lr.plan(mlp(), lr.Energy(0.5), X).with_layers(
            **{"0": lr.PlannedLayer("svd", (np.int64(4),))}
        ),
        lambda: lr.plan(mlp(), lr.Energy(0.5), X).with_layers(
            **{"0": lr.PlannedLayer("svd", (4,))}
        ),
    ),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_a_number_is_a_number(case: str, tmp_path: Path) -> None:
    """numpy's, and whole ones for fractions; in the file they are JSON's own."""
    given, plain = (make() for make in NUMBERS[case])
    assert given.layers == plain.layers
    for name, chosen in (("given", given), ("plain", plain)):
        lr.save_plan(tmp_path / name, chosen)
        done = lr.apply_(mlp(), lr.load_plan(tmp_path / name), example=X)
        assert all(type(rank) is int for one in done.layers.values() for rank in one.ranks)
    assert (tmp_path / "given").read_bytes() == (tmp_path / "plain").read_bytes()
