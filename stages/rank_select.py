"""rank-select: candidates of the methods for every target, one choice each under the policy."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline.data.calibration import held_out_batches
from pipeline.data.files import load_task
from pipeline.lowrank.analysis.analysis import load_analysis
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.factorize.contest import hold_contest, hold_limit
from pipeline.lowrank.forms.files import load_network
from pipeline.lowrank.methods import make_methods
from pipeline.lowrank.planning.overrides import make_overrides, named_methods
from pipeline.lowrank.planning.plan import make_plan, save_plan
from pipeline.lowrank.planning.policies import make_policy
from pipeline.machine.threads import set_threads
from stages._io import main, section


def run() -> None:
    set_threads(section("fabric")["threads"])
    chosen, calibration, options = section("rank_select"), section("analyze"), section("decompose")
    options["seed"] = section("seed")
    overrides = make_overrides(chosen["overrides"])
    names = options.pop("methods")
    methods = make_methods([*names, *named_methods(overrides)], **options)
    analysis = load_analysis(Path("out/analysis"))
    model = load_network(Path("out/baseline"))
    weights = analysis.whitened(model)

    plan_of = partial(
        make_plan, analysis, weights, names=names, methods=methods, overrides=overrides
    )
    most, policy = chosen["contest_examples"], chosen["policy"]

    def divergence() -> Divergence:
        data, parts = Path("out/data"), (calibration["batch_size"], calibration["holdout"])
        held_out = held_out_batches(data, *parts, most=most)
        return Divergence(model, held_out, load_task(data))

    if most and policy == "budget":
        scales = [make_policy(chosen | {"error_scale": s}) for s in ("absolute", "relative")]
        plan = hold_contest(model, [plan_of(p) for p in scales], divergence(), options=options)
    elif most and policy == "loss":
        plan = hold_limit(
            model,
            lambda nats: plan_of(make_policy(chosen | {"nats": nats})),
            divergence(),
            nats=chosen["nats"],
            options=options,
        )
    else:
        plan = plan_of(make_policy(chosen))
    save_plan(Path("out/plan.json"), plan)


if __name__ == "__main__":
    main(run)
