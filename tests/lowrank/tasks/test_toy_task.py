"""A task of one file runs through statistics, contest, evaluation and training."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from pipeline.data.splits import Split
from pipeline.evaluation.networks import compare_networks
from pipeline.evaluation.quality import check_fit
from pipeline.lowrank.analysis.collecting import collect_moments
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks import TASKS, Task, get_task
from pipeline.lowrank.tasks.base import Examples
from pipeline.reporting.run.measures import measures
from pipeline.training.losses import Teacher, distillation
from pipeline.training.options import TrainingOptions
from pipeline.training.train import train

OPTIONS = TrainingOptions(epochs=20, batch_size=50, learning_rate=0.05)


@pytest.fixture
def task() -> Iterator[Task]:
    """Registered by its own file, and by nothing else, for one test."""
    TASKS.pop("toy", None)
    module = import_module("tests.lowrank.tasks.toy_task")
    TASKS.setdefault("toy", module.Toy())
    yield get_task("toy")
    del TASKS["toy"]


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))


def split(count: int, seed: int) -> Split:
    """y = sin of the first input + the second."""
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return Split(inputs, inputs[:, 0].sin() + inputs[:, 1])


def test_half_the_fisher_norm_is_the_divergence(task: Task) -> None:
    net, inputs = network(0), split(40_000, 1).inputs
    moments = collect_moments(net, [inputs], {"2": net[2]}, gradients=True, task=task)["2"]
    measure = Divergence(net, [inputs], task)
    assert measure.of(net) == 0 and measure.unit == "nats per example"
    change = 0.1 * torch.randn(1, 16, generator=torch.Generator().manual_seed(2))
    assert moments.outputs is not None
    energy = float(change.double() @ moments.inputs[0] @ change.double().T)
    expected = 0.5 * float(moments.outputs) * energy
    with torch.no_grad():
        net[2].weight += change
    # The last layer is linear: what is left is the sampled variance of z.
    assert measure.of(net) == pytest.approx(expected, rel=0.02)


def test_it_is_trained_distilled_and_compared(task: Task, fabric: Fabric) -> None:
    training, validation, test = split(400, 3), split(100, 4), split(100, 5)
    dense, student = network(1), network(2)
    curve = train(dense, training, validation, OPTIONS, task, fabric=fabric, seed=0)
    assert curve.measure == "squared_error" and curve.best_epoch > 0
    aim = distillation(
        task,
        Teacher(dense, training, fabric, "none"),
        temperature=1.0,
        weight=1.0,
        label_smoothing=0.0,
    )
    train(student, training, validation, OPTIONS, task, fabric=fabric, seed=0, objective=aim)
    networks = {"dense": dense, "student": student, "random": network(3)}
    scores = compare_networks(networks, {"test": test}, task, batch_size=30)
    errors = {name: found["squared_error"] for name, found in scores.items()}
    assert errors["dense"] < 0.15 * errors["random"]
    assert errors["student"] < 0.3 * errors["random"]
    measure, apart = measures(scores["dense"])
    assert scores["dense"][apart.name] == 0 < scores["student"][apart.name], "no categories"
    assert measure.direction == "minimize" and measure.show(errors["dense"]).startswith("0.")


def test_a_network_that_does_not_fit_is_refused(task: Task) -> None:
    examples = Examples("planted", (6,))
    check_fit(network(0), examples, task)
    with pytest.raises(LowRankError, match=r"gives \[1, 16\] for one example, it must give one"):
        check_fit(network(0)[:2], examples, task)
