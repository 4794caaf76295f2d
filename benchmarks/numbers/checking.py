"""What holds of the numbers of every layer and network that is drawn; see `benchmarks.numbers`."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.numbers.drawing import Beside, Case
from pipeline import lowrank as lr
from pipeline.lowrank.forms.surgery import Factorized
from pipeline.lowrank.network.linalg import split_groups
from pipeline.lowrank.network.targets import dense_weight, groups_of

VACUOUS = 0.01
EXACT = 2e-7  # squares leave half of the digits of float64, in both numbers that are compared
THREADS = 1e-12


class FailedError(Exception):
    """A promise that a case breaks."""


def claim(holds: bool, told: str) -> None:
    if not holds:
        raise FailedError(told)


@dataclass
class Tally:
    """What was checked, and the largest of the figures that are held below a limit."""

    counts: Counter[str]
    largest: dict[str, float]

    def most(self, what: str, value: float) -> None:
        self.largest[what] = max(self.largest.get(what, 0.0), value)


def check(case: Case, tally: Tally, *, threads: bool) -> None:
    """Raises FailedError or LowRankError where a promise does not hold."""
    analysis = case.analyzed(case.net)
    plan = case.planned(case.net, analysis)
    net = copy.deepcopy(case.net)
    done = lr.apply_(net, plan, analysis)
    claim(done.ran, "the compressed network was not run")
    for name, report in done.layers.items():
        check_layer(case, name, analysis, plan, report, tally)
    check_operators(case, net, list(done.layers), tally)
    check_order(case, analysis, plan, net)
    if threads:
        check_threads(case, analysis, plan, done.layers, tally)
        tally.counts["networks by two threads"] += 1
    tally.counts["layers"] += len(case.sorts)
    tally.counts["factorized"] += len(done.layers)
    tally.counts["skipped"] += len(analysis.skipped)
    for name, layer in plan.factorized.items():
        tally.counts[f"by {layer.method}"] += 1
        tally.counts[f"in {case.metric}"] += 1
        for word in case.sorts[name].split():
            tally.counts[f"of {word}"] += 1


def check_layer(
    case: Case,
    name: str,
    analysis: lr.Analysis,
    plan: lr.Plan,
    report: lr.LayerReport,
    tally: Tally,
) -> None:
    layer = case.net.get_submodule(name)
    told = f"{case.sorts[name]}: {report}"
    method, spectra = plan.methods[report.method], analysis.spectra[name]
    if " denormal " in told and report.method.startswith("pivoted"):
        tally.most("rounding of denormal pivots", report.rounding)
    else:
        claim(report.rounding <= VACUOUS, f"vacuous: {told}")
        tally.most("rounding of ‖W‖", report.rounding)
    whitened = analysis.whiten(name, dense_weight(layer))
    norm = float(whitened.norm()) or 1.0
    exact = method.form.reconstruct(method.factorize(whitened, spectra, report.ranks))
    error, predicted = float((whitened - exact).norm()) / norm, report.predicted_relative_error
    off = {"exact": abs(error - predicted), "upper_bound": error - predicted, "estimate": 0.0}
    claim(off[report.error_kind] <= EXACT, f"{error} is not what was predicted: {told}")
    tally.most("error − prediction", off[report.error_kind])
    claim(
        report.lower_bound - EXACT <= error <= report.upper_bound + EXACT,
        f"{error} violates the certificate: {told}",
    )
    if report.method == "svd":
        matrices = split_groups(whitened, groups_of(layer)).flatten(2)
        tail = torch.linalg.svdvals(matrices)[:, report.ranks[0] :]
        off_tail = abs(float(tail.norm()) / norm - predicted)
        claim(off_tail <= EXACT, f"LAPACK says {float(tail.norm()) / norm}: {told}")
        tally.most("prediction − LAPACK", off_tail)


def check_operators(case: Case, net: Beside, names: list[str], tally: Tally) -> None:
    found = lr.certify(case.net, net, case.batch, names).layers
    for name in names:
        bound, layer = found[name], case.net.get_submodule(name)
        factorized = net.get_submodule(name)
        assert isinstance(factorized, Factorized)
        weight = dense_weight(layer).double()
        change = (weight - factorized.dense_weight()).flatten(1)
        size = float(torch.linalg.matrix_norm(weight.flatten(1), 2))
        told = f"{case.sorts[name]}: {bound}, ‖W‖₂ = {size}"
        claim(bound.slack <= VACUOUS * size or size == 0, f"vacuous: {told}")
        tally.most("slack of ‖W‖₂", bound.slack / (size or 1.0))
        if isinstance(layer, nn.Linear):
            true = float(torch.linalg.matrix_norm(change, 2))
            claim(bound.bound >= true * (1 - 1e-12), f"below ‖W − Ŵ‖₂ = {true}: {told}")
            claim(bound.bound <= true * (1 + VACUOUS), f"far above ‖W − Ŵ‖₂ = {true}: {told}")


def check_order(case: Case, analysis: lr.Analysis, plan: lr.Plan, net: Beside) -> None:
    """The same layers, registered and called in the reverse order."""
    turned = Beside(dict(reversed(case.net.layers.items())))
    other = case.analyzed(turned)
    for name, spectra in analysis.spectra.items():
        for view, values in spectra.views.items():
            same = torch.equal(values.eigenvalues, other.spectra[name].views[view].eigenvalues)
            claim(same, f"{name}: other spectra in another order")
    again = case.planned(turned, other)
    decided = [{n: (p.method, p.ranks) for n, p in one.layers.items()} for one in (plan, again)]
    claim(decided[0] == decided[1], f"another plan in another order: {decided}")
    turned = copy.deepcopy(turned)
    lr.apply_(turned, again, other)
    factors, others = net.state_dict(), turned.state_dict()
    same = all(torch.equal(value, others[key]) for key, value in factors.items())
    claim(same and len(factors) == len(others), "other factors in another order")


def check_threads(
    case: Case,
    analysis: lr.Analysis,
    plan: lr.Plan,
    reports: Mapping[str, lr.LayerReport],
    tally: Tally,
) -> None:
    with by_threads(2):
        other = case.analyzed(case.net)
        again = case.planned(case.net, other)
        done = lr.apply_(copy.deepcopy(case.net), plan, other)
    for name, spectra in analysis.spectra.items():
        for view, values in spectra.views.items():
            one, two = values.eigenvalues, other.spectra[name].views[view].eigenvalues
            off = float((one - two).abs().max() / (one[0] if one[0] > 0 else 1.0))
            claim(off <= THREADS, f"{case.sorts[name]}: {view} off {off}")
            tally.most("eigenvalues of two threads", off)
    same = plan.expected.planned == again.expected.planned
    claim(same, f"another plan by two threads: {plan} and {again}")
    for name, report in done.layers.items():
        off = abs(report.measured_relative_error - reports[name].measured_relative_error)
        claim(off <= report.rounding + reports[name].rounding, f"{name}: two threads: {report}")
        tally.most("errors of two threads", off)


@contextmanager
def by_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
