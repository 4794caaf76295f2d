"""decompose: factors in, dense layers out; every layer and the network measured and certified."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import nn

from pipeline.data.calibration import all_calibration, held_out_batches, statistics_batches
from pipeline.data.files import load_facts, load_task
from pipeline.data.preprocessing import save_preprocessing
from pipeline.lowrank.analysis.files import load_analysis
from pipeline.lowrank.bounds import Bounds, certify
from pipeline.lowrank.bounds.options import CertifyOptions
from pipeline.lowrank.factorize.apply import apply_
from pipeline.lowrank.factorize.options import RefitOptions
from pipeline.lowrank.factorize.settling import settle
from pipeline.lowrank.forms.files import NETWORK, read_network, save
from pipeline.lowrank.planning.files import load_plan
from pipeline.lowrank.typed import save_record
from pipeline.machine.devices import FabricOptions, one_device
from pipeline.machine.executors import ExecutorOptions, executing
from pipeline.machine.number_formats import check_bfloat16
from pipeline.machine.scratch import scratch, scratch_for
from stages._io import main, section, section_options
from stages._network import load_network

DATA, BASELINE = Path("out/data"), Path("out/baseline")
ANALYSIS, PLAN = Path("out/analysis"), Path("out/plan.json")


def run() -> None:
    device = one_device(section_options("fabric", FabricOptions))
    check_bfloat16({"fabric": {"accelerator": device.type}, "refit": section("refit")})
    chosen = section_options("refit", RefitOptions)
    dense, size = load_network(BASELINE).to(device), chosen.batch_size
    plan, analysis = load_plan(PLAN), load_analysis(ANALYSIS, device)
    example = statistics_batches(DATA, 1, most=1)[0]
    changed = load_network(BASELINE).to(device)
    read = [Path("params.yaml"), BASELINE / NETWORK, ANALYSIS, PLAN]
    spill = scratch_for("factors", read) if device.type == "cpu" else None
    with executing(section_options("executor", ExecutorOptions), scratch("executor")) as executor:
        done = apply_(changed, plan, analysis, example=example, spill=spill, executor=executor)
    batches = statistics_batches(DATA, size, most=chosen.examples) if chosen.wanted else []
    held_out = held_out_batches(DATA, size, most=chosen.held_out) if chosen.wanted else []
    settled = settle(
        dense, done, analysis, batches, held_out, chosen,
        task=load_task(DATA), seed=section("seed"), folder=scratch("refine"),
    )  # fmt: skip
    bounds = _certify(dense, done.widened(settled.certified), list(settled.report.layers))
    folder = Path("out/compressed")
    save(settled.network, folder, read_network(BASELINE).builder)
    save_preprocessing(folder, load_facts(DATA).preprocessing)
    save_record(folder / "layers.json", settled.report)
    save_record(folder / "bounds.json", bounds)
    if spill is not None:
        shutil.rmtree(spill, ignore_errors=True)


def _certify(dense: nn.Module, model: nn.Module, names: list[str]) -> Bounds:
    options = section_options("certify", CertifyOptions)
    inputs, _ = all_calibration(DATA).batch(slice(0, options.examples))
    size, memory = options.batch_size, options.memory_gib
    return certify(dense, model, inputs, names, batch_size=size, memory_gib=memory)


if __name__ == "__main__":
    main(run)
