"""analyze: spectra of the trained network, before any method, policy or budget is chosen."""

from __future__ import annotations

from pathlib import Path

from pipeline.lowrank.analysis import analyze, save_analysis
from pipeline.lowrank.checkpoint import load_network
from pipeline.workload.data import load_split
from stages._io import main, section


def run() -> None:
    options = section("analyze")
    model = load_network(Path("out/baseline"))
    example = load_split(Path("out/data"), "calibration").inputs[:1]
    save_analysis(Path("out/analysis"), analyze(model, example, **options))


if __name__ == "__main__":
    main(run)
