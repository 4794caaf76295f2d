"""analyze: spectra of the trained network, before any method, policy or budget is chosen."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.data.calibration import statistics_batches
from pipeline.data.files import DATA_JSON, TASK_JSON, load_task
from pipeline.lowrank.analysis.analysis import analyze
from pipeline.lowrank.analysis.files import save_analysis
from pipeline.lowrank.analysis.options import AnalysisOptions
from pipeline.lowrank.forms.files import NETWORK
from pipeline.machine.devices import FabricOptions, one_device
from pipeline.machine.executors import ExecutorOptions, executing
from pipeline.machine.memory import peak_memory_gib
from pipeline.machine.number_formats import check_bfloat16
from pipeline.machine.scratch import scratch, scratch_for
from pipeline.training.weight_history import weights_in_training
from stages._io import main, section, section_options
from stages._network import load_network

DATA, BASELINE = Path("out/data"), Path("out/baseline")


def run() -> None:
    device = one_device(section_options("fabric", FabricOptions))
    check_bfloat16({"fabric": {"accelerator": device.type}, "analyze": section("analyze")})
    chosen = section_options("analyze", AnalysisOptions)
    model = load_network(BASELINE).to(device)
    read = [Path("params.yaml"), BASELINE / NETWORK, DATA / DATA_JSON, DATA / TASK_JSON]
    spill = scratch_for("spectra", read)
    others = section_options("executor", ExecutorOptions)
    with executing(others, scratch("executor")) as executor:
        analysis = analyze(
            model,
            calibration=statistics_batches(DATA, chosen.batch_size),
            chosen=chosen,
            task=load_task(DATA),
            seed=section("seed"),
            spill=spill,
            executor=executor,
        )
    targets = analysis.targets
    # In the metric weight, values that stand alone are those of the weight, if it is one matrix.
    known = {
        name: one.views["mode0"].singular_values
        for name, one in analysis.spectra.items()
        if chosen.metric == "weight" and one.values_alone and one.groups == 1
    }
    weights = weights_in_training(BASELINE, model, list(targets), targets, known)
    save_analysis(Path("out/analysis"), analysis, weights)
    shutil.rmtree(spill, ignore_errors=True)
    print(f"analyze: {len(analysis.targets)} layers, peak memory {peak_memory_gib():.2f} GiB")


if __name__ == "__main__":
    main(run)
