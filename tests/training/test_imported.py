"""A network from elsewhere is checked against what its owner says of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from pipeline.data.files import DataFacts
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks import Classification
from pipeline.training.curve import Curve, EpochPoint
from pipeline.training.imported import check_imported
from pipeline.training.options import BaselineOptions

FACTS = DataFacts("mine", "classification", "mine", (3,), {}, {}, own_test=True)
OPTIONS = BaselineOptions(source="checkpoint", epochs=1, weights="w.pt")


def check(
    accuracy: float = 0.9, facts: DataFacts = FACTS, model: Any = None, **options: Any
) -> None:
    curve = Curve(epochs=[EpochPoint(0, 0, 0.3, accuracy)])
    check_imported(
        model or nn.Linear(3, 2), facts, curve, replace(OPTIONS, **options), Classification()
    )


def test_a_network_near_what_its_owner_measured_passes(capsys: pytest.CaptureFixture[str]) -> None:
    check(0.9, expected=0.92)
    check(0.8, expected=0.92, tolerance=0.2)
    check(0.1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("accuracy", "message"),
    [
        (0.43, r"accuracy 43.00 % on the validation .*=0.92 ± 0.05: likely causes: another normal"),
        (1.0, r"accuracy 100.00 % .*: a likely cause: it was trained on these examples"),
    ],
)
def test_a_network_far_from_it_stops(accuracy: float, message: str) -> None:
    with pytest.raises(LowRankError, match=message):
        check(accuracy, expected=0.92)


def test_a_test_split_that_was_drawn_is_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    check(facts=replace(FACTS, own_test=False))
    told = capsys.readouterr().err
    assert told.startswith("warning: the test split was drawn") and told.count("\n") == 1


def test_classes_in_another_order_than_the_models_are_refused() -> None:
    model = nn.Linear(3, 2)
    model.config = type("Config", (), {"id2label": {0: "pos", 1: "neg"}})()  # type: ignore[assignment]
    check(facts=replace(FACTS, class_names=("pos", "neg")), model=model)
    with pytest.raises(LowRankError, match=r"\[neg, pos\], .* set data.class_names=\[pos,neg\]"):
        check(facts=replace(FACTS, class_names=("neg", "pos")), model=model)


def test_what_is_expected_is_of_a_network_from_elsewhere() -> None:
    with pytest.raises(LowRankError, match=r"expected=0.9: not used with source=train"):
        BaselineOptions(source="train", epochs=1, expected=0.9)
