"""rank-select: candidates of the methods for every target, one choice each under the policy."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline.data.calibration import held_out_batches, statistics_batches
from pipeline.data.files import load_task
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.analysis.files import load_analysis
from pipeline.lowrank.factorize.deciding import plan_from, plan_in_file
from pipeline.lowrank.methods.options import MethodsOptions
from pipeline.lowrank.planning.files import save_plan
from pipeline.lowrank.planning.options import RankSelectOptions
from pipeline.lowrank.planning.overrides import make_overrides
from pipeline.machine.devices import FabricOptions, one_device
from stages._io import main, section, section_options
from stages._network import load_network

DATA = Path("out/data")


def run() -> None:
    device = one_device(section_options("fabric", FabricOptions))
    chosen = section_options("rank_select", RankSelectOptions)
    methods = section_options("methods", MethodsOptions)
    seed, most = section("seed"), chosen.contest_examples
    workload = chosen.to_workload()
    examples = workload.workload_examples
    analysis = load_analysis(Path("out/analysis"), device)
    model = load_network(Path("out/baseline")).to(device)

    def divergence() -> Divergence:
        held_out = held_out_batches(DATA, section("analyze")["batch_size"], most=most)
        return Divergence(model, held_out, load_task(DATA))

    if chosen.plan is not None:
        plan, told = plan_in_file(model, analysis, chosen.plan, chosen.sha256)
        print("\n".join(told) or "rank-select: the plan is as it was made")
    else:
        plan = plan_from(
            model,
            analysis,
            chosen.to_policy(),
            methods=methods.competing(seed),
            overrides=make_overrides(chosen.overrides, partial(methods.made, seed=seed)),
            divergence=divergence if most else None,
            workload=workload,
            batch=statistics_batches(DATA, examples, most=examples)[0],
            seed=seed,
            example=statistics_batches(DATA, 1, most=1)[0],
        )
    if plan.expected.latency is not None:
        print(f"rank-select: {plan.expected.latency}")
    save_plan(Path("out/plan.json"), plan)


if __name__ == "__main__":
    main(run)
