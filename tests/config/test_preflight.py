"""What cannot be is told before any stage runs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.__main__ import main
from pipeline.config.compose import compose_params
from pipeline.config.preflight import check_budget, check_network, check_runnable
from pipeline.lowrank import Budget, plan
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import make_method
from pipeline.models.resnet import ResNet
from stages import configure
from tests.imports import ROOT

BUDGET = {"policy": "budget", "cost_unit": "params", "scope": "network"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.classes=0", r"model\.classes=0: choose a number of at least 1"),
        ("model.widths=[0]", r"widths=\[0\] and blocks"),
        ("model._target_=my_net.Nothing", r"cannot be imported"),
        ("+model.pools=3", r"unexpected keyword argument 'pools'"),
    ],
)
def test_a_network_that_cannot_be_is_told_in_one_line(override: str, message: str) -> None:
    with pytest.raises(LowRankError, match=message) as caught:
        check_network(compose_params(ROOT / "conf", [override]))
    assert "\n" not in str(caught.value)


def test_the_configuration_as_it_stands_passes() -> None:
    check_runnable(compose_params(ROOT / "conf"))


EARLY = [
    ("evaluate.export=[huggingface]", "huggingface is for models of transformers"),
    ("rank_select.budget=0.0005", "with one channel and rank 1 in every weight there are 42 of"),
    ("rank_select.budget=0.001 methods=svd", "cannot be met: with rank 1 in every weight there"),
    (
        "rank_select.budget=0.001 rank_select.cost_unit=bytes methods=svd",
        "5,604 of 277,064 bytes left",
    ),
    ("rank_select=fixed methods.names=[interpolative]", "says ranks, and interpolative has none"),
    ("rank_select=file rank_select.path=setup.json", "setup.json: format: Field required"),
    ("rank_select.overrides={nope*:{keep:dense}}", "overrides: the pattern 'nope*' matches no"),
    ("rank_select=fixed rank_select.ranks={nope*:3}", "ranks: the pattern 'nope*' matches no"),
    ("analyze.include=[nope*]", "the pattern 'nope*' matches no layer"),
    ("analyze.exclude=['*']", "the model has no layer to factorize"),
    ("fabric.accelerator=nope", "fabric: You selected an invalid accelerator name"),
    ("fabric.strategy=nope", "fabric: You selected an invalid strategy name"),
    ("fabric.strategy=fsdp", "baseline.source=train: not with fabric.strategy=fsdp"),
    ("executor=processes executor.address=x", "executor.engine=processes has none; leave it out"),
    ("executor=processes fabric=auto", "others compute on CPUs, and fabric.accelerator=auto"),
    ("fabric.precision=16-mixed", "fabric.precision=16-mixed: not on accelerator=cpu"),
    ("fabric.precision=nope", "fabric.precision=nope: unknown; choose one of 32-true"),
    ("fabric.threads=100000", "fabric.threads=100000: choose a number of at most 1024"),
    ("data.held_out=0.999", "nothing is left for the statistics"),
    ("objectives=[nope]", "objectives: nope is unknown"),
    ("track.tracking_uri=nope://there", "MLflow has no store of this kind"),
    ("seed=-5", "seed=-5: choose a number of at least 0"),
    ("model.pool=0", "model.pool=0: choose a number of at least 1"),
]


@pytest.mark.parametrize(("overrides", "message"), EARLY)
def test_what_cannot_run_is_told_before_anything_does(
    overrides: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the command itself, whose job has no workspace yet."""
    (tmp_path / "setup.json").write_text('{"a": 1}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pipeline", *shlex.split(overrides), "hydra.run.dir=run"])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == 1 and message in told.err
    assert told.err.startswith("error: ") and told.err.count("\n") == 1
    assert told.out == ""
    assert not {"dvc.yaml", "params.yaml", "out", ".dvc"} & {p.name for p in tmp_path.rglob("*")}


def test_the_stage_that_begins_the_chain_writes_nothing_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    file = Path("conf/rank_select/_base.yaml")
    file.write_text(re.sub(r"^budget: \S+", "budget: 0.0001", file.read_text(), flags=re.MULTILINE))
    with pytest.raises(LowRankError, match=r"a budget of 0\.0001 of the params cannot be met"):
        configure.run()
    assert not Path("params.yaml").exists()


def test_a_whole_model_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    own = ["model=custom", "model._target_=torch.nn.Linear", "+model.in_features=2"]
    weights = f"baseline.weights={tmp_path / 'whole.pt'}"
    params = compose_params(
        ROOT / "conf", [*own, "baseline=checkpoint", "data.normalise=none", weights]
    )
    with pytest.raises(LowRankError, match=r"not a state dict that loads with weights_only"):
        check_network(params)


@pytest.mark.parametrize("method", ["pivoted_tucker2", "svd", "cp"])
def test_no_plan_is_below_the_least_that_is_told(method: str) -> None:
    """What the check refuses no method could have kept."""
    torch.manual_seed(0)
    net = ResNet(widths=(8, 12), blocks=(1, 1), hidden=16).eval()
    with pytest.raises(LowRankError, match=r"choose at least (0\.\d+)") as caught:
        check_budget(net, BUDGET | {"budget": 0.0001})
    least = float(str(caught.value).rpartition(" ")[2])
    check_budget(net, BUDGET | {"budget": least})
    with pytest.raises(LowRankError, match="cannot be met"):
        plan(
            net,
            Budget(params=least - 0.01),
            example=torch.zeros(1, 1, 8, 8),
            metric="weight",
            methods=[make_method(method, {})],
        )


def test_no_narrower_network_is_below_the_least_that_is_told() -> None:
    net = nn.Linear(100, 100)
    check_budget(net, BUDGET | {"budget": 0.0003}, ["interpolative"])
    with pytest.raises(LowRankError, match="with one channel and rank 1 in every weight there are"):
        check_budget(net, BUDGET | {"budget": 0.0001}, ["interpolative"])
    # Experts of one channel each and rank 1 would have 2 · (64 + 1) numbers, fewer than 1024.
    experts = nn.ParameterList([torch.zeros(2, 64, 1024)])
    check_budget(experts, BUDGET | {"budget": 200 / 2**17}, ["interpolative", "svd"])


def test_other_units_are_left_to_the_policy() -> None:
    net = nn.Linear(100, 100)
    for changed in ({"policy": "energy"}, {"cost_unit": "macs"}, {"scope": "targets"}):
        check_budget(net, BUDGET | {"budget": 0.0001} | changed)
