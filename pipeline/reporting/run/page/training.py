"""The course of a training: the loss and the quality on the validation split, and what was kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.lowrank.analysis.tables import number_text
from pipeline.reporting.page.axis import Axis, is_wide, make_axis
from pipeline.reporting.page.plot import Line, Plot, Rule
from pipeline.reporting.run.measures import in_percent
from pipeline.reporting.words import human_count
from pipeline.training.curve import Curve


@dataclass(frozen=True)
class Course:
    """Sentence and plots of a training; `kept_first` where no step was better than none."""

    sentence: str
    kept_first: bool
    plots: Sequence[Plot]


def course_of(curve: Curve) -> Course | None:
    """The course of a training; None where nothing was trained."""
    if not curve.steps:
        return None
    last = max((point.epoch for point in curve.epochs), default=0)
    first = bool(curve.epochs) and curve.best_epoch == 0
    if first:
        kept = (
            f"Step 0 was kept: none of the {last} epochs was better on the validation split than "
            "the network that the training began with"
        )
    elif curve.best is None:
        kept = "There was no validation split: the last state was kept"
    else:
        kept = f"The state after epoch {curve.best_epoch} of {last} was kept"
        kept += ", the one with the least loss on the validation split"
    sentence = f"{kept}. {curve.steps[-1].step:,} steps"
    if curve.trained_params:
        sentence += f" on {human_count(curve.trained_params)} parameters"
    return Course(f"{sentence}.", first, [_loss(curve), *_quality(curve)])


def _rules(curve: Curve) -> list[Rule]:
    return [] if curve.best is None else [Rule(curve.best.step, "kept")]


def _loss(curve: Curve) -> Plot:
    train = [(p.step, p.train_loss) for p in curve.steps]
    validation = [(p.step, p.validation_loss) for p in curve.epochs]
    values = [y for _, y in (*train, *validation)]
    log = is_wide(values)
    return Plot(
        title="loss",
        x=make_axis("step", [0, curve.steps[-1].step], _step, within=(0, curve.steps[-1].step)),
        y=make_axis("", values, number_text, log=log),
        lines=[
            Line(train, "train", "training"),
            *([Line(validation, "validation", "validation")] if validation else []),
        ],
        rules=_rules(curve),
    )


def _quality(curve: Curve) -> list[Plot]:
    if len(curve.epochs) < 2:
        return []
    percents = in_percent(curve.measure)
    points = [(p.step, p.validation_accuracy) for p in curve.epochs]
    values = [y for _, y in points]
    return [
        Plot(
            title=f"{curve.measure.replace('_', ' ')}, validation split",
            x=make_axis("step", [0, points[-1][0]], _step, within=(0, curve.steps[-1].step)),
            y=_percents(values) if percents else make_axis("", values, number_text),
            lines=[Line(points, "validation")],
            rules=_rules(curve),
        )
    ]


def _percents(values: Sequence[float]) -> Axis:
    """An axis of fractions, of at least two points, which does not leave 0 to 100 %."""
    low, high = min(values), max(values)
    room = max(0.04 * (high - low), 0.01)
    ends = (max(0.0, low - room), min(1.0, high + room))
    return make_axis("", values, lambda v: f"{100 * v:g} %", within=ends)


def descent_plot(curve: Curve) -> Plot | None:
    """The loss on some batches against what three formulas say of it; None where it was not asked
    for. The formulas fall without end, and the noise term rises: the measured curve rules."""
    points = curve.descent
    if len(points) < 2:
        return None
    top = max(point.subset_loss for point in points)
    last = points[-1].step
    lines = [
        Line([(p.step, p.subset_loss) for p in points], "validation", "measured"),
        Line([(p.step, p.printed_false) for p in points], "printed", "as printed, false"),
        Line([(p.step, p.descent) for p in points], "descent", "for full gradients"),
        Line([(p.step, p.descent_sgd) for p in points], "noise", "with gradient noise"),
    ]
    ends = (-0.5 * top, 2.0 * top)
    return Plot(
        title="the descent theorem, on training batches",
        x=make_axis("step", [0, last], _step, within=(0, last)),
        y=make_axis("", [], number_text, within=ends),
        lines=lines,
    )


def _step(value: float) -> str:
    return human_count(round(value)).replace(" ", "") if value >= 1000 else f"{value:g}"
