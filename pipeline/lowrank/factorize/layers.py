"""The factors of a plan's layers, which do not depend on each other: made one after the other in
this process, or by an executor in others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.analysis.metrics import Metric
from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.factorize.layer import LayerFactorization, LayerReport
from pipeline.lowrank.factorize.spilling import put_away, take_up
from pipeline.lowrank.forms.dense import dense_of
from pipeline.lowrank.forms.surgery import Factorized, layer_at, plain_attributes, unfilled
from pipeline.lowrank.forms.weights import load_weights, put_weights_
from pipeline.lowrank.methods import Method
from pipeline.lowrank.methods.interpolative import is_narrower
from pipeline.lowrank.network.executing import Executor, each
from pipeline.lowrank.network.kinds import base_of, behaviour_of, computes_weight
from pipeline.lowrank.network.probing import computed_weight
from pipeline.lowrank.network.progress import steps
from pipeline.lowrank.network.same_padding import SAME
from pipeline.lowrank.planning.plan import ExpectedLayer, Plan


@dataclass(frozen=True)
class _Job:
    """One layer to factorize: all that a process needs to know of it.

    folder: where its numbers go; None: they are the answer.
    """

    name: str
    module: nn.Module
    expected: ExpectedLayer
    method: Method
    metric: Metric | None
    spectra: Spectra
    certified: bool
    folder: Path | None


def built_layers(
    model: nn.Module,
    plan: Plan,
    analysis: Analysis,
    certified: bool,
    spill: Path | None,
    executor: Executor | None,
) -> tuple[dict[str, Factorized], dict[str, LayerReport]]:
    """({layer: what takes its place}, {layer: its report, where they are certified}) of the layers
    that are factorized one by one. The arguments are those of `apply_`."""
    folder = None if spill is None else spill.absolute()  # another process may be elsewhere
    names = [n for n, layer in plan.factorized.items() if not is_narrower(layer.method)]
    built: dict[str, Factorized] = {}
    reports: dict[str, LayerReport] = {}
    with torch.inference_mode(False):  # their parameters are to be trained, whoever calls
        if folder is not None and certified:
            for name in names:
                empty = _empty(name, model, plan, analysis)
                if (known := take_up(folder, name, empty)) is not None:
                    built[name], reports[name] = empty, known
        left = [name for name in names if name not in built]
        jobs = _jobs(left, model, plan, analysis, certified, folder, executor is not None)
        made = each(executor, _made, jobs)
        for name, (numbers, report) in zip(steps(left, "layers"), made, strict=True):
            built[name] = _empty(name, model, plan, analysis)
            if isinstance(numbers, Path):
                load_weights(built[name], numbers, mapped=True)
            else:
                put_weights_(built[name], numbers)
            if report is not None:
                reports[name] = report
    return {name: built[name] for name in names}, reports


def _jobs(
    names: Sequence[str],
    model: nn.Module,
    plan: Plan,
    analysis: Analysis,
    certified: bool,
    folder: Path | None,
    elsewhere: bool,
) -> Iterator[tuple[_Job]]:
    """Each is made when it is its turn, as it may read the layer's weight."""
    for name in names:
        expected, module = plan.expected.layers[name], _dense(name, model, analysis)
        job = _Job(
            name,
            alone(module) if elsewhere else module,
            expected,
            plan.methods[expected.method],
            analysis.metrics.get(name),
            analysis.spectra[name],
            certified,
            folder,
        )
        yield (job,)


def _made(job: _Job) -> tuple[Mapping[str, Tensor] | Path, LayerReport | None]:
    """(the numbers of the factorized layer, or the file that holds them; its report)."""
    one = LayerFactorization.of(
        job.name, job.module, job.expected, job.method, job.metric, job.spectra
    )
    built = one.built()
    report = one.report(built) if job.certified else None
    if job.folder is not None:
        return put_away(job.folder, job.name, built, report), report
    return built.state_dict(), report


def _dense(name: str, model: nn.Module, analysis: Analysis) -> nn.Module:
    target = analysis.targets[name]
    return dense_of(layer_at(model, name, in_first=target.in_first, split=target.split))


def _empty(name: str, model: nn.Module, plan: Plan, analysis: Analysis) -> Factorized:
    expected, module = plan.expected.layers[name], _dense(name, model, analysis)
    return unfilled(name, module, plan.methods[expected.method].form, expected.ranks)


def alone(module: nn.Module) -> nn.Module:
    """A layer of torch's own class with the weight, the bias and the plain attributes of `module`,
    of a known kind. Another process then needs neither the class that a user derived from it nor
    what is hooked to it, and of a weight that is part of a larger tensor it gets that part alone.
    """
    behaviour, cls = behaviour_of(module), base_of(type(module)) or type(module)
    if behaviour is not None and behaviour.same_padding:
        cls = SAME[behaviour.kind]
    one = cls.__new__(cls)
    nn.Module.__init__(one)
    vars(one).update(plain_attributes(module))
    weight = computed_weight(module) if computes_weight(module) else module.weight
    for name, tensor in (("weight", weight), ("bias", getattr(module, "bias", None))):
        if isinstance(tensor, Tensor):
            whole = tensor.untyped_storage().nbytes() == tensor.nbytes
            own = tensor.detach() if whole else tensor.detach().clone()
            setattr(one, name, nn.Parameter(own, requires_grad=False))
    return one
