"""decompose: factors in, dense layers out; every layer and the network measured and certified."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pipeline.lowrank.analysis import load_analysis
from pipeline.lowrank.bounds import certify
from pipeline.lowrank.checkpoint import load_network, read_network, save_network
from pipeline.lowrank.compress import apply_
from pipeline.lowrank.planning import load_plan
from pipeline.workload.data import load_split
from stages._io import main, section, write_json


def run() -> None:
    options, chosen = section("decompose"), section("certify")
    del options["methods"]  # the plan names the method of each layer
    plan = load_plan(Path("out/plan.json"))
    analysis = load_analysis(Path("out/analysis"))
    baseline = Path("out/baseline")
    model = load_network(baseline)
    model, reports = apply_(model, plan, analysis, **options, seed=section("seed"))
    inputs, _ = load_split(Path("out/data"), "calibration").batch(slice(0, chosen["examples"]))
    bounds = certify(
        load_network(baseline), model, inputs, list(reports), batch_size=chosen["batch_size"]
    )
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
    write_json(folder / "bounds.json", bounds.to_json())


if __name__ == "__main__":
    main(run)
