"""rank-select: candidates of the methods for every target, one choice each under the policy."""

from __future__ import annotations

from pathlib import Path

from pipeline.lowrank.analysis import load_analysis
from pipeline.lowrank.checkpoint import load_network
from pipeline.lowrank.methods import make_methods
from pipeline.lowrank.overrides import make_overrides, named_methods
from pipeline.lowrank.planning import make_plan, save_plan
from pipeline.lowrank.policies import make_policy
from pipeline.lowrank.target import dense_weight
from stages._io import main, section


def run() -> None:
    chosen = section("rank_select")
    policy, overrides = make_policy(chosen), make_overrides(chosen["overrides"])
    options = section("decompose")
    names = options.pop("methods")
    methods = make_methods([*names, *named_methods(overrides)], **options, seed=section("seed"))
    analysis = load_analysis(Path("out/analysis"))
    model = load_network(Path("out/baseline"))
    weights = {name: dense_weight(model.get_submodule(name)) for name in analysis.targets}
    plan = make_plan(analysis, weights, policy, names, methods, overrides)
    save_plan(Path("out/plan.json"), plan)


if __name__ == "__main__":
    main(run)
