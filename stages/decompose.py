"""decompose: factors in, dense layers out, every layer measured and certified."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pipeline.lowrank.analysis import load_analysis
from pipeline.lowrank.checkpoint import load_network, read_network, save_network
from pipeline.lowrank.compress import apply_
from pipeline.lowrank.planning import load_plan
from stages._io import main, section, write_json


def run() -> None:
    options = section("decompose")
    del options["methods"]  # the plan names the method of each layer
    plan = load_plan(Path("out/plan.json"))
    analysis = load_analysis(Path("out/analysis"))
    baseline = Path("out/baseline")
    model = load_network(baseline)
    model, reports = apply_(model, plan, analysis, **options, seed=section("seed"))
    layers = {n: {"method": r.method, "ranks": list(r.ranks)} for n, r in reports.items()}
    folder = Path("out/compressed")
    save_network(folder, model, read_network(baseline).spec, layers)
    write_json(
        folder / "layers.json",
        {
            "layers": {name: asdict(report) for name, report in reports.items()},
            "network": asdict(plan.planned),
        },
    )


if __name__ == "__main__":
    main(run)
