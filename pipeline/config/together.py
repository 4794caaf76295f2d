"""Checks of options that are right by themselves and do not suit each other, before anything
runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.config.from_model import EXPLICIT, TRANSFORMER
from pipeline.data.options import USED
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks import TASKS, get_task
from pipeline.machine.sharding import FSDP

if TYPE_CHECKING:
    from pipeline.config.configuration import Configuration

_FILES = ("tensors", "text", "image_folder", "table", "hub")
_ANY_INPUTS = ("tensors", "dataset", "hub")  # what they hold may be values or token ids
# Policies whose plans are measured on data that the statistics haven't seen.
_MEASURED = ("budget", "loss")


def check_together(configuration: Configuration) -> None:
    """Raises LowRankError for a configuration that is known not to run."""
    _check_given(configuration)
    _check_task(configuration)
    _check_held_out(configuration)
    _check_normalised(configuration)
    _check_shared_out(configuration)


def _check_given(configuration: Configuration) -> None:
    data, baseline = configuration.data, configuration.baseline
    for key, value, needed in (
        ("data.path", data.path, data.name in _FILES),
        ("data.dataset._target_", data.dataset, data.name == "dataset"),
        ("baseline.weights", baseline.weights, baseline.source == "checkpoint"),
    ):
        if needed and value is None:
            raise LowRankError(f"{key} is not set: give it on the command line or in conf/")


def _check_task(configuration: Configuration) -> None:
    task, model = get_task(configuration.task.name), configuration.model
    data = configuration.data.name
    inputs = "tokens" if data == "text" else "values"
    if data not in _ANY_INPUTS and task.inputs not in (inputs, "any"):
        fitting = ", ".join(n for n, known in TASKS.items() if known.inputs in (inputs, "any"))
        raise LowRankError(
            f"task={task.name}: it reads {task.inputs}, and data={data} gives {inputs}; choose "
            f"other data, or a task of {fitting}; docs/tasks.md has the tasks"
        )
    if model.get("_target_") == TRANSFORMER and model.get("task") != task.name:
        raise LowRankError(f"model.task={model.get('task')}: renamed; it is task.name now")


def _check_held_out(configuration: Configuration) -> None:
    data, rank_select = configuration.data, configuration.rank_select
    count = round(data.held_out * data.calibration)
    shown = f"data.held_out={data.held_out:g} of data.calibration={data.calibration}"
    if count == data.calibration:
        raise LowRankError(f"{shown}: nothing is left for the statistics; hold out less")
    measured = rank_select.policy in _MEASURED and rank_select.contest_examples
    if (measured or configuration.refit.wanted) and count == 0:
        raise LowRankError(
            f"{shown}: no example is left to compare networks on; hold out more, or set "
            "rank_select.contest_examples=0 and refit=none"
        )


def _check_normalised(configuration: Configuration) -> None:
    """A network that was trained elsewhere reads inputs as it did there: nothing is guessed."""
    data, baseline = configuration.data, configuration.baseline
    if baseline.source == "train" or "normalise" not in USED[data.name]:
        return
    if all(getattr(data, key) is None for key in EXPLICIT):
        raise LowRankError(
            f"data.normalise is not set, and baseline.source={baseline.source} brings a network "
            "that reads its inputs as it was trained: give its constants (data.mean, data.std), "
            "data.normalise=none if it had none, or data.normalise=from_data if it was trained on "
            "this data, normalised by its own statistics"
        )


def _check_shared_out(configuration: Configuration) -> None:
    """FSDP trains what is compressed; what looks into a network while it trains finds parts of
    it."""
    if configuration.fabric.strategy != FSDP:
        return
    source, fine_tune = configuration.baseline.source, configuration.fine_tune
    trains = fine_tune.parameters != "none"
    if source == "train":
        problem = "baseline.source=train", "choose pretrained or checkpoint"
    elif trains and fine_tune.optimizer == "muon":
        problem = "fine_tune.optimizer=muon", "choose sgd or adamw"
    elif trains and fine_tune.descent_points:
        problem = f"fine_tune.descent_points={fine_tune.descent_points}", "set it to 0"
    else:
        return
    key, remedy = problem
    raise LowRankError(
        f"{key}: not with fabric.strategy={FSDP}, whose processes hold parts of the weights; "
        f"{remedy}, or fabric.strategy=ddp"
    )
