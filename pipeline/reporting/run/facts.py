"""Everything the stages before evaluate wrote, read once."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.lowrank.analysis.history import WeightSpectra, load_weight_spectra
from pipeline.lowrank.analysis.spectra import Spectra, load_spectra
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.planning.files import load_plan

Json = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """`analysis`, `plan`: the files of those names. `layers`: measured errors and bounds of the
    factorized layers; `refit`: what was measured of a refit, None without; `bounds`: of the
    layers' outputs, and of the network's. `spectra` (in the metric)
    and `weights` (of the weights themselves, in training) hold all targets in the network's
    order, which every list of layers in the reports follows (the JSON files are sorted by
    name)."""

    analysis: Json
    spectra: dict[str, Spectra]
    weights: WeightSpectra
    plan: Json
    layers: Json
    refit: Json | None
    bounds: Json
    baseline_curve: Json
    curve: Json

    @property
    def names(self) -> list[str]:
        """Targets in the network's order."""
        return list(self.spectra)


def read_facts(out: Path) -> Facts:
    """Reads out/{analysis,plan.json,compressed,baseline,finetuned}.

    Raises LowRankError when a file is missing or the files speak of different layers.
    """
    compressed = read_json(out / "compressed" / "layers.json")
    facts = Facts(
        analysis=read_json(out / "analysis" / "analysis.json"),
        spectra=load_spectra(out / "analysis"),
        weights=load_weight_spectra(out / "analysis"),
        plan=_plan(out / "plan.json"),
        layers=compressed["layers"],
        refit=compressed["refit"],
        bounds=read_json(out / "compressed" / "bounds.json"),
        baseline_curve=read_json(out / "baseline" / "curve.json"),
        curve=read_json(out / "finetuned" / "curve.json"),
    )
    _check_agreement(facts)
    return facts


def _plan(path: Path) -> Json:
    plan = load_plan(path)
    layers = {
        name: asdict(plan.expected.layers[name]) | {"ranks": list(layer.ranks), "why": layer.why}
        for name, layer in plan.layers.items()
    }
    return {"layers": layers}


def read_json(path: Path) -> Json:
    """Raises LowRankError when the file is missing or is no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise LowRankError(f"{path}: no readable JSON ({error}); run dvc repro") from error
    if not isinstance(value, dict):
        raise LowRankError(f"{path}: a JSON object is expected; run dvc repro --force")
    return value


def _check_agreement(facts: Facts) -> None:
    targets = set(facts.spectra)
    planned = set(facts.plan["layers"])
    factorized = {n for n, p in facts.plan["layers"].items() if p["method"] != "dense"}
    for what, missing in (
        ("out/plan.json", targets ^ planned),
        ("out/compressed/layers.json", factorized ^ set(facts.layers)),
    ):
        if missing:
            raise LowRankError(
                f"{what} and the stages before it disagree about {', '.join(sorted(missing))}; "
                "run dvc repro, and after an edit of the plan run from decompose on"
            )
