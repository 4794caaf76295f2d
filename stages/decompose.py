"""decompose: factors in, dense layers out; every layer and the network measured and certified."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from torch import nn

from pipeline.data.calibration import held_out_batches, statistics_batches
from pipeline.data.files import load_split, load_task
from pipeline.lowrank.analysis.analysis import load_analysis
from pipeline.lowrank.bounds import Bounds, certify
from pipeline.lowrank.factorize.apply import apply_
from pipeline.lowrank.factorize.refit import refit_if_closer
from pipeline.lowrank.forms.files import load_network, read_network, save_network
from pipeline.lowrank.planning.plan import load_plan
from pipeline.machine.number_formats import check_bfloat16
from pipeline.machine.threads import set_threads
from stages._io import main, section, write_json

DATA, BASELINE = Path("out/data"), Path("out/baseline")


def run() -> None:
    set_threads(section("fabric")["threads"])
    options, chosen = section("decompose") | {"seed": section("seed")}, section("refit")
    check_bfloat16({"refit": chosen})
    del options["methods"]  # the plan names the method of each layer
    plan, analysis = load_plan(Path("out/plan.json")), load_analysis(Path("out/analysis"))
    model, reports = apply_(load_network(BASELINE), plan, analysis, **options)
    dense, refit = load_network(BASELINE), None
    if chosen["share"] and reports:
        parts = (chosen["batch_size"], section("analyze")["holdout"])
        refit = refit_if_closer(
            dense,
            model,
            plan,
            analysis,
            statistics_batches(DATA, *parts, most=chosen["examples"]),
            held_out_batches(DATA, *parts, most=chosen["held_out"]),
            task=load_task(DATA),
            share=chosen["share"],
            bf16=chosen["bf16"],
            **options,
        )
        model, reports = refit.model, {**reports, **refit.reports}
    bounds = _certify(dense, model, list(reports))
    layers = {n: {"method": r.method, "ranks": list(r.ranks)} for n, r in reports.items()}
    folder = Path("out/compressed")
    save_network(folder, model, read_network(BASELINE).spec, layers)
    measured = {
        "layers": {name: asdict(report) for name, report in reports.items()},
        "network": asdict(plan.planned),
        "refit": refit and refit.to_json(),
    }
    write_json(folder / "layers.json", measured)
    write_json(folder / "bounds.json", bounds.to_json())


def _certify(dense: nn.Module, model: nn.Module, names: list[str]) -> Bounds:
    options = section("certify")
    inputs, _ = load_split(DATA, "calibration").batch(slice(0, options["examples"]))
    return certify(dense, model, inputs, names, batch_size=options["batch_size"])


if __name__ == "__main__":
    main(run)
