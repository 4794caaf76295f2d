"""The configuration: every option composes, and bad input gets one readable error."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.config.compose import SECTIONS, check_overrides, compose_params, write_params
from pipeline.config.pins import pin, require_pins
from pipeline.config.validate import CHOICES, RANGES
from pipeline.data.preparation import TEXT
from pipeline.data.sources import SOURCES
from pipeline.lowrank import METHODS
from pipeline.lowrank.adapters.attach import INITS, OTHERS
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.planning.policies import POLICIES
from pipeline.machine.checksums import content_sha256, file_sha256
from pipeline.training.augmentation import AUGMENTATIONS
from pipeline.training.baseline import SOURCES as BASELINE_SOURCES
from pipeline.training.fine_tune import OBJECTIVES, PARAMETERS
from tests.imports import ROOT

CONF = ROOT / "conf"
NO_SECTIONS = ("experiment", "hydra")
GROUPS = sorted(p.name for p in CONF.iterdir() if p.is_dir() and p.name not in NO_SECTIONS)
# A file whose name begins with "_" holds what the options of its group share.
OPTIONS = [(group, p.stem) for group in GROUPS for p in sorted((CONF / group).glob("[!_]*.yaml"))]
# What the user must give to options that have no default.
REQUIRED = {
    "tensors": ["data.path=my.npz"],
    "custom": ["model._target_=torch.nn.Linear"],
    "checkpoint": ["baseline.weights=w.safetensors"],
    "huggingface": ["model.name=my_model"],
    "text": ["data.path=my.txt", "model=huggingface", "model.name=my_model"],
}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_is_valid(group: str, option: str) -> None:
    params = compose_params(CONF, [f"{group}={option}", *REQUIRED.get(option, [])])
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
    return set(own).union(*(option_keys(path.with_stem(name)) for name in shared))


def test_the_known_names_are_those_of_the_code() -> None:
    assert set(CHOICES["data.name"]) == {*SOURCES, TEXT}
    assert set(CHOICES["baseline.source"]) == set(BASELINE_SOURCES)
    assert set(CHOICES["fine_tune.augment"]) == set(AUGMENTATIONS)
    assert set(CHOICES["baseline.augment"]) == set(AUGMENTATIONS)
    assert set(CHOICES["fine_tune.parameters"]) == set(PARAMETERS)
    assert set(CHOICES["fine_tune.objective"]) == set(OBJECTIVES)
    assert set(CHOICES["fine_tune.adapter_init"]) == set(INITS)
    holds, _ = RANGES["fine_tune.adapter_others"]
    assert holds(OTHERS)
    assert {option for group, option in OPTIONS if group == "rank_select"} == set(POLICIES)
    assert {option for group, option in OPTIONS if group == "decompose"} == {*METHODS, "auto"}
    auto = yaml.safe_load((CONF / "decompose/auto.yaml").read_text())
    assert set(auto["methods"]) == set(METHODS)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rank_select.enrgy=0.5", r"rank_select\.enrgy: unknown key; did you mean 'rank_select"),
        ("+rank_select.enrgy=0.5", r"rank_select\.enrgy: unknown key; did you mean"),
        ("rank_selct=energy", r"rank_selct.*did you mean 'rank_select'"),
        ("rank_select=enrgy", r"rank_select=enrgy: unknown option; did you mean 'energy'\?"),
        ("rank_select.energy=high", r"rank_select\.energy: Value 'high'.*Float"),
        ("rank_select.energy=0", r"energy is 0\.0: choose a fraction in \(0, 1\]"),
        ("rank_select.energy=1.2", r"energy is 1\.2"),
        ("rank_select.relative_error=-1", r"relative_error is -1\.0: choose a number ≥ 0"),
        ("rank_select.compression_ratio=0.5", r"compression_ratio is 0\.5: choose"),
        ("rank_select.budget=0", r"budget is 0\.0: choose a kept fraction"),
        ("rank_select.budget=1.5", r"budget is 1\.5"),
        ("rank_select.policy=enrgy", r"unknown policy 'enrgy': did you mean 'energy'\?"),
        ("rank_select.cost=flops", r"cost is 'flops': choose one of params, macs, bytes"),
        ("rank_select.allocation=exakt", r"allocation is 'exakt': did you mean 'exact'\?"),
        ("rank_select.max_relative_error=-1", r"max_relative_error is -1\.0: choose a number ≥ 0"),
        ("rank_select.ranks=1.5", r"ranks is 1\.5: choose a whole number ≥ 1, a fraction"),
        ("rank_select.overrides={stem: dense}", r"rank_select\.overrides\.stem: Invalid type"),
        (
            "rank_select.overrides={stem: {keap: dense}}",
            r"rank_select\.overrides\.stem\.keap: unknown key; did you mean .*\.stem\.keep'\?",
        ),
        ("rank_select.overrides={stem: {ranks: 0}}", r"overrides, 'stem': ranks is 0: choose"),
        ("decompose.methods=[svdd]", r"unknown method 'svdd': did you mean 'svd'\?"),
        ("decompose.methods=[]", r"no method chosen"),
        ("decompose.hooi_iterations=-1", r"decompose\.hooi_iterations=-1: choose"),
        ("fine_tune.epochs=0", r"fine_tune\.epochs=0: choose at least 1"),
        ("fine_tune.epochs=1.5", r"fine_tune\.epochs: .*"),
        ("fine_tune.learning_rate=0", r"fine_tune\.learning_rate=0\.0: choose a number above 0"),
        ("fine_tune.objective=distil", r"fine_tune\.objective=distil: .*did you mean 'distill'\?"),
        ("fine_tune.parameters=adapter", r"fine_tune\.parameters=adapter: .*mean 'adapters'\?"),
        ("fine_tune.temperature=0", r"fine_tune\.temperature=0\.0: choose a number above 0"),
        (
            "fine_tune.distill_weight=2",
            r"fine_tune\.distill_weight=2\.0: choose a number",
        ),
        ("fine_tune.adapter_rank=0", r"fine_tune\.adapter_rank=0: choose at least 1"),
        ("fine_tune.adapter_others=[norms]", r"adapter_others=\['norms'\]: choose among vectors"),
        ("fine_tune.descent_points=1", r"fine_tune\.descent_points=1: choose 0 \(off\) or at"),
        ("data.name=digit", r"data\.name=digit: unknown; did you mean 'digits'\?"),
        ("baseline.snapshots=-1", r"baseline\.snapshots=-1: choose a number of at least 0"),
        ("data.calibration=0", r"data\.calibration=0: choose at least 1"),
        ("analyze.metric=fischer", r"analyze\.metric=fischer: unknown; did you mean 'fisher'\?"),
        ("analyze.damping=0", r"analyze\.damping=0\.0: choose a number above 0"),
        ("analyze.holdout=1", r"analyze\.holdout=1\.0: choose a number in \[0, 1\)"),
        ("analyze.include=[]", r"analyze\.include=\[\]: nothing would be factorized"),
        ("data=tensors", r"data\.path is not set: give it on the command line"),
        ("seed=x", r"seed: Value 'x'.*Integer"),
        ("a b==", r"a b=="),
    ],
)
def test_bad_configuration_gets_one_readable_error(override: str, message: str) -> None:
    with pytest.raises(LowRankError, match=message) as info:
        compose_params(CONF, [override])
    assert len(str(info.value).splitlines()) <= 2


def test_a_sweep_is_checked_value_by_value_before_it_starts() -> None:
    check_overrides(CONF, ["rank_select=energy,error", "fine_tune.epochs=range(1,3)", "seed=1"])
    check_overrides(CONF, ["hydra/launcher=joblib", "rank_select.budget=interval(0.2,0.5)"])
    with pytest.raises(LowRankError, match="rank_select=eror: unknown option"):
        check_overrides(CONF, ["fine_tune=full,none", "rank_select=energy,eror"])
    with pytest.raises(LowRankError, match=r"budget is 2\.0"):
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
    assert rank_select["overrides"]["stem"] == {"method": None, "ranks": None, "keep": "dense"}


def own_inputs(folder: Path) -> dict[str, Any]:
    np.savez(folder / "data.npz", inputs=np.zeros((4, 3), np.float32), labels=np.arange(4))
    (folder / "w.safetensors").write_bytes(b"weights")
    (folder / "my_net.py").write_text("class Net: ...\n")
    return compose_params(
        CONF,
        [
            "experiment=checkpoint",
            "data.path=data.npz",
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
    assert pin(params, tmp_path)["baseline"] != pinned["baseline"]


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
