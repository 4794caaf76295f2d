"""Spectra of the weights themselves, which no metric changes: of the trained network and of earlier
states of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.lowrank.analysis.diagnostics import (
    Claims,
    Diagnosis,
    TrainingEffect,
    count_claims,
    diagnose,
    measure_training,
)
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network import progress
from pipeline.lowrank.network.linalg import singular_values
from pipeline.lowrank.network.opening import module_at
from pipeline.lowrank.network.targets import Target, dense_weight

_FILE = "weights.safetensors"


@dataclass(frozen=True)
class WeightDiagnosis:
    """One target's weight as a (rows, columns) matrix.

    shape: (rows, columns).
    trained, initial: diagnosis of its spectrum after and before training.
    training: what training did to it.

    The last two are None where the initial weights are not known.
    """

    shape: tuple[int, int]
    trained: Diagnosis
    initial: Diagnosis | None
    training: TrainingEffect | None


@dataclass(frozen=True)
class TrainingCourse:
    """What training did to the network as a whole.

    steps: the optimizer steps of the states that are known.
    absent: why only the trained state is known; None where more states are.
    claims: how often the claims of the literature hold; None where only the trained state is known.
    """

    steps: tuple[int, ...]
    absent: str | None
    claims: Claims | None


@dataclass(frozen=True)
class WeightSpectra:
    """Singular values of every target's weight as a matrix (out, in·taps), in training.

    steps: optimizer steps of the states, ascending. The last is the trained network; the first is
        the initial one where there is more than one.
    absent: why only the trained state is known; None where more states are.
    shapes: {target: (rows, columns)}.
    values: {target: (states, min(rows, columns))} descending, float64, the unit of the weight.
    """

    steps: tuple[int, ...]
    absent: str | None
    shapes: Mapping[str, tuple[int, int]]
    values: Mapping[str, Tensor]

    @cached_property
    def trained(self) -> dict[str, Diagnosis]:
        """{target: diagnosis of its trained weight}."""
        return {name: diagnose(self.values[name][-1], self.shapes[name]) for name in self.values}

    @cached_property
    def initial(self) -> dict[str, Diagnosis]:
        """{target: diagnosis of its initial weight}; empty where that is not known."""
        if self.absent is not None:
            return {}
        return {name: diagnose(self.values[name][0], self.shapes[name]) for name in self.values}

    @cached_property
    def effects(self) -> dict[str, TrainingEffect]:
        """{target: what training did to it}; empty where the initial weights are not known."""
        if self.absent is not None:
            return {}
        return {name: measure_training(list(values)) for name, values in self.values.items()}

    def diagnosis(self, name: str) -> WeightDiagnosis:
        """The diagnosis of one target's weight."""
        return WeightDiagnosis(
            shape=self.shapes[name],
            trained=self.trained[name],
            initial=self.initial.get(name),
            training=self.effects.get(name),
        )

    def course(self) -> TrainingCourse:
        """The steps of the states, and how often the claims on training hold in the network as a
        whole."""
        claims = None if self.absent is not None else count_claims(self.effects.values())
        return TrainingCourse(self.steps, self.absent, claims)


def weight_spectra(
    model: nn.Module,
    names: Sequence[str],
    *,
    step: int = 0,
    earlier: Iterable[tuple[int, nn.Module]] = (),
    targets: Mapping[str, Target] = MappingProxyType({}),
    known: Mapping[str, Tensor] = MappingProxyType({}),
    absent: str | None = "no earlier state of this network is known",
) -> WeightSpectra:
    """Spectra of the layers `names` of a trained network and of earlier states of it.

    step: the optimizer step of the trained state.
    earlier: (step, network) of the earlier states, ascending, the initial one first. The weights of
        one are read before the next is asked for, so that it may be the same module.
    targets: {name: its facts}, which say how stacks are stored.
    known: {name: singular values of its trained weight}, where they need not be computed again.
    absent: the reason to give where `earlier` is empty.
    """
    steps, states = [], []
    for earlier_step, network in earlier:
        steps.append(earlier_step)
        states.append({n: _values(_weight(network, n, targets)) for n in names})
    weights = {name: _weight(model, name, targets) for name in names}
    last = progress.steps(weights.items(), "spectra of the weights")
    states.append({n: known[n] if n in known else _values(weight) for n, weight in last})
    return WeightSpectra(
        steps=(*steps, step),
        absent=None if steps else absent,
        shapes={n: (w.shape[0], math.prod(w.shape[1:])) for n, w in weights.items()},
        values={name: torch.stack([state[name] for state in states]) for name in names},
    )


def save_weight_spectra(folder: Path, spectra: WeightSpectra) -> None:
    """Writes folder/weights.safetensors, float64."""
    facts = {"steps": spectra.steps, "absent": spectra.absent, "shapes": dict(spectra.shapes)}
    save_file(
        {f"{name}/values": values.contiguous() for name, values in spectra.values.items()},
        folder / _FILE,
        metadata={"facts": json.dumps(facts)},
    )


def load_weight_spectra(folder: Path) -> WeightSpectra:
    """Reads what `save_weight_spectra` wrote, targets in the model's order. Raises LowRankError
    where it is missing or damaged."""
    path = folder / _FILE
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
            shapes = {name: (rows, columns) for name, (rows, columns) in facts["shapes"].items()}
            values = {name: file.get_tensor(f"{name}/values") for name in shapes}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise LowRankError(f"{path}: no readable spectra ({error}); rerun analyze") from error
    return WeightSpectra(tuple(facts["steps"]), facts["absent"], shapes, values)


def _weight(model: nn.Module, name: str, targets: Mapping[str, Target]) -> Tensor:
    known = targets.get(name)
    if known is None:
        return dense_weight(module_at(model, name))
    return dense_weight(module_at(model, name, in_first=known.in_first, split=known.split))


def _values(weight: Tensor) -> Tensor:
    return singular_values(weight.flatten(1))
