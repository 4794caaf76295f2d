"""decompose: factors in, dense layers out; every layer and the network measured and certified."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import nn

from pipeline.data.calibration import all_calibration, held_out_batches, statistics_batches
from pipeline.data.files import load_facts, load_task
from pipeline.data.preprocessing import save_preprocessing
from pipeline.lowrank.analysis.analysis import load_analysis
from pipeline.lowrank.bounds import Bounds, certify
from pipeline.lowrank.bounds.options import CertifyOptions
from pipeline.lowrank.factorize.apply import apply_
from pipeline.lowrank.factorize.options import RefitOptions
from pipeline.lowrank.factorize.refit import refit_if_closer
from pipeline.lowrank.factorize.report import CompressionReport
from pipeline.lowrank.forms.files import read_network, save
from pipeline.lowrank.planning.files import load_plan
from pipeline.lowrank.typed import save_record
from pipeline.machine.devices import FabricOptions, one_device
from pipeline.machine.number_formats import check_bfloat16
from stages._io import main, section, section_options
from stages._network import load_network

DATA, BASELINE = Path("out/data"), Path("out/baseline")


def run() -> None:
    device = one_device(section_options("fabric", FabricOptions))
    check_bfloat16({"fabric": {"accelerator": device.type}, "refit": section("refit")})
    chosen = section_options("refit", RefitOptions)
    dense, refit = load_network(BASELINE).to(device), None
    plan, analysis = load_plan(Path("out/plan.json")), load_analysis(Path("out/analysis"), device)
    example = statistics_batches(DATA, 1, most=1)[0]
    done = apply_(copy.deepcopy(dense), plan, analysis, example=example)
    model, reports, plan = done.network, dict(done.layers), done.plan
    if chosen.share and reports:
        refit = refit_if_closer(
            dense,
            model,
            plan,
            analysis,
            statistics_batches(DATA, chosen.batch_size, most=chosen.examples),
            held_out_batches(DATA, chosen.batch_size, most=chosen.held_out),
            task=load_task(DATA),
            share=chosen.share,
            bf16=chosen.bf16,
        )
        model, reports = refit.model, {**reports, **refit.reports}
    bounds = _certify(dense, done.widened(model), list(reports))
    folder = Path("out/compressed")
    save(model, folder, read_network(BASELINE).builder)
    save_preprocessing(folder, load_facts(DATA).preprocessing)
    report = CompressionReport(reports, done.totals, refit.report() if refit else None)
    save_record(folder / "layers.json", report)
    save_record(folder / "bounds.json", bounds)


def _certify(dense: nn.Module, model: nn.Module, names: list[str]) -> Bounds:
    options = section_options("certify", CertifyOptions)
    inputs, _ = all_calibration(DATA).batch(slice(0, options.examples))
    return certify(dense, model, inputs, names, batch_size=options.batch_size)


if __name__ == "__main__":
    main(run)
