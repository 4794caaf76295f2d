"""Outputs of the stages before evaluate, planted: weights with known spectra, real SVDs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.lowrank.analysis.history import WeightSpectra, save_weight_spectra
from pipeline.lowrank.analysis.spectra import analyze_weight, save_spectra
from pipeline.lowrank.linalg import singular_values

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
    "dense": {
        "accuracy": 0.975,
        "loss": 0.081,
        "params": 76_842,
        "macs": 1_234_560,
        "file_bytes": 310_000,
    },
    "compressed": {
        "accuracy": 0.90,
        "loss": 0.345,
        "params": 19_210,
        "macs": 411_520,
        "file_bytes": 77_500,
    },
    "fine_tuned": {
        "accuracy": 0.98,
        "loss": 0.0705,
        "params": 19_210,
        "macs": 411_520,
        "file_bytes": 77_500,
    },
}


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
    """Writes out/{analysis,plan.json,compressed,baseline,finetuned}; returns the weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small SVDs on a busy machine: threads would wait for each other
    try:
        return _write_case(out, layers)
    finally:
        torch.set_num_threads(threads)


def _write_case(out: Path, layers: Layers) -> dict[str, Tensor]:
    weights = {
        name: planted_weight(shape, 0.5 + 0.1 * (place % 7), place)
        for place, (name, (shape, _, _)) in enumerate(layers.items())
    }
    for folder in ("analysis", "compressed", "baseline", "finetuned"):
        (out / folder).mkdir(parents=True)
    save_spectra(out / "analysis", {n: analyze_weight(w) for n, w in weights.items()})
    history = weight_history(weights)
    save_weight_spectra(out / "analysis", history)
    targets, planned, measured = {}, {}, {}
    for name, (shape, method, ranks) in layers.items():
        targets[name], planned[name] = _sizes(shape, method, ranks)
        targets[name]["weights"] = history.target_json(name)
        if method != "dense":
            measured[name] = _errors(weights[name], planned[name])
            planned[name]["relative_error"] = measured[name]["predicted_relative_error"]
    network = {"params": 1, "macs": 1, "input_shape": [3, 8, 8]}
    training = history.training_json()
    _dump(
        out / "analysis/analysis.json",
        {"metric": "weight", "network": network, "targets": targets, "training": training},
    )
    _dump(out / "plan.json", {"layers": planned, "policy": {"name": "energy", "energy": 0.9}})
    _dump(
        out / "compressed/layers.json",
        {"layers": measured, "network": {"params": 1, "macs": 1}, "refit": None},
    )
    _dump(out / "compressed/bounds.json", bounds(measured))
    _dump(out / "baseline/curve.json", curve([0.4, 0.93, 0.972], best=2))
    _dump(out / "finetuned/curve.json", curve([0.9, 0.95, 0.978, 0.975], best=2))
    return weights


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


def bounds(names: Iterable[str], reason: str | None = None) -> dict[str, Any]:
    """A bounds.json; `reason` makes it one without a certificate."""
    layers = {
        name: {"bound": 0.5 + place, "theorem": "fft", "measured": 0.2, "slack": 1e-12}
        | {"tightness": 0.2 / (0.5 + place)}
        for place, name in enumerate(names)
    }
    network: dict[str, Any] = {"certified": reason is None, "reason": reason, "examples": 180}
    network["measured"] = {"median": 1.25, "p90": 2.5, "max": 3.5}
    certified = {
        "longest_input": 9.0,
        "certificate": {"median": 125.0, "p90": 250.0, "max": 420.0},
        "tightness": {"median": 0.01, "p90": 0.012, "max": 0.015},
        "worst_case": 123456.0,
        "source_formula": 77.0,
    }
    network |= certified if reason is None else dict.fromkeys(certified)
    return {"layers": layers, "network": network}


def curve(accuracies: Sequence[float], best: int, steps: int = 20) -> dict[str, Any]:
    """A curve.json: `steps` steps an epoch, the loss falls like 1/step."""
    last = (len(accuracies) - 1) * steps
    return {
        "best_epoch": best,
        "measure": "accuracy",
        "trained_params": 19_210,
        "descent": descent(last, steps),
        "steps": [
            {
                "step": s,
                "epoch": s / steps,
                "train_loss": 1 / (1 + 0.2 * s) + 0.02 * (s % 3),
                "gradient_squared_norm": 1 / s,
                "learning_rate": 0.1,
            }
            for s in range(1, last + 1, 2)
        ],
        "epochs": [
            {
                "epoch": e,
                "step": e * steps,
                "validation_loss": 2 * (1 - a),
                "validation_accuracy": a,
            }
            for e, a in enumerate(accuracies)
        ],
    }


def descent(last: int, steps: int) -> list[dict[str, Any]]:
    """Three points of the descent theorem, as for L = 1/(1 + step); none for no steps."""
    return [
        {
            "step": s,
            "epoch": s / steps,
            "subset_loss": 1 / (1 + s),
            "subset_gradient_squared_norm": 1 / (1 + s) ** 2,
            "smoothness": 4.0,
            "printed_false": 1 - 0.1 * s,
            "descent": 1 - 0.02 * s,
            "descent_sgd": 1 - 0.01 * s,
        }
        for s in ((0, last // 2, last) if last else ())
    ]


def _sizes(
    shape: Sequence[int], method: str, ranks: Sequence[int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    dense = math.prod(shape)
    outputs, inputs, taps = shape[0], shape[1], math.prod(shape[2:])
    params = {
        "dense": lambda: dense,
        "svd": lambda: ranks[0] * (outputs + inputs * taps),
        "tucker2": lambda: ranks[1] * inputs + ranks[0] * ranks[1] * taps + ranks[0] * outputs,
        "cp": lambda: ranks[0] * (outputs + inputs + taps),
    }[method]()
    target = {
        "kind": "linear" if len(shape) == 2 else "conv2d",
        "shape": list(shape),
        "params": dense,
        "macs": 64 * dense,
        "positions": 64,
    }
    planned = {
        "method": method,
        "ranks": list(ranks),
        "params": params,
        "macs": 64 * params,
        "dense_params": dense,
        "dense_macs": 64 * dense,
        "relative_error": 0.0,
        "error_kind": "exact",
        "why": "no rank pays: dense" if method == "dense" else "energy 0.9",
    }
    return target, planned


def _errors(weight: Tensor, planned: Mapping[str, Any]) -> dict[str, Any]:
    """Errors of the truncated SVD, or of the HOSVD (cp: of an HOSVD of its rank)."""
    kernel = weight.flatten(2) if weight.ndim > 2 else weight[..., None]
    method, ranks = planned["method"], list(planned["ranks"])
    cut = {0: ranks[0]} if method == "svd" else dict(enumerate(ranks * (3 - len(ranks))))
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
    return {
        **{k: planned[k] for k in ("method", "ranks", "params", "macs")},
        **{k: planned[k] for k in ("dense_params", "dense_macs")},
        "predicted_relative_error": measured * (1.02 if method == "tucker2" else 1.0),
        "error_kind": "upper_bound" if method == "tucker2" else "exact",
        "measured_relative_error": measured,
        "lower_bound": float(torch.stack(tails).max().sqrt() / norm),
        "upper_bound": 1.0 if method == "cp" else upper,
        "bound": {"svd": "Eckart-Young", "tucker2": "HOSVD", "cp": "mode ranks"}[method],
        "rounding": 1e-6,
    }


def _dump(path: Path, value: object) -> None:
    # Sorted, as the stages write it: nothing may take the order of layers from here.
    path.write_text(json.dumps(value, sort_keys=True, indent=2) + "\n")
