"""Any task: the user's own loss and measures, of whatever a network gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks.agreement import no_labels
from pipeline.lowrank.tasks.base import Examples, ExampleScores, Given, Labels
from pipeline.lowrank.tasks.gaussian import Gaussian
from pipeline.lowrank.tasks.measure import DIVERGENCE, Measure
from pipeline.lowrank.tasks.metrics import gather, measured
from pipeline.lowrank.tasks.outputs import Selector, described, flattened, leaves, numbers

Direction = Literal["maximize", "minimize"]
# What the user's code may raise on a batch that does not suit it.
_FAULTS = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)
_LOSS = Measure("loss", "loss", "minimize", "", "four digits")
_APART = Measure("mse", "squared error, to dense", "minimize", "", "short")

_TAKEN = (_LOSS.name, _APART.name, DIVERGENCE.name, "params", "macs", "file_bytes", "latency_ms")


class Custom(Gaussian):
    """The network reads anything and gives anything: tensors with a row for each example, in
    tuples, lists, dicts or objects of transformers, of which `output` chooses.

    The divergence and the sampled loss are those of normal distributions (`Gaussian`), in which
    each tensor of the output counts relative to its own variance in the dense network. Without a
    loss nothing can be trained on labels, and quality is measured against the dense network.

    loss, and measures that are functions: called with (output, labels), and with (output, batch)
        where the second parameter is named `batch`, which has `inputs` and `labels`; they give a
        scalar, the mean over the examples. output: as `output` chooses; a tensor that differs from
        the labels by dimensions of 1 alone has the labels' shape.
    measures: {name: a metric of torchmetrics, or a function with its direction}, the most telling
        one first.
    """

    name = "custom"
    labels: Labels | None = "any"

    def __init__(
        self,
        *,
        loss: Callable[..., Tensor] | None = None,
        measures: Mapping[str, Any] | None = None,
        output: Selector | None = None,
        variance: float | None = None,
    ) -> None:
        """loss: of (output, labels) or (output, batch); a module of torch.nn as it is.
        measures: {name: metric of torchmetrics, or (metric or function, "maximize" or "minimize")}.
        output: which part of the network's output counts; None: all of it.
        variance: σ² of each number; None: that of the dense network's outputs.

        Raises LowRankError for a measure without a direction.
        """
        super().__init__(variance=variance, output=output)
        self._loss = loss
        self._scorers = {k: _scorer(k, given) for k, given in (measures or {}).items()}
        own = tuple(
            Measure(name, name.replace("_", " "), direction, "", "short")
            for name, (_, direction) in self._scorers.items()
        )
        self.watched = _LOSS if loss is not None else _APART
        self.measures = (*own, self.watched)
        if loss is None and not own:
            self.labels = None

    @property
    def supervised(self) -> bool:
        return self._loss is not None

    def unlabelled(self) -> Custom:
        return Custom(output=self.output, variance=self.variance)

    def tensors(self, output: Any) -> list[Tensor]:
        return numbers(self.selected(output), self.name)

    def prediction(self, output: Any) -> Tensor:
        return flattened(self.tensors(output))

    def target(self, given: Given) -> Given:
        return given

    def misfit(self, output: Any, examples: Examples) -> str | None:
        try:
            count = len(self.prediction(output))
        except LowRankError as error:
            return str(error)
        return None if count == 1 else f"it must give one row an example, and gives {count}"

    def distillation(self, output: Tensor, dense: Tensor, temperature: float) -> Tensor:
        """The divergence, the mean over the examples: each tensor counts by its own variance, where
        the task is `fitted`."""
        apart = self._standard(output) - self._standard(dense)
        return apart.square().sum() / (2 * len(output))

    def loss(self, output: Any, labels: Any, label_smoothing: float) -> Tensor:
        if label_smoothing:
            raise LowRankError(
                f"label_smoothing={label_smoothing:g}: the task custom has a loss of your own; set "
                "it to 0"
            )
        if self._loss is None or labels.labels is None:
            raise no_labels(self.name)
        return _called("task.loss", self._loss, *self._pair(output, labels), labels)

    def scores(self, output: Any, labels: Any) -> ExampleScores:
        count = len(next(leaves(labels.inputs if labels.inputs is not None else output)))
        chosen, true = self._pair(output, labels)
        found: dict[str, Any] = {}
        for name, (score, _) in self._scorers.items() if true is not None else ():
            if _is_metric(score):
                found[name] = _gathered(name, score, chosen, true)
            else:
                value = _called(f"task.measures.{name}", score, chosen, true, labels)
                found[name] = value.double().expand(count).cpu()
        if self._loss is not None:
            value = self.loss(output, labels, 0.0)
            return {**found, "loss": value.double().expand(count).cpu()}
        if labels.dense is None:
            raise LowRankError("the task custom has no loss: give one, or the dense network")
        apart = self.prediction(output).double() - self.prediction(labels.dense).double()
        return {**found, "mse": apart.square().mean(1).cpu()}

    def _pair(self, output: Any, given: Given) -> tuple[Any, Any]:
        """(the chosen part of the output, the labels), of one shape where they differ by dimensions
        of 1 alone: torch would broadcast (N, 1) against (N,) to (N, N)."""
        chosen, true = self.selected(output), given.labels
        if isinstance(chosen, Tensor) and isinstance(true, Tensor):
            sizes = [[n for n in one.shape[1:] if n > 1] for one in (chosen, true)]
            if len(chosen) == len(true) and sizes[0] == sizes[1]:
                chosen = chosen.reshape(true.shape)
        return chosen, true

    def progress(self, scores: Sequence[ExampleScores]) -> tuple[float, float]:
        total = sum(float(one[self.watched.name].sum()) for one in scores)
        return total, total

    def quality(
        self, scores: Sequence[ExampleScores], dense: Sequence[ExampleScores]
    ) -> dict[str, float]:
        """The measures, and the mean loss; without a loss `mse`, the mean squared difference to the
        dense network's numbers."""
        return measured(scores, list(scores[0]))


def _is_metric(score: Any) -> bool:
    return hasattr(score, "update") and hasattr(score, "compute")


def _scorer(name: str, given: Any) -> tuple[Any, Direction]:
    """(metric or function, which way is better)."""
    score, direction = given if isinstance(given, tuple) else (given, None)
    better = getattr(score, "higher_is_better", None)
    if direction is None and better is not None:
        direction = "maximize" if better else "minimize"
    if direction not in ("maximize", "minimize"):
        raise LowRankError(
            f"task.measures.{name}: which way is better is not known; give a direction, maximize "
            "or minimize"
        )
    if not callable(score):
        raise LowRankError(f"task.measures.{name}: {score!r} is no metric and no function")
    if name in _TAKEN or not name.isidentifier():
        why = "the name is taken" if name in _TAKEN else "a name is of letters, digits and _"
        raise LowRankError(f"task.measures.{name}: {why}; choose another")
    return score, direction


def _called(key: str, function: Callable[..., Any], output: Any, true: Any, given: Given) -> Tensor:
    """The scalar that the user's function gives for a batch."""
    try:
        found = function(output, given if _takes_batch(function) else true)
        return torch.as_tensor(found).reshape(())
    except _FAULTS as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise LowRankError(
            f"{key}: {type(error).__name__}: {first} (called with {described(output)} and "
            f"{described(true)}; it must give a scalar); correct it, or choose a part of the "
            "output with task.output"
        ) from error


def _takes_batch(function: Callable[..., Any]) -> bool:
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        second = list(inspect.signature(called).parameters)[1:2]
    except (TypeError, ValueError):  # not written in Python
        return False
    return second == ["batch"]


def _gathered(name: str, metric: Any, output: Any, true: Any) -> Any:
    try:
        return gather(metric.clone(), output, true)
    except _FAULTS as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise LowRankError(
            f"task.measures.{name}: {type(error).__name__}: {first} (updated with "
            f"{described(output)} and {described(true)}); correct its arguments, or choose a part "
            "of the output with task.output"
        ) from error
