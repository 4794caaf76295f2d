"""analyze: spectra of the trained network, before any method, policy or budget is chosen."""

from __future__ import annotations

from pathlib import Path

from pipeline.lowrank.analysis import analyze, save_analysis
from pipeline.lowrank.checkpoint import load_network
from pipeline.workload.data import load_split
from pipeline.workload.weight_history import weights_in_training
from stages._io import main, section


def run() -> None:
    options = section("analyze")
    model = load_network(Path("out/baseline"))
    example = load_split(Path("out/data"), "calibration").inputs[:1]
    analysis = analyze(model, example, **options)
    weights = weights_in_training(Path("out/baseline"), model, list(analysis.targets))
    save_analysis(Path("out/analysis"), analysis, weights)


if __name__ == "__main__":
    main(run)
