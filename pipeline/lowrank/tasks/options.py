"""Options of a task, as a section of the configuration has them."""

from __future__ import annotations

import functools
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks import TASKS, get_task
from pipeline.lowrank.tasks.base import Task
from pipeline.lowrank.tasks.outputs import Selector
from pipeline.lowrank.typed import knob, options

_DIRECTION = "direction"


@options
class TaskOptions:
    """What the network predicts: its loss, its quality, and how two networks are compared."""

    name: str = knob(help=f"a task of pipeline.lowrank.tasks: {', '.join(TASKS)}")
    output: str | int | list[str | int] | dict[str, Any] | None = knob(
        None,
        help="which part of the network's output counts: a key, an index, several of them, or "
        "`{_target_: a function of the output}`; null: all of it",
    )
    ignore_index: int | None = knob(
        None, help="segmentation: the label that counts nowhere, as negative ones do"
    )
    variance: float | None = knob(
        None,
        gt=0,
        help="regression, reconstruction, custom: variance of the noise of a predicted number, the "
        "unit of divergences; null: that of the dense network's outputs",
    )
    loss: dict[str, Any] | None = knob(
        None, help="custom: `{_target_: function or module of (output, labels), and its arguments}`"
    )
    measures: dict[str, dict[str, Any]] | None = knob(
        None,
        help="custom: `{name: {_target_: metric of torchmetrics or function, its arguments, "
        "direction: maximize or minimize where it does not say}}`",
    )
    code_sha256: str | None = knob(
        None, help="checksum of the code of your loss, measures and output; filled in"
    )

    def __post_init__(self) -> None:
        known = inspect.signature(type(get_task(self.name)).__init__).parameters
        for key in ("ignore_index", "variance", "loss", "measures"):
            if getattr(self, key) not in (None, {}) and key not in known:
                raise LowRankError(
                    f"task.{key}={getattr(self, key)}: not used by the task {self.name}; set it to "
                    "null, or choose another task"
                )

    def made(self) -> Task:
        """The task. Raises LowRankError for an import path that is none."""
        kind: Callable[..., Task] = type(get_task(self.name))
        known = inspect.signature(kind).parameters
        given: dict[str, Any] = {
            "output": self._selector(),
            "ignore_index": self.ignore_index,
            "variance": self.variance,
            "loss": called(self.loss, "task.loss"),
            "measures": {k: _measure(k, v) for k, v in (self.measures or {}).items()},
        }
        return kind(**{key: value for key, value in given.items() if key in known})

    def _selector(self) -> Selector | None:
        if not isinstance(self.output, dict):
            return self.output
        found: Selector | None = called(self.output, "task.output")
        return found


def _measure(name: str, spec: Mapping[str, Any]) -> Any:
    rest = {key: value for key, value in spec.items() if key != _DIRECTION}
    found = called(rest, f"task.measures.{name}")
    if found is None:
        raise LowRankError(f"task.measures.{name}._target_ is not set: give an import path")
    direction = spec.get(_DIRECTION)
    return found if direction is None else (found, direction)


def called(spec: Mapping[str, Any] | None, key: str) -> Any:
    """What a section names by `_target_`: an object of a module's class (torch's losses and the
    metrics of torchmetrics are such), made with the other entries; or a function, which takes them
    as keywords when it is called. None where nothing is named.

    Raises LowRankError for what cannot be imported, for another class, and for wrong arguments.
    """
    target = (spec or {}).get("_target_")
    if spec is None or target is None:
        return None
    arguments = {k: v for k, v in spec.items() if k != "_target_"}
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise LowRankError(
            f"{key}._target_={target}: cannot be imported ({error}); the module must be on "
            "PYTHONPATH or in the directory of the command"
        ) from error
    if not inspect.isclass(found):
        if not callable(found):
            raise LowRankError(f"{key}._target_={target}: is no function and no class")
        return functools.partial(found, **arguments) if arguments else found
    if not issubclass(found, nn.Module):
        raise LowRankError(
            f"{key}._target_={target}: is a class, but no module of torch; give a function, a loss "
            "of torch.nn or a metric of torchmetrics"
        )
    try:
        return found(**arguments)
    except (TypeError, ValueError) as error:
        raise LowRankError(f"{key}._target_={target}: {error}; correct its arguments") from error
