"""Outputs of the stages before evaluate, planted: weights with known spectra, real SVDs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from torch import Tensor

from pipeline.data.files import DATA_JSON, DataFacts
from pipeline.lowrank.analysis.history import WeightSpectra, save_weight_spectra
from pipeline.lowrank.analysis.record import AnalysisRecord, TargetRecord, diagnose_view
from pipeline.lowrank.analysis.spectra import Spectra, analyze_weight, save_spectra
from pipeline.lowrank.bounds import Bounds, LayerBound, NetworkBound, Quantiles
from pipeline.lowrank.factorize.layer import LayerReport
from pipeline.lowrank.factorize.report import CompressionReport
from pipeline.lowrank.methods import CP, SVD, Tucker2
from pipeline.lowrank.network.costs import Totals
from pipeline.lowrank.network.linalg import singular_values
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.planning.files import load_plan, save_plan
from pipeline.lowrank.planning.plan import (
    DENSE,
    Contestant,
    Expected,
    ExpectedLayer,
    Plan,
    PlannedLayer,
)
from pipeline.lowrank.planning.policies import Energy
from pipeline.lowrank.typed import save_record
from pipeline.reporting.run.facts import read_facts
from pipeline.reporting.run.layers import FILE, layer_table
from pipeline.reporting.run.metrics import Network, Size, make_metrics
from pipeline.reporting.run.spectral import spectral_figures
from pipeline.training.curve import Curve, DescentPoint, EpochPoint, StepPoint

# name → (shape, method, ranks)
Layers = Mapping[str, tuple[tuple[int, ...], str, Sequence[int]]]

SMALL: Layers = {
    "stem": ((16, 3, 3, 3), "dense", []),
    "blocks.0.conv1": ((32, 16, 3, 3), "tucker2", [9, 6]),
    "blocks.0.conv2": ((32, 32, 3, 3), "tucker2", [12, 10]),
    "blocks.0.skip": ((32, 16, 1, 1), "svd", [5]),
    "blocks.10.conv1": ((64, 32, 3, 3), "cp", [14]),
    "head": ((10, 64), "dense", []),
    "hidden": ((64, 48), "svd", [11]),
}

NETWORKS = {
    "dense": Network({"accuracy": 0.975, "loss": 0.081}, Size(76_842, 1_234_560, 310_000)),
    "compressed": Network({"accuracy": 0.90, "loss": 0.345}, Size(19_210, 411_520, 77_500)),
    "fine_tuned": Network({"accuracy": 0.98, "loss": 0.0705}, Size(19_210, 411_520, 77_500)),
}
DATA = DataFacts(
    name="digits",
    task="classification",
    source="scans",
    input_shape=(1, 8, 8),
    sizes={"train": 1000, "test": 360},
    sha256={"scans": "0" * 64},
    label_shape=(),
)
TOTALS = Totals(params=76_842, macs=1_234_560, bytes=4 * 76_842)


def many_layers(count: int) -> Layers:
    """A deep network with long names, every third layer left dense."""
    layers: dict[str, tuple[tuple[int, ...], str, Sequence[int]]] = {}
    for index in range(count):
        name = f"backbone.stages.{index // 6}.blocks.{index % 6}.attention.projection{index}"
        kind = ("tucker2", "svd", "dense")[index % 3]
        shape = (10 + index, 12, 3, 3) if kind == "tucker2" else (24 + index, 20)
        layers[name] = (shape, kind, {"tucker2": [5 + index % 8, 7], "svd": [6], "dense": []}[kind])
    return layers


def planted_weight(shape: Sequence[int], alpha: float, seed: int) -> Tensor:
    """float64, the matrix view out × rest has singular values exactly i^(−alpha)."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = shape[0], math.prod(shape[1:])
    rank = min(rows, columns)
    left, right = (
        torch.linalg.qr(torch.randn(n, rank, generator=generator, dtype=torch.float64))[0]
        for n in (rows, columns)
    )
    values = torch.arange(1, rank + 1, dtype=torch.float64) ** -alpha
    weight: Tensor = (left * values @ right.T).reshape(*shape)
    return weight


def write_case(out: Path, layers: Layers = SMALL) -> dict[str, Tensor]:
    """Writes out/{data/data.json,analysis,plan.json,compressed,baseline,fine_tuned}; returns the
    weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small SVDs on a busy machine: threads would wait for each other
    try:
        return _write_case(out, layers)
    finally:
        torch.set_num_threads(threads)


def write_run(root: Path, layers: Layers = SMALL) -> Path:
    """A run that is done, with a contest that the second plan won."""
    write_case(root / "out", layers)
    plan = load_plan(root / "out/plan.json")
    planned = plan.expected.planned
    others = [Contestant("relative", planned.params, planned.macs, 0.003, 0.94)]
    entries = (*others, Contestant("absolute", planned.params, planned.macs, None, 0.00024))
    save_plan(root / "out/plan.json", replace(plan, contest=entries))
    params = {"model": {"_target_": "my.ResNet"}, "data": {"name": "digits"}}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    found = read_facts(root / "out")
    (root / "reports").mkdir()
    metrics = make_metrics(found, NETWORKS, spectral_figures(found))
    (root / "reports/metrics.json").write_text(json.dumps(metrics.to_json()))
    save_record(root / "reports" / FILE, layer_table(found))
    return root


def _write_case(out: Path, layers: Layers) -> dict[str, Tensor]:
    weights = {
        name: planted_weight(shape, 0.5 + 0.1 * (place % 7), place)
        for place, (name, (shape, _, _)) in enumerate(layers.items())
    }
    spectra = {name: analyze_weight(weight) for name, weight in weights.items()}
    (out / "analysis").mkdir(parents=True)
    save_spectra(out / "analysis", spectra)
    history = weight_history(weights)
    save_weight_spectra(out / "analysis", history)
    targets = {
        name: _target(name, shape, spectra[name], history) for name, (shape, _, _) in layers.items()
    }
    measured = {
        name: _report(weights[name], method, tuple(ranks))
        for name, (_, method, ranks) in layers.items()
        if method != "dense"
    }
    analysis = AnalysisRecord("weight", None, TOTALS, targets, history.course(), {}, {})
    save_record(out / "analysis/analysis.json", analysis)
    save_plan(out / "plan.json", planned(targets, measured))
    save_record(out / "compressed/layers.json", CompressionReport(measured, TOTALS))
    save_record(out / "compressed/bounds.json", bounds(measured))
    save_record(out / "data" / DATA_JSON, DATA)
    save_record(out / "baseline/curve.json", curve([0.4, 0.93, 0.972], best=2))
    save_record(out / "fine_tuned/curve.json", curve([0.9, 0.95, 0.978, 0.975], best=2))
    return weights


def planned(targets: Mapping[str, TargetRecord], reports: Mapping[str, LayerReport]) -> Plan:
    """The plan that the reports are of; targets without a report stay dense."""
    expected = {}
    for name, target in targets.items():
        report = reports.get(name)
        now = report or target
        expected[name] = ExpectedLayer(
            method=report.method if report else DENSE,
            ranks=report.ranks if report else (),
            params=now.params,
            macs=now.macs,
            dense_params=target.params,
            dense_macs=target.macs,
            relative_error=report.predicted_relative_error if report else 0.0,
            error_kind="estimate",
        )
    return Plan(
        metric="weight",
        seed=0,
        policy=Energy(energy=0.9),
        methods={method.name: method for method in (SVD(), Tucker2(), CP())},
        layers={
            name: PlannedLayer(
                layer.method, layer.ranks, "energy 0.9" if layer.ranks else "no rank pays: dense"
            )
            for name, layer in expected.items()
        },
        expected=Expected(expected, TOTALS, TOTALS),
    )


def weight_history(weights: Mapping[str, Tensor]) -> WeightSpectra:
    """Planted training: from noise of a tenth of the norm, half a way, to the weights."""
    values = {}
    for place, (name, weight) in enumerate(weights.items()):
        matrix = weight.flatten(1)
        generator = torch.Generator().manual_seed(1000 + place)
        noise = torch.randn(matrix.shape, generator=generator, dtype=torch.float64)
        noise *= 0.1 * matrix.norm() / noise.norm()
        states = (noise, noise + 0.5 * matrix, matrix)
        values[name] = torch.stack([singular_values(state) for state in states])
    shapes = {name: (w.shape[0], w[0].numel()) for name, w in weights.items()}
    return WeightSpectra((0, 10, 20), None, shapes, values)


def bounds(names: Iterable[str], reason: str | None = None) -> Bounds:
    """Bounds of these layers; `reason` makes it a network without a certificate."""
    layers = {
        name: LayerBound(bound=0.5 + place, theorem="fft", measured=0.2, slack=1e-12)
        for place, name in enumerate(names)
    }
    measured = Quantiles(median=1.25, p90=2.5, max=3.5)
    if reason is not None:
        return Bounds(layers, NetworkBound(False, reason, 180, measured))
    network = NetworkBound(
        certified=True,
        reason=None,
        examples=180,
        measured=measured,
        longest_input=9.0,
        certificate=Quantiles(median=125.0, p90=250.0, max=420.0),
        tightness=Quantiles(median=0.01, p90=0.012, max=0.015),
        worst_case=123456.0,
        printed_formula=77.0,
    )
    return Bounds(layers, network)


def curve(accuracies: Sequence[float], best: int, steps: int = 20) -> Curve:
    """`steps` steps an epoch, the loss falls like 1/step."""
    last = (len(accuracies) - 1) * steps
    return Curve(
        steps=[
            StepPoint(
                step=s,
                epoch=s / steps,
                train_loss=1 / (1 + 0.2 * s) + 0.02 * (s % 3),
                gradient_squared_norm=1 / s,
                learning_rate=0.1,
            )
            for s in range(1, last + 1, 2)
        ],
        epochs=[
            EpochPoint(e, e * steps, validation_loss=2 * (1 - a), validation_accuracy=a)
            for e, a in enumerate(accuracies)
        ],
        descent=descent(last, steps),
        best_epoch=best,
        trained_params=19_210,
    )


def descent(last: int, steps: int) -> list[DescentPoint]:
    """Three points of the descent theorem, as for L = 1/(1 + step); none for no steps."""
    return [
        DescentPoint(
            step=s,
            epoch=s / steps,
            subset_loss=1 / (1 + s),
            subset_gradient_squared_norm=1 / (1 + s) ** 2,
            smoothness=4.0,
            printed_false=1 - 0.1 * s,
            descent=1 - 0.02 * s,
            descent_sgd=1 - 0.01 * s,
        )
        for s in ((0, last // 2, last) if last else ())
    ]


def _target(
    name: str, shape: tuple[int, ...], spectra: Spectra, history: WeightSpectra
) -> TargetRecord:
    kind = "linear" if len(shape) == 2 else "conv2d"
    target = Target(name, kind, shape, bias=False, in_positions=64, out_positions=64)
    views = {key: diagnose_view(view) for key, view in spectra.views.items()}
    diagnosis = history.diagnosis(name)
    return TargetRecord(target, target.params, target.macs, spectra.squared_norm, views, diagnosis)


def _params(shape: Sequence[int], method: str, ranks: Sequence[int]) -> int:
    outputs, inputs, taps = shape[0], shape[1], math.prod(shape[2:])
    if method == "svd":
        return ranks[0] * (outputs + inputs * taps)
    if method == "tucker2":
        return ranks[1] * inputs + ranks[0] * ranks[1] * taps + ranks[0] * outputs
    return ranks[0] * (outputs + inputs + taps)


def _report(weight: Tensor, method: str, ranks: tuple[int, ...]) -> LayerReport:
    """Errors of the truncated SVD, or of the HOSVD (cp: of an HOSVD of its rank)."""
    kernel = weight.flatten(2) if weight.ndim > 2 else weight[..., None]
    cut = {0: ranks[0]} if method == "svd" else dict(enumerate([*ranks] * (3 - len(ranks))))
    projected, tails = kernel, []
    for mode, rank in cut.items():
        unfolded = kernel.movedim(mode, 0).flatten(1)
        left, values, _ = torch.linalg.svd(unfolded, full_matrices=False)
        tails.append(values[rank:].square().sum())
        basis = left[:, :rank]
        moved = torch.tensordot(basis @ basis.T, projected.movedim(mode, 0), dims=1)
        projected = moved.movedim(0, mode)
    norm = kernel.norm()
    measured = float((kernel - projected).norm() / norm)
    upper = float(torch.stack(tails).sum().sqrt() / norm)
    params = _params(weight.shape, method, ranks)
    return LayerReport(
        method=method,
        ranks=ranks,
        params=params,
        macs=64 * params,
        dense_params=weight.numel(),
        dense_macs=64 * weight.numel(),
        predicted_relative_error=measured * (1.02 if method == "tucker2" else 1.0),
        error_kind="upper_bound" if method == "tucker2" else "exact",
        measured_relative_error=measured,
        lower_bound=float(torch.stack(tails).max().sqrt() / norm),
        upper_bound=1.0 if method == "cp" else upper,
        theorem={"svd": "Eckart-Young", "tucker2": "HOSVD", "cp": "mode ranks"}[method],
        rounding=1e-6,
    )
