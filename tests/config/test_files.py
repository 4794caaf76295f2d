"""conf/GROUP/_base.yaml and docs/configuration.md are written from the options' classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.config.configuration import Configuration
from pipeline.config.files import COMMAND, generated
from pipeline.config.groups import PRESETS, group_names, group_options
from pipeline.config.knobs import inner_options, knobs
from pipeline.lowrank.errors import LowRankError
from tests.imports import ROOT

CONF = ROOT / "conf"
BASES = [path for path in generated(ROOT) if path.suffix == ".yaml"]


@pytest.mark.parametrize("path", generated(ROOT), ids=str)
def test_what_is_generated_is_current(path: Path) -> None:
    assert (ROOT / path).read_text() == generated(ROOT)[path], f"run {COMMAND}"


@pytest.mark.parametrize("path", BASES, ids=str)
def test_a_base_has_the_defaults_of_its_class(path: Path) -> None:
    classes = inner_options(Configuration)
    cls = classes[path.parent.name]
    if path.stem != "_base":
        cls = inner_options(cls)[path.stem.removeprefix("_")]
    written = yaml.safe_load((ROOT / path).read_text())
    assert list(written) == [knob.name for knob in knobs(cls)]
    for knob in knobs(cls):
        default = list(knob.default) if isinstance(knob.default, tuple) else knob.default
        assert written[knob.name] == ("???" if knob.required else default)


@pytest.mark.parametrize("section", inner_options(Configuration))
def test_every_knob_says_what_it_means_and_takes(section: str) -> None:
    for knob in knobs(inner_options(Configuration)[section]):
        assert len(knob.help) > 3, knob.name
        assert knob.accepts or knob.name == "ranks", knob.name


@pytest.mark.parametrize("group", [g for g in group_names(CONF) if g != "model"])
def test_options_name_only_what_differs_from_their_base(group: str) -> None:
    base = yaml.safe_load((CONF / group / "_base.yaml").read_text())
    for option in group_options(CONF, group):
        own = yaml.safe_load((CONF / group / f"{option.name}.yaml").read_text())
        assert own.pop("defaults")[0] == "_base"
        same = [key for key, value in own.items() if base[key] == value]
        assert not same, f"{group}={option.name} repeats {same}"


def test_the_page_has_every_option_and_every_key() -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    for group in [*group_names(CONF), PRESETS]:
        for option in group_options(CONF, group):
            assert f"| `{group}={option.name}` |" in page
    for section, cls in inner_options(Configuration).items():
        for knob in knobs(cls):
            assert f"| `{section}.{knob.name}` |" in page


def test_an_option_without_its_command_and_sentence_is_named(tmp_path: Path) -> None:
    (tmp_path / "group").mkdir()
    path = tmp_path / "group" / "odd.yaml"
    path.write_text("# python -m pipeline group=odd\nkey: 1\n")
    with pytest.raises(LowRankError, match=r"odd\.yaml: open it with the comment"):
        group_options(tmp_path, "group")
    path.write_text(
        "# @package _global_\n# python -m pipeline group=odd \\\n#   a=1\n# It is\n# odd.\n"
    )
    (option,) = group_options(tmp_path, "group")
    assert option.command == "python -m pipeline group=odd a=1"
    assert option.sentence == "It is odd."
