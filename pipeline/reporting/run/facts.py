"""All results of the stages before evaluate, read once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.lowrank.analysis.history import WeightDiagnosis, WeightSpectra, load_weight_spectra
from pipeline.lowrank.analysis.record import AnalysisRecord
from pipeline.lowrank.analysis.spectra import Spectra, load_spectra
from pipeline.lowrank.bounds import Bounds
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.factorize.report import CompressionReport
from pipeline.lowrank.planning.files import load_plan
from pipeline.lowrank.planning.plan import Plan
from pipeline.lowrank.typed import load_record
from pipeline.training.curve import Curve, read_curve

REMEDY = "run dvc repro"


@dataclass(frozen=True)
class Facts:
    """The results of the stages before evaluate.

    analysis, plan: the content of the files of those names.
    compression: measured errors and bounds of the factorized layers, and of a refit.
    bounds: of the layers' outputs, and of the network's.
    spectra, weights: spectra in the metric, and of the weights themselves in training; both hold
        all targets in the network's order, which every list of layers in the reports follows.
    baseline, fine_tune: the curves of the two trainings.
    """

    analysis: AnalysisRecord
    spectra: dict[str, Spectra]
    weights: WeightSpectra
    plan: Plan
    compression: CompressionReport
    bounds: Bounds
    baseline: Curve
    fine_tune: Curve

    @property
    def names(self) -> list[str]:
        """Targets in the network's order."""
        return list(self.spectra)

    def weight(self, name: str) -> WeightDiagnosis:
        """The diagnosis of one target's weight. Raises LowRankError if analyze did not diagnose the
        weights."""
        found = self.analysis.targets[name].weights
        if found is None:
            raise LowRankError(f"the analysis has no diagnosis of {name!r}'s weight; rerun analyze")
        return found


def read_facts(out: Path) -> Facts:
    """Reads out/{analysis,plan.json,compressed,baseline,fine_tuned}.

    Raises LowRankError when a file is missing or the files speak of different layers.
    """
    facts = Facts(
        analysis=load_record(out / "analysis/analysis.json", AnalysisRecord, REMEDY),
        spectra=load_spectra(out / "analysis"),
        weights=load_weight_spectra(out / "analysis"),
        plan=load_plan(out / "plan.json"),
        compression=load_record(out / "compressed/layers.json", CompressionReport, REMEDY),
        bounds=load_record(out / "compressed/bounds.json", Bounds, REMEDY),
        baseline=read_curve(out / "baseline"),
        fine_tune=read_curve(out / "fine_tuned"),
    )
    _check_agreement(facts)
    return facts


def _check_agreement(facts: Facts) -> None:
    planned = facts.plan.layers
    factorized = {name for name, layer in planned.items() if layer.method != "dense"}
    for what, missing in (
        ("out/plan.json", set(facts.spectra) ^ set(planned)),
        ("out/compressed/layers.json", factorized ^ set(facts.compression.layers)),
    ):
        if missing:
            raise LowRankError(
                f"{what} and the stages before it disagree about {', '.join(sorted(missing))}; "
                "run dvc repro, and after an edit of the plan run from decompose on"
            )
