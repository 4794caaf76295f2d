"""The configuration: every option composes, and bad input gets one readable error."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml

from pipeline.config.compose import SECTIONS, check_overrides, compose_params, write_params
from pipeline.config.groups import group_names, group_options
from pipeline.config.pins import pin, require_pins
from pipeline.config.renamed import RENAMED, renamed
from pipeline.data.options import DataOptions
from pipeline.data.sources import SOURCES
from pipeline.lowrank import METHODS, Interpolative
from pipeline.lowrank.adapters.attach import AdapterOptions
from pipeline.lowrank.analysis.metrics import METRICS
from pipeline.lowrank.analysis.options import AnalysisOptions
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.planning.policies import POLICIES
from pipeline.machine.checksums import content_sha256, file_sha256
from pipeline.training.augmentation import AUGMENTATIONS
from pipeline.training.options import BaselineOptions, FineTuneOptions
from tests.imports import ROOT

CONF = ROOT / "conf"
GROUPS = group_names(CONF)
OPTIONS = [(group, option.name) for group in GROUPS for option in group_options(CONF, group)]
# What the user must give to options that have no default.
OWN_TEXT = ["data=text", "data.path=my.txt", "model=huggingface", "model.name=my_model"]
REQUIRED = {
    "tensors": ["data.path=my.npz"],
    "file": ["rank_select.path=plan.json"],
    "custom": ["model._target_=torch.nn.Linear"],
    "checkpoint": ["baseline.weights=w.safetensors", "data.normalise=none"],
    "pretrained": ["data.normalise=none"],
    "image_folder": ["data.path=my_images"],
    "table": ["data.path=my.csv"],
    "dataset": ["data.dataset._target_=my_data.Mine"],
    "hub": ["data.path=datasets:mine"],
    "huggingface": OWN_TEXT,
    "text": OWN_TEXT,
    "causal_lm": OWN_TEXT,
    "sequence_classification": OWN_TEXT,
    "masked_lm": OWN_TEXT,
    "seq2seq": OWN_TEXT,
    "token_classification": OWN_TEXT,
    "encoder": OWN_TEXT,
}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_is_valid(group: str, option: str) -> None:
    required = [line for line in REQUIRED.get(option, []) if not line.startswith(f"{group}=")]
    params = compose_params(CONF, [f"{group}={option}", *required])
    assert tuple(params) == SECTIONS
    text = (CONF / group / f"{option}.yaml").read_text()
    assert text.startswith("# python -m pipeline"), "opens with the command that uses it"


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_composes_and_is_valid(path: Path) -> None:
    own = chain(*(REQUIRED[key] for key in ("tensors", "custom", "checkpoint")))
    required = list(own) if path.stem == "checkpoint" else []
    params = compose_params(CONF, [f"experiment={path.stem}", *required])
    assert params != compose_params(CONF)
    assert f"# python -m pipeline experiment={path.stem}" in path.read_text()


@pytest.mark.parametrize("group", [g for g in GROUPS if g != "model"])
def test_all_options_of_a_group_have_the_same_keys(group: str) -> None:
    keys = [option_keys(CONF / group / f"{option}.yaml") for g, option in OPTIONS if g == group]
    assert keys
    assert all(k == keys[0] for k in keys)


def option_keys(path: Path) -> set[str]:
    """The keys of an option file and of the files that it shares."""
    own = yaml.safe_load(path.read_text())
    shared = own.pop("defaults", [])
    shared = [name for name in shared if "@" not in name]  # of a key inside
    return set(own).union(*(option_keys(path.with_stem(name)) for name in shared))


def choices(cls: Any, key: str) -> set[str]:
    """The names that an option may have."""
    annotation = cls.__pydantic_fields__[key].annotation
    found = get_args(annotation)
    return set(get_args(found[0]) or found)


def test_the_known_names_are_those_of_the_code() -> None:
    assert choices(DataOptions, "name") == {*SOURCES, "text"}
    assert choices(AnalysisOptions, "metric") == set(METRICS)
    assert choices(FineTuneOptions, "augment") == set(AUGMENTATIONS)
    assert choices(BaselineOptions, "augment") == set(AUGMENTATIONS)
    for name in ("init", "others"):
        assert choices(FineTuneOptions, f"adapter_{name}") == choices(AdapterOptions, name)
    assert {option for group, option in OPTIONS if group == "rank_select"} == {*POLICIES, "file"}
    methods = {*METHODS, Interpolative.name, "narrower", "widths_and_ranks", "auto"}
    assert {option for group, option in OPTIONS if group == "methods"} == methods
    auto = yaml.safe_load((CONF / "methods/auto.yaml").read_text())
    assert set(auto["names"]) == {*METHODS, Interpolative.name}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rank_select.enrgy=0.5", r"rank_select\.enrgy: unknown key; did you mean 'rank_select"),
        ("+rank_select.enrgy=0.5", r"rank_select\.enrgy: unknown key; did you mean"),
        ("rank_selct=energy", r"rank_selct: unknown key; did you mean 'rank_select'"),
        ("rank_select=enrgy", r"rank_select=enrgy: unknown option; did you mean 'energy'\?"),
        ("rank_select.energy=high", r"rank_select\.energy=high: choose a number"),
        ("rank_select.energy=0", r"rank_select\.energy=0: choose a number above 0"),
        ("rank_select.energy=1.2", r"rank_select\.energy=1\.2: choose a number of at most 1"),
        ("rank_select.relative_error=-1", r"rank_select\.relative_error=-1: choose a number of at"),
        ("rank_select.compression_ratio=0.5", r"compression_ratio=0\.5: choose a number above 1"),
        ("rank_select.budget=0", r"rank_select\.budget=0: choose a number above 0"),
        ("rank_select.budget=1.5", r"rank_select\.budget=1\.5: choose a number of at most 1"),
        ("rank_select.policy=enrgy", r"unknown policy 'enrgy': did you mean 'energy'\?"),
        ("rank_select.cost_unit=flops", r"cost_unit=flops: unknown; choose one of params, macs"),
        ("rank_select.allocation=exakt", r"allocation=exakt: unknown; did you mean 'exact'\?"),
        (
            "rank_select.max_relative_error=-1",
            r"max_relative_error=-1: choose a number of",
        ),
        ("rank_select.ranks=1.5", r"ranks is 1\.5: choose a whole number ≥ 1, a fraction"),
        ("rank_select.overrides={stem: dense}", r"overrides\.stem=dense: give \{name: value"),
        (
            "rank_select.overrides={stem: {keap: dense}}",
            r"rank_select: overrides, 'stem': Override has no option 'keap': did you mean 'keep'",
        ),
        ("rank_select.overrides={stem: {ranks: 0}}", r"overrides, 'stem': ranks is 0: choose"),
        ("rank_select=file", r"rank_select: path is not set: give the plan\.json"),
        ("methods.names=[svdd]", r"methods: unknown method 'svdd': did you mean 'svd'\?"),
        ("methods.names=[]", r"methods: no method chosen"),
        ("methods.hooi_iterations=-1", r"methods\.hooi_iterations=-1: choose"),
        ("fine_tune.epochs=0", r"fine_tune\.epochs=0: choose a number of at least 1"),
        ("fine_tune.epochs=1.5", r"fine_tune\.epochs=1\.5: choose a whole number"),
        ("fine_tune.learning_rate=0", r"fine_tune\.learning_rate=0: choose a number above 0"),
        ("fine_tune.objective=distil", r"fine_tune\.objective=distil: .*did you mean 'distill'\?"),
        ("fine_tune.parameters=adapter", r"fine_tune\.parameters=adapter: .*mean 'adapters'\?"),
        ("fine_tune.temperature=0", r"fine_tune\.temperature=0: choose a number above 0"),
        (
            "fine_tune.distill_weight=2",
            r"fine_tune\.distill_weight=2: choose a number",
        ),
        ("fine_tune.adapter_rank=0", r"fine_tune\.adapter_rank=0: choose a number of at least 1"),
        (
            "fine_tune.adapter_others=[norms]",
            r"adapter_others\.0=norms: unknown; choose one of",
        ),
        ("fine_tune.descent_points=1", r"fine_tune: descent_points=1: choose 0 \(off\) or at"),
        ("data.name=digit", r"data\.name=digit: unknown; did you mean 'digits'\?"),
        ("baseline.snapshots=-1", r"baseline\.snapshots=-1: choose a number of at least 0"),
        ("data.calibration=0", r"data\.calibration=0: choose a number of at least 1"),
        ("analyze.metric=fischer", r"analyze\.metric=fischer: unknown; did you mean 'fisher'\?"),
        ("analyze.damping=0", r"analyze\.damping=0: choose a number above 0"),
        ("data.held_out=1", r"data\.held_out=1: choose a number below 1"),
        ("analyze.include=[]", r"analyze\.include=\[\]: give at least 1"),
        ("data=tensors", r"data\.path is not set: give it on the command line"),
        (
            "task=encoder",
            r"task=encoder: it reads tokens, and data=digits gives values; choose other data, or "
            r"a task of classification",
        ),
        ("data.held_out=0.999", r"held_out=0\.999 of data\.calibration=180: nothing is left for"),
        ("data.held_out=0", r"data\.held_out=0 of .*: no example is left to compare networks on"),
        ("data=text", r"data\.text\.tokenizer: is taken from a key that is not there .*; set it"),
        ("baseline=checkpoint", r"baseline\.weights is not set: give it on the command line"),
        ("seed=x", r"seed=x: choose a whole number"),
        ("seed=-5", r"seed=-5: choose a number of at least 0"),
        ("fabric.precision=nope", r"fabric\.precision=nope: unknown; choose one of 32-true"),
        ("fabric.threads=100000", r"fabric\.threads=100000: choose a number of at most 1024"),
        ("objectives=[nope]", r"objectives: nope is unknown; choose one of accuracy"),
        ("model.widht=3", r"model\.widht: unknown key; did you mean 'model\.widths'\?"),
        ("rank_select=_base", r"rank_select=_base: unknown option; choose one of budget"),
        ("a b==", r"a b=="),
    ],
)
def test_bad_configuration_gets_one_readable_error(override: str, message: str) -> None:
    with pytest.raises(LowRankError, match=message) as info:
        compose_params(CONF, [override])
    assert len(str(info.value).splitlines()) <= 2


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_is_known_with_the_new_one(old: str, new: str) -> None:
    assert renamed(old) == new and renamed(f"{old}.inner") == f"{new}.inner"
    assert renamed(new) is None and renamed("seed") is None
    told = (ROOT / "CHANGELOG.md").read_text().partition("### Renamed")[2].partition("###")[0]
    assert f"`{old}`" in told and f"`{new}`" in told


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("decompose=svd", r"decompose: renamed; it is methods now"),
        ("decompose.methods=[svd]", r"decompose\.methods: renamed; it is methods\.names now"),
        ("analyze.holdout=0.1", r"analyze\.holdout: renamed; it is data\.held_out now"),
        ("+data.text={task: encoder}", r"data\.text\.task: renamed; it is task\.name now"),
        ("model.task=encoder", r"model\.task.*: renamed; it is task\.name now"),
        ("+decompose.cp_slack=0", r"decompose\.cp_slack: renamed; it is methods\.cp_slack now"),
    ],
)
def test_overrides_with_old_names_say_the_new_one(override: str, message: str) -> None:
    with pytest.raises(LowRankError, match=message):
        compose_params(CONF, [override])


def test_the_task_of_a_transformer_is_one_choice_for_data_and_model() -> None:
    for task in ("causal_lm", "encoder"):
        params = compose_params(CONF, [*OWN_TEXT, f"task={task}"])
        assert params["task"]["name"] == params["model"]["task"] == task
    assert compose_params(CONF, OWN_TEXT)["task"]["name"] == "causal_lm"
    with pytest.raises(LowRankError, match=r"model\.task=encoder: renamed; it is task\.name now"):
        compose_params(CONF, [*OWN_TEXT, "model.task=encoder"])


def test_a_sweep_is_checked_value_by_value_before_it_starts() -> None:
    check_overrides(CONF, ["rank_select=energy,error", "fine_tune.epochs=range(1,3)", "seed=1"])
    check_overrides(CONF, ["hydra/launcher=joblib", "rank_select.budget=interval(0.2,0.5)"])
    with pytest.raises(LowRankError, match="rank_select=eror: unknown option"):
        check_overrides(CONF, ["fine_tune=full,none", "rank_select=energy,eror"])
    with pytest.raises(LowRankError, match=r"rank_select\.budget=2\.0: choose"):
        check_overrides(CONF, ["rank_select.budget=0.5,2.0"])


def test_params_are_plain_and_come_back(tmp_path: Path) -> None:
    params = compose_params(CONF, ["rank_select=error", "model.widths=[8,16]"])
    write_params(tmp_path / "params.yaml", params)
    read = yaml.safe_load((tmp_path / "params.yaml").read_text())
    assert json.loads(json.dumps(read)) == params
    assert read["model"]["widths"] == [8, 16]
    assert read["rank_select"]["policy"] == "error"


def test_overrides_and_ranks_by_pattern_come_from_the_command_line() -> None:
    rank_select = compose_params(
        CONF,
        [
            "rank_select=fixed",
            "rank_select.ranks={*.conv1: [8, 12], *: 0.3}",
            "rank_select.overrides={stem: {keep: dense}, *.conv2: {method: svd}}",
        ],
    )["rank_select"]
    assert list(rank_select["ranks"].items()) == [("*.conv1", [8, 12]), ("*", 0.3)]
    assert list(rank_select["overrides"]) == ["stem", "*.conv2"]
    assert rank_select["overrides"]["stem"] == {"keep": "dense"}


def own_inputs(folder: Path) -> dict[str, Any]:
    np.savez(folder / "data.npz", inputs=np.zeros((4, 3), np.float32), labels=np.arange(4))
    (folder / "w.safetensors").write_bytes(b"weights")
    (folder / "my_net.py").write_text("class Net: ...\n")
    return compose_params(
        CONF,
        [
            "experiment=checkpoint",
            "data.path=data.npz",
            "data.normalise=none",
            "baseline.weights=w.safetensors",
            "model._target_=my_net.Net",
        ],
    )


def test_external_inputs_are_pinned_by_content(tmp_path: Path) -> None:
    params = own_inputs(tmp_path)
    pinned = pin(params, tmp_path)
    assert pinned["data"]["path"] == str(tmp_path / "data.npz")
    assert pinned["data"]["sha256"] == file_sha256(tmp_path / "data.npz")
    assert pinned["baseline"]["sha256"] == file_sha256(tmp_path / "w.safetensors")
    assert pinned["baseline"]["model_sha256"] == file_sha256(tmp_path / "my_net.py")
    assert params["data"]["path"] == "data.npz", "the given configuration is left alone"
    (tmp_path / "my_net.py").write_text("class Net: changed = True\n")
    changed = pin(params, tmp_path)["baseline"]
    assert changed != pinned["baseline"]
    told = rf"model_sha256={pinned['baseline']['model_sha256']}: .*{changed['model_sha256']} now"
    with pytest.raises(LowRankError, match=told):
        pin(pinned, tmp_path)
    pinned["model"]["_target_"] = "torch.nn.Flatten"
    with pytest.raises(LowRankError, match=r"torch\.nn\.Flatten is no code of your own; set it"):
        pin(pinned, tmp_path)


def test_an_edited_plan_is_pinned_by_content(tmp_path: Path) -> None:
    (tmp_path / "my_plan.json").write_text("{}")
    overrides = ["rank_select=file", "rank_select.path=my_plan.json"]
    pinned = pin(compose_params(CONF, overrides), tmp_path)["rank_select"]
    assert pinned["path"] == str(tmp_path / "my_plan.json")
    assert pinned["sha256"] == file_sha256(tmp_path / "my_plan.json")
    (tmp_path / "my_plan.json").write_text('{"edited": true}')
    assert pin(compose_params(CONF, overrides), tmp_path)["rank_select"] != pinned


def test_text_and_transformers_are_pinned_where_they_are_paths(tmp_path: Path) -> None:
    for name, content in (("net/config.json", "{}"), ("net/w.bin", "w"), ("in.txt", "a")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    ood = "data.text.ood_path=debian:book/usr/share/book"
    overrides = ["data=text", "data.path=*.txt", ood, "model=huggingface", "model.name=net"]
    pinned = pin(compose_params(CONF, overrides), tmp_path)
    text, net = pinned["data"]["text"], str(tmp_path / "net")
    assert (pinned["model"]["name"], text["tokenizer"]) == (net, net)
    assert pinned["model"]["sha256"] == text["tokenizer_sha256"] == content_sha256(tmp_path / "net")
    assert pinned["data"]["sha256"] == content_sha256(tmp_path / "*.txt")
    assert (text["ood_path"], text["ood_sha256"]) == ("debian:book/usr/share/book", None)
    (tmp_path / "net/w.bin").write_text("other")
    assert pin(compose_params(CONF, overrides), tmp_path)["model"] != pinned["model"]
    # On a hub, perhaps: nothing to pin. But a text must be there.
    elsewhere = pin(compose_params(CONF, [*overrides, "model.name=org/net"]), tmp_path)
    assert (elsewhere["model"]["name"], elsewhere["model"]["sha256"]) == ("org/net", None)
    with pytest.raises(LowRankError, match=r"data\.path=.*none\.txt: no such file"):
        pin(compose_params(CONF, [*overrides, "data.path=none.txt"]), tmp_path)


def test_plain_dvc_repro_demands_the_pins_and_prints_them(tmp_path: Path) -> None:
    params = own_inputs(tmp_path)
    with pytest.raises(LowRankError, match="pinned by content") as info:
        require_pins(params, tmp_path)
    pinned = pin(params, tmp_path)
    for section, key in [("data", "sha256"), ("baseline", "sha256"), ("baseline", "model_sha256")]:
        assert f"{section}.{key}: {pinned[section][key]}" in str(info.value)
    require_pins(pinned, tmp_path)
    require_pins(compose_params(CONF), tmp_path)


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    params = own_inputs(tmp_path)
    (tmp_path / "w.safetensors").unlink()
    with pytest.raises(LowRankError, match=r"baseline\.weights=.*w\.safetensors: no such file"):
        pin(params, tmp_path)
