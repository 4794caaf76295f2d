"""What is checked of a network that was not trained here, before anything is built on it."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from torch import nn

from pipeline.data.files import DataFacts
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks import Task
from pipeline.models.processors import named_classes
from pipeline.training.curve import Curve
from pipeline.training.options import BaselineOptions


def check_imported(
    model: nn.Module, facts: DataFacts, curve: Curve, options: BaselineOptions, task: Task
) -> None:
    """Raises LowRankError for classes in another order than the model's own, and for a quality far
    from the one that is expected; says it where the test split may have been trained on."""
    _check_classes(model, facts)
    if options.expected is not None:
        _check_expected(curve, options.expected, options.tolerance, task)
    if not facts.own_test and facts.vocabulary is None:
        print(
            f"warning: the test split was drawn from the data {facts.name}; examples that the "
            "network was trained on make it look better than it is: give a test split of its own "
            "(docs/data.md), or leave the training data out",
            file=sys.stderr,
        )


def _check_classes(model: nn.Module, facts: DataFacts) -> None:
    id2label = getattr(getattr(model, "config", None), "id2label", None)
    own = named_classes(id2label) if isinstance(id2label, Mapping) else None
    if own is None or facts.class_names is None or own == facts.class_names:
        return
    raise LowRankError(
        f"the data's classes are {_list(facts.class_names)}, and the model's (id2label) "
        f"{_list(own)}: set data.class_names=[{','.join(own)}]"
    )


def _check_expected(curve: Curve, expected: float, tolerance: float, task: Task) -> None:
    """The quality on the validation split, since the test split is used once, at the end."""
    if not curve.epochs:
        raise LowRankError(
            f"baseline.expected={expected:g}: these examples have no labels, and nothing can be "
            "measured; set it to null"
        )
    measured, measure = curve.epochs[-1].validation_accuracy, task.watched
    allowed = tolerance * max(1.0, abs(expected))
    if abs(measured - expected) <= allowed:
        return
    worse = (measured < expected) == (measure.direction == "maximize")
    causes = (
        "likely causes: another normalisation (data.mean, data.std, data.normalise), classes in "
        "another order (data.class_names), colours or sizes of images"
        if worse
        else "a likely cause: it was trained on these examples; give data of its own"
    )
    raise LowRankError(
        f"the network has {measure.label} {measure.show(measured)} on the validation split, and "
        f"baseline.expected={expected:g} ± {allowed:g}: {causes}"
    )


def _list(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"[{', '.join(names[:5])}]{more}"
