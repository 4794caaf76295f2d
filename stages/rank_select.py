"""rank-select: candidates of the methods for every target, one choice each under the policy."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline.data.calibration import held_out_batches
from pipeline.data.files import load_task
from pipeline.lowrank.analysis.analysis import load_analysis
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.factorize.deciding import plan_from, plan_in_file
from pipeline.lowrank.forms.files import load
from pipeline.lowrank.methods import make_method
from pipeline.lowrank.planning.files import save_plan
from pipeline.lowrank.planning.overrides import make_overrides
from pipeline.lowrank.planning.policies import make_policy
from pipeline.machine.threads import set_threads
from stages._io import main, section

DATA = Path("out/data")


def run() -> None:
    set_threads(section("fabric")["threads"])
    chosen, calibration, knobs = section("rank_select"), section("analyze"), section("methods")
    seed, most = section("seed"), chosen["contest_examples"]
    method_of = partial(make_method, options=knobs, seed=seed)
    analysis, model = load_analysis(Path("out/analysis")), load(Path("out/baseline"))

    def divergence() -> Divergence:
        held_out = held_out_batches(DATA, calibration["batch_size"], most=most)
        return Divergence(model, held_out, load_task(DATA))

    if chosen["policy"] == "file":
        plan, told = plan_in_file(model, analysis, Path(chosen["path"]), chosen["sha256"])
        print("\n".join(told) or "rank-select: the plan is as it was made")
    else:
        plan = plan_from(
            model,
            analysis,
            make_policy(chosen["policy"], chosen),
            methods=[method_of(name) for name in knobs["names"]],
            overrides=make_overrides(chosen["overrides"], method_of),
            divergence=divergence if most else None,
            seed=seed,
        )
    save_plan(Path("out/plan.json"), plan)


if __name__ == "__main__":
    main(run)
