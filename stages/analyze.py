"""analyze: spectra of the trained network, before any method, policy or budget is chosen."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.data.calibration import evenly, statistics_batches
from pipeline.data.files import load_task
from pipeline.lowrank.analysis.analysis import analyze, reached_targets, save_analysis
from pipeline.lowrank.analysis.moments import collect_moments
from pipeline.lowrank.forms.files import load_network
from pipeline.machine.memory import peak_memory_gib
from pipeline.machine.number_formats import check_bfloat16
from pipeline.machine.threads import set_threads
from pipeline.training.weight_history import weights_in_training
from stages._io import main, section


def run() -> None:
    set_threads(section("fabric")["threads"])
    options = section("analyze")
    check_bfloat16({"analyze": options})
    metric, damping = options["metric"], options["damping"]
    patterns = {key: options[key] for key in ("include", "exclude")}
    model = load_network(Path("out/baseline"))
    batches = statistics_batches(Path("out/data"), options["batch_size"], options["holdout"])
    example = batches[0][:1]
    moments = None
    if metric != "weight":
        targets, _, _ = reached_targets(model, example, **patterns)
        batches, further = evenly(batches, options["gradient_share"])
        with torch.autocast("cpu", torch.bfloat16, enabled=options["bf16"]):
            moments = collect_moments(
                model,
                batches,
                targets,
                gradients=metric == "fisher",
                task=load_task(Path("out/data")),
                seed=section("seed"),
                memory_limit=round(options["memory_gib"] * 2**30),
                further=further,
            )
    analysis = analyze(model, example, metric=metric, moments=moments, damping=damping, **patterns)
    weights = weights_in_training(Path("out/baseline"), model, list(analysis.targets))
    save_analysis(Path("out/analysis"), analysis, weights)
    print(f"analyze: {len(analysis.targets)} layers, peak memory {peak_memory_gib():.2f} GiB")


if __name__ == "__main__":
    main(run)
