"""What the spectra of the weights say: the table, the plots' rows and a few headline figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.reporting.run.facts import Facts
from pipeline.reporting.run.numbers import Row
from pipeline.reporting.run.plot_rows import FEWEST_POINTS, MOST_POINTS, MOST_ROWS, thin

SPECTRA_COLUMNS = (
    "name",
    "rows",
    "columns",
    "numerical_rank",
    "effective_rank",
    "effective_rank_initial",
    "stable_rank",
    "stable_rank_initial",
    "energy_90",
    "energy_99",
    "alpha",
    "alpha_stderr",
    "alpha_ks",
    "alpha_poor",
    "alpha_ww",
    "density_alpha",
    "density_stderr",
    "density_ks",
    "density_poor",
    "noise_scale",
    "noise_scale_initial",
    "edge",
    "spike_edge",
    "detectable",
    "spikes",
    "spikes_initial",
    "spike_energy",
    "noise_ks",
    "noise_ks_initial",
    "evbmf_rank",
    "optimal_threshold_rank",
    "leading_ratio",
    "trailing_ratio",
    "norm_ratio",
    "leading_grew",
    "trailing_shrank",
    "rank_rose_then_fell",
)


def spectral_rows(facts: Facts) -> list[Row]:
    """spectra.csv: one row a target, in the network's order; what does not exist is None."""
    return [_spectral_row(name, _weights(facts, name)) for name in facts.names]


def spectral_headline(facts: Facts) -> Row:
    """The part of metrics.json on spectra.

    effective_rank_fraction: mean over the layers of effective rank / min(rows, columns), also of
    the initial weights. spikes: of all layers. poor_power_laws: layers whose α should not be
    read. Each claim on training: in how many layers it holds, of how many that decide it.
    """
    layers = [_weights(facts, name) for name in facts.names]
    laws = [layer["trained"]["power_law"] for layer in layers]
    result: Row = {
        "layers": len(layers),
        "effective_rank_fraction": _mean_fraction(layers, "trained"),
        "spikes": sum((layer["trained"]["noise"] or {"spikes": 0})["spikes"] for layer in layers),
        "poor_power_laws": sum(law is None or law["poor"] for law in laws),
    }
    claims = facts.analysis["training"]["claims"]
    if claims is not None:
        result["effective_rank_fraction_initial"] = _mean_fraction(layers, "initial")
        result |= claims
    return result


def weight_rows(facts: Facts) -> list[Row]:
    """(layer, state, index from 1, singular_value, edge, spike_edge), descending; the edges are
    those of the trained weight's noise, None where it has no fit."""
    spectra = facts.weights
    states = {"trained": -1} if spectra.absent is not None else {"initial": 0, "trained": -1}
    count = len(states) * len(facts.names)
    limit = max(FEWEST_POINTS, min(MOST_POINTS, MOST_ROWS // count))
    rows = []
    for name in facts.names:
        noise = _weights(facts, name)["trained"]["noise"]
        edges = {key: noise[key] if noise else None for key in ("edge", "spike_edge")}
        for state, place in states.items():
            values = spectra.values[name][place].tolist()
            spikes = range(1, min(noise["spikes"], FEWEST_POINTS) + 1) if noise else ()
            for index in thin(len(values), limit, keep=tuple(spikes)):
                value = values[index - 1]
                row = {"layer": name, "state": state, "index": index, "singular_value": value}
                rows.append({**row, **edges})
    return rows


def training_rows(facts: Facts) -> list[Row]:
    """(layer, step, effective_rank, effective_rank / the initial one), by step; no rows where
    the initial weights are not known."""
    rows = []
    for name in facts.names:
        effect = _weights(facts, name)["training"]
        ranks = effect["effective_ranks"] if effect else []
        for step, rank in zip(facts.weights.steps, ranks, strict=False):
            change = rank / ranks[0] if ranks[0] > 0 else None
            rows.append(
                {"layer": name, "step": step, "effective_rank": rank, "relative_rank": change}
            )
    return rows


def _spectral_row(name: str, weights: Mapping[str, Any]) -> Row:
    trained, initial = weights["trained"], weights["initial"] or {}
    power, density = trained["power_law"] or {}, trained["density_law"] or {}
    noise, noise_initial = trained["noise"] or {}, initial.get("noise") or {}
    effect = weights["training"] or {}
    return {
        "name": name,
        "rows": weights["shape"][0],
        "columns": weights["shape"][1],
        **{key: trained[key] for key in ("numerical_rank", "energy_90", "energy_99")},
        **{key: trained[key] for key in ("effective_rank", "stable_rank")},
        **{f"{key}_initial": initial.get(key) for key in ("effective_rank", "stable_rank")},
        "alpha": power.get("alpha"),
        **{f"alpha_{key}": power.get(key) for key in ("stderr", "ks")},
        "alpha_poor": _yes(power.get("poor")),
        "alpha_ww": power.get("alpha_ww"),
        **{f"density_{key}": density.get(key) for key in ("alpha", "stderr", "ks")},
        "density_poor": _yes(density.get("poor")),
        "noise_scale": noise.get("scale"),
        "noise_scale_initial": noise_initial.get("scale"),
        **{key: noise.get(key) for key in ("edge", "spike_edge", "detectable")},
        **{key: noise.get(key) for key in ("spikes", "spike_energy")},
        "spikes_initial": noise_initial.get("spikes"),
        "noise_ks": noise.get("ks"),
        "noise_ks_initial": noise_initial.get("ks"),
        **{key: trained[key] for key in ("evbmf_rank", "optimal_threshold_rank")},
        **{key: effect.get(key) for key in ("leading_ratio", "trailing_ratio", "norm_ratio")},
        "leading_grew": _yes(effect.get("leading_grew")),
        "trailing_shrank": _yes(effect.get("trailing_shrank")),
        "rank_rose_then_fell": _yes(effect.get("rank_rose_then_fell")),
    }


def _weights(facts: Facts, name: str) -> dict[str, Any]:
    found: dict[str, Any] = facts.analysis["targets"][name]["weights"]
    return found


def _yes(verdict: bool | None) -> str | None:
    return None if verdict is None else ("yes" if verdict else "no")


def _mean_fraction(layers: list[dict[str, Any]], state: str) -> float:
    fractions = [layer[state]["effective_rank"] / min(layer["shape"]) for layer in layers]
    return float(sum(fractions) / len(fractions))
