"""The headline figures and the table of layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.lowrank.errors import LowRankError
from pipeline.reporting.run.facts import Facts

NETWORKS = ("dense", "compressed", "fine_tuned")

Row = dict[str, Any]


def headline(networks: Mapping[str, Mapping[str, float]], layers: Mapping[str, Any]) -> Row:
    """metrics.json: the three networks side by side, ratios (> 1 is smaller) and errors.

    networks: {"dense" | "compressed" | "fine_tuned": {measures of the task, params, macs,
    file_bytes}}; layers: the factorized layers of layers.json. Drops of the accuracy in [0, 1],
    where there is one, are percentage points, negative when it rose. `mean_bound_tightness`
    (measured error / upper bound, 1 is tight) is left out where no layer has an upper bound.
    """
    dense, last = networks["dense"], networks["fine_tuned"]
    errors = [layer["measured_relative_error"] for layer in layers.values()]
    tight = [t for layer in layers.values() if (t := tightness(layer)) is not None]
    result: Row = {
        **{name: dict(networks[name]) for name in NETWORKS},
        "compression_ratio": dense["params"] / last["params"],
        "macs_ratio": dense["macs"] / last["macs"],
        "file_ratio": dense["file_bytes"] / last["file_bytes"],
        "layers_factorized": len(errors),
        "max_relative_error": max(errors, default=0.0),
    }
    if "accuracy" in dense:
        for name in NETWORKS[1:]:
            result[f"accuracy_drop_{name}"] = _points(dense, networks[name])
    if tight:
        result["mean_bound_tightness"] = sum(tight) / len(tight)
    return result


def output_errors(bounds: Mapping[str, Any]) -> Row:
    """metrics.json's `output_error`: the largest over the certified examples, and tightness
    (measured / bound: of the network the median, of the layers the mean). What has no
    certificate has only what was measured."""
    network, layers = bounds["network"], list(bounds["layers"].values())
    result: Row = {"certified": network["certified"], "measured": network["measured"]["max"]}
    if layers:
        result["layer_tightness"] = sum(layer["tightness"] for layer in layers) / len(layers)
    if network["certified"]:
        result["certificate"] = network["certificate"]["max"]
        result["tightness"] = network["tightness"]["median"]
        result["worst_case"] = network["worst_case"]
        result["source_formula"] = network["source_formula"]
    return result


def tightness(layer: Mapping[str, Any]) -> float | None:
    """measured error / upper bound; None where there is no bound or it is 0."""
    upper = layer["upper_bound"]
    if layer["bound"] == "none" or upper is None or not 0.0 < upper < math.inf:
        return None
    return float(layer["measured_relative_error"] / upper)


def check_bounds(layers: Mapping[str, Any]) -> None:
    """Raises LowRankError naming the first layer whose error leaves [lower, upper].

    A certified bound that a measurement breaks means a wrong bound, factors that belong to
    another network, or an edited file; no report should be written from it.
    """
    for name, layer in layers.items():
        measured = layer["measured_relative_error"]
        (lower, upper), slack = bounds(layer), layer["rounding"]
        above = upper is not None and measured > upper + slack
        if not math.isfinite(measured) or measured < lower - slack or above:
            top = "none" if upper is None else f"{upper:.6g}"
            raise LowRankError(
                f"layer {name!r}: the measured relative error {measured:.6g} is outside its "
                f"{layer['bound']} bounds [{lower:.6g}, {top}]; rerun with "
                "dvc repro --force --downstream decompose, and report it if it stays"
            )


def bounds(layer: Mapping[str, Any]) -> tuple[float, float | None]:
    """(lower, upper) relative error of a factorized layer; None where nothing bounds it."""
    upper = layer["upper_bound"]
    bounded = layer["bound"] != "none" and upper is not None and math.isfinite(upper)
    return layer["lower_bound"] or 0.0, upper if bounded else None


def layer_rows(facts: Facts) -> list[Row]:
    """layers.csv: one row a target, in the network's order; a dense layer has no error."""
    return [_layer_row(facts, name) for name in facts.names]


def _layer_row(facts: Facts, name: str) -> Row:
    target, planned = facts.analysis["targets"][name], facts.plan["layers"][name]
    measured = facts.layers.get(name)
    # Sizes of a factorized layer are those of the layer that was built, not of its plan.
    built = planned if measured is None else measured
    lower, upper = (0.0, 0.0) if measured is None else bounds(measured)
    output = facts.bounds["layers"].get(name, {})
    uniqueness = (measured or {}).get("uniqueness") or {}
    return {
        "name": name,
        "kind": target["kind"],
        "shape": "x".join(map(str, target["shape"])),
        "method": planned["method"],
        "ranks": "x".join(map(str, planned["ranks"])),
        "dense_params": planned["dense_params"],
        "params": built["params"],
        "dense_macs": planned["dense_macs"],
        "macs": built["macs"],
        "predicted_relative_error": planned["relative_error"],
        "measured_relative_error": 0.0 if measured is None else measured["measured_relative_error"],
        "lower_bound": lower,
        "upper_bound": upper,
        "refit_correction": (measured or {}).get("correction"),
        "output_error_measured": output.get("measured"),
        "output_error_bound": output.get("bound"),
        "output_error_theorem": output.get("theorem"),
        "cp_rank_limit": uniqueness.get("rank_limit"),
        "cp_unique": uniqueness.get("kruskal"),
        "why": planned["why"],
    }


def _points(dense: Mapping[str, float], other: Mapping[str, float]) -> float:
    # Rounded to hide the noise of the subtraction: 0.5 and not 0.5000000000000004.
    return round(100.0 * (dense["accuracy"] - other["accuracy"]), 10)
