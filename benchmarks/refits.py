"""What follows a factorization, step by step on one network: nothing, BatchNorm statistics
estimated again, layers refit in closed form, blocks trained, and all of it; nothing fine-tuned.

    python -m pipeline experiment=fashion_mnist
    python -m benchmarks.refits WORKSPACE --cost-unit macs --budgets 0.5 0.35 0.25
    python -m pipeline experiment=smollm2
    python -m benchmarks.refits WORKSPACE --scope targets --budgets 0.6 --batch 4 --examples 48 …

WORKSPACE is the folder that the run prints. Each row has the quality on the test split, the
divergence from the dense network there and on held-out data, and the seconds of processor time.
"""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import torch
from torch import nn

from benchmarks.arguments import parser_of_plans
from benchmarks.metrics import cut, read
from pipeline.data.calibration import held_out_batches, statistics_batches
from pipeline.data.files import load_split, load_task
from pipeline.evaluation.networks import compare_networks
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.analysis.files import load_analysis
from pipeline.lowrank.factorize.apply import apply_
from pipeline.lowrank.factorize.deciding import plan_from
from pipeline.lowrank.factorize.options import RefitOptions
from pipeline.lowrank.factorize.settling import settle
from pipeline.lowrank.forms.files import load
from pipeline.lowrank.methods import Interpolative, PivotedTucker2
from pipeline.lowrank.planning.policies import Budget


def rows(options: RefitOptions, steps: int) -> dict[str, RefitOptions]:
    trained = replace(options, steps=steps)
    return {
        "nothing": options,
        "batchnorm": replace(options, batchnorm=True),
        "blocks": replace(options, share=0.5),
        "train, relative": trained,
        "train, plain": replace(trained, error="plain"),
        "train, fisher": replace(trained, error="fisher"),
        "all, relative": replace(trained, share=0.5, batchnorm=True),
        "all, fisher": replace(trained, share=0.5, batchnorm=True, error="fisher"),
    }


def main() -> None:
    parser = parser_of_plans(__doc__)
    parser.add_argument("--narrower", action="store_true", help="narrower dimensions take part")
    parser.add_argument("--steps", type=int, default=100, help="of each block")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--examples", type=int, default=10**6, help="to learn from; all")
    parser.add_argument("--held-out", type=int, default=512, help="examples to compare on")
    parser.add_argument("--test", type=int, default=None, help="examples of the test split; all")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--only", nargs="+", default=[], help="rows; all")
    given = parser.parse_args()
    torch.manual_seed(0)
    out, data = given.workspace / "out", given.workspace / "out/data"
    dense, task, analysis = load(out / "baseline"), load_task(data), load_analysis(out / "analysis")
    batches = statistics_batches(data, given.batch, most=given.examples)
    held_out = held_out_batches(data, given.batch, most=given.held_out)
    example, test = (
        statistics_batches(data, 1, most=1)[0],
        cut(load_split(data, "test"), given.test),
    )
    inputs = [test.batch(slice(i, i + given.batch))[0] for i in range(0, len(test), given.batch)]
    apart, near = Divergence(dense, inputs, task), Divergence(dense, held_out, task)
    methods = [PivotedTucker2(), *([Interpolative()] if given.narrower else [])]
    options = RefitOptions(learning_rate=given.rate, bf16=given.bf16)

    def show(label: str, model: nn.Module, seconds: float) -> None:
        scores = compare_networks({"dense": dense, label: model}, {"test": test}, task, given.batch)
        far, close = apart.of(model), near.of(model)
        print(f"{label:16s} {read(scores)}  {far:.5f} {close:.5f}  {seconds:.0f} s", flush=True)

    for kept in given.budgets:
        budget = Budget(**{given.cost_unit: kept}, scope=given.scope)
        plan = plan_from(
            dense, analysis, budget, methods=methods, example=example, divergence=lambda: near
        )
        done = apply_(copy.deepcopy(dense), plan, analysis, example=example, certified=True)
        print(f"{kept} {plan!r}", flush=True)
        for label, chosen in rows(options, given.steps).items():
            if given.only and label not in given.only:
                continue
            start = time.process_time()
            copied = replace(done, network=copy.deepcopy(done.network))
            settled = settle(dense, copied, analysis, batches, held_out, chosen, task=task)
            show(label, settled.network, time.process_time() - start)


if __name__ == "__main__":
    main()
