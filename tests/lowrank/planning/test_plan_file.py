"""plan.json is the decision: it fixes the factors, an edit is told, and a slip is one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.lowrank import (
    CP,
    Budget,
    Compression,
    Fixed,
    LowRankError,
    Plan,
    PlannedLayer,
    Tucker,
    Tucker2,
    analyze,
    apply_,
    load_plan,
    plan,
    save_plan,
)
from pipeline.lowrank.factorize.deciding import plan_in_file
from pipeline.lowrank.methods import Method
from pipeline.lowrank.network.costs import count_params, network_totals

EXAMPLE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.body = nn.Conv2d(24, 16, 3, padding=1, bias=False)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(self.stem(x).relu()).mean((2, 3)))
        return y


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def applied(net: nn.Module, chosen: Plan) -> Compression:
    return apply_(copy.deepcopy(net), chosen, example=EXAMPLE)


@pytest.mark.parametrize(
    "method",
    [
        Tucker2(hooi_iterations=0),
        Tucker2(hooi_iterations=25, hooi_tolerance=0.0),
        Tucker(hooi_iterations=0),
        CP(cp_iterations=3, cp_rank_grid=2, seed=5),
    ],
    ids=["hosvd", "long hooi", "tucker", "cp"],
)
def test_a_plan_fixes_the_factors(net: Net, method: Method, tmp_path: Path) -> None:
    """Options of methods stand in the plan, so that the file alone says what is built."""
    chosen = plan(net, Budget(params=0.5), EXAMPLE, methods=[method])
    assert method.name in {layer.method for layer in chosen.factorized.values()}
    save_plan(tmp_path / "plan.json", chosen)
    read = load_plan(tmp_path / "plan.json")
    assert read.methods[method.name] == method
    one, other = applied(net, chosen), applied(net, read)
    states = one.network.state_dict(), other.network.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not other.differences and one.layers == other.layers
    for report in other.layers.values():
        if report.error_kind == "exact":
            assert report.measured_relative_error == pytest.approx(
                report.predicted_relative_error, abs=report.rounding
            )
        assert 0 < report.measured_relative_error < 1


def test_more_sweeps_fit_better_so_options_matter(net: Net) -> None:
    ranks = Fixed({"body": [6, 6]})
    measured = [
        applied(net, plan(net, ranks, EXAMPLE, methods=[Tucker2(hooi_iterations=sweeps)]))
        .layers["body"]
        .measured_relative_error
        for sweeps in (0, 20)
    ]
    assert measured[0] > measured[1] + 1e-3


def test_a_prediction_called_exact_is_checked(net: Net) -> None:
    chosen = plan(net, Budget(params=0.5), EXAMPLE, methods=[Tucker2(hooi_iterations=0)])
    analysis = chosen.analysis
    name, known = next((n, e) for n, e in chosen.expected.layers.items() if e.method != "dense")
    assert known.error_kind == "exact"
    message = f"layer {name!r}: the plan predicts exactly"
    for factor in (0.9, 1.1):
        wrong = replace(known, relative_error=factor * known.relative_error)
        expected = replace(chosen.expected, layers={**chosen.expected.layers, name: wrong})
        with pytest.raises(
            LowRankError, match=f"layer {name!r}: the plan predicts exactly"
        ) as info:
            apply_(copy.deepcopy(net), replace(chosen, expected=expected), analysis)
        assert "\n" not in str(info.value)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.get_submodule(name).weight.add_(
            0.02 * torch.randn_like(other.get_submodule(name).weight)
        )  # type: ignore[arg-type,operator,union-attr]
    with pytest.raises(LowRankError, match=message):
        apply_(other, chosen, analyze(other, EXAMPLE))


@pytest.fixture
def file(net: Net, tmp_path: Path) -> Path:
    save_plan(tmp_path / "plan.json", plan(net, Fixed(2), EXAMPLE, methods=[Tucker2()]))
    return tmp_path / "plan.json"


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value, indent=2))


def test_an_edit_is_computed_again_and_told_layer_by_layer(net: Net, file: Path) -> None:
    before = load_plan(file)
    old = before.expected.layers["body"]

    def change(value: dict[str, Any]) -> None:
        value["layers"]["body"] |= {"ranks": [5, 4]}
        value["layers"]["head"] |= {"ranks": [1]}
        value["layers"]["stem"] |= {"method": "dense", "ranks": []}

    edit(file, change)
    done = applied(net, load_plan(file))
    totals = network_totals(done.network, EXAMPLE)
    assert (done.totals.params, done.totals.macs) == (totals.params, totals.macs)
    assert set(done.layers) == {"body", "head"}
    for name, report in done.layers.items():
        module = done.network.get_submodule(name)
        assert report.params == count_params(module)
        found = done.plan.expected.layers[name]
        assert (found.params, found.ranks) == (report.params, report.ranks)
        assert report.measured_relative_error <= report.predicted_relative_error + 1e-5
        assert report.measured_relative_error >= 0.9 * report.predicted_relative_error
    told = {line.partition(":")[0]: line for line in done.differences}
    assert set(told) == {"body", "head", "stem"}
    new = done.plan.expected.layers["body"]
    assert new.params == 24 * 4 + 9 * 5 * 4 + 5 * 16 > old.params
    assert told["body"] == (
        f"body: {old.params:,} → {new.params:,} parameters, {old.macs:,} → {new.macs:,} MACs, "
        f"error {old.relative_error:.3f} → {new.relative_error:.3f}"
    )
    assert told["stem"].endswith("→ 0.000") and before.layers["stem"].method == "tucker2"
    assert all(line in str(done).replace("\n", " ") for line in done.differences)


def test_an_edited_file_is_a_policy_of_its_own(net: Net, file: Path) -> None:
    analysis = analyze(net, EXAMPLE)
    same, told = plan_in_file(net, analysis, file)
    assert not told and same.policy.name == "file"
    edit(file, lambda value: value["layers"]["body"].update(method="tucker2", ranks=[4, 4]))
    found, told = plan_in_file(net, analysis, file)
    assert [line.partition(":")[0] for line in told] == ["body"]
    assert found.policy != same.policy, "another content is another policy"
    assert found.layers["body"].ranks == found.expected.layers["body"].ranks == (4, 4)
    assert not applied(net, found).differences
    with pytest.raises(LowRankError, match=r"its checksum is [0-9a-f]{64}, not beef"):
        plan_in_file(net, analysis, file, "beef")
    with pytest.raises(LowRankError, match=r"rank_select\.path=.*none\.json: cannot be read"):
        plan_in_file(net, analysis, file.parent / "none.json")


def set_layer(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda value: value["layers"]["body"].update(changes)


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "ranks as text": (set_layer(ranks="6×6"), r"layers\.body\.ranks: "),
    "a rank as text": (set_layer(ranks=["6", 6]), r"layers\.body\.ranks\.0: "),
    "half a rank": (set_layer(ranks=[2.5, 6]), r"layers\.body\.ranks\.0: "),
    "a rank of true": (set_layer(ranks=[True, 6]), r"layers\.body\.ranks\.0: "),
    "no ranks": (set_layer(ranks=None), r"layers\.body\.ranks: "),
    "a rank of zero": (set_layer(method="tucker2", ranks=[0, 6]), r"layer 'body' .*out rank 0 is"),
    "a rank above full": (set_layer(method="tucker2", ranks=[99, 6]), r"out rank 99 is not in"),
    "too few ranks": (set_layer(method="tucker2", ranks=[6]), r"tucker2 takes two ranks"),
    "dense with ranks": (set_layer(method="dense", ranks=[6]), r"layer 'body'.*dense.*\[6\]"),
    "a wrong method": (set_layer(method="tuker2"), r"method 'tuker2': did you mean 'tucker2'"),
    "no method": (set_layer(method=None), r"layers\.body\.method: "),
    "a form that kernels alone have": (
        lambda value: value["layers"]["head"].update(method="tucker2", ranks=[2, 2]),
        r"layer 'head'",
    ),
    "an unknown key": (set_layer(rnks=[6, 6]), r"layers\.body\.rnks: "),
    "an unknown layer": (
        lambda value: value["layers"].update(bodi=value["layers"]["body"]),
        r"names the layer 'bodi'",
    ),
    "a missing layer": (lambda value: value["layers"].pop("head"), r"says nothing of head"),
    "an unknown option": (
        lambda value: value["methods"]["tucker2"].update(hooi_iteration=3),
        r"Tucker2 has no option 'hooi_iteration': did you mean 'hooi_iterations'",
    ),
    "an option out of range": (
        lambda value: value["methods"]["tucker2"].update(hooi_iterations=-1),
        r"hooi_iterations=-1: choose a number of at least 0",
    ),
    "an unknown method's options": (
        lambda value: value["methods"].update(tuker={}),
        r"unknown method 'tuker': did you mean",
    ),
    "an unknown policy": (
        lambda value: value["policy"].update(name="bugdet"),
        r"unknown policy 'bugdet': did you mean 'budget'",
    ),
    "an unknown option of the policy": (
        lambda value: value["policy"].update(rnks=3),
        r"Fixed has no option 'rnks': did you mean 'ranks'",
    ),
    "another metric": (lambda value: value.update(metric="input"), r"metric 'input'"),
    "a metric that there is not": (
        lambda value: value.update(metric="fischer"),
        r"plan\.json: metric: .*'fisher'",
    ),
    "layers as a list": (lambda value: value.update(layers=[]), r"plan\.json: layers: "),
    "a layer as a number": (lambda value: value["layers"].update(body=3), r"layers\.body: "),
    "another format": (lambda value: value.update(format=1), r"plan\.json: format: "),
    "no format": (lambda value: value.pop("format"), r"plan\.json: format: "),
    "an unknown section": (lambda value: value.update(layrs={}), r"plan\.json: layrs: "),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_slip_is_one_line_and_nothing_is_touched(net: Net, file: Path, case: str) -> None:
    change, message = BROKEN[case]
    edit(file, change)
    analysis, before = analyze(net, EXAMPLE), copy.deepcopy(net.state_dict())
    for given in (None, analysis):
        with pytest.raises(LowRankError, match=message) as info:
            apply_(net, load_plan(file), given, example=EXAMPLE)
        assert "\n" not in str(info.value)
    with pytest.raises(LowRankError, match=message):
        plan_in_file(net, analysis, file)
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("content", ["", "[]", "{}", "nonsense", '{"format": 2', "\xff"])
def test_what_is_no_plan_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(LowRankError, match=r"plan\.json: .*make it again with rank-select") as info:
        load_plan(path)
    assert "\n" not in str(info.value)
    with pytest.raises(LowRankError, match=r"none\.json: cannot be read"):
        load_plan(tmp_path / "none.json")


def test_edits_in_a_notebook_are_told_too(net: Net) -> None:
    chosen = plan(net, Budget(params=0.5), EXAMPLE, methods=[Tucker2()])
    done = applied(net, chosen.with_layers(head=PlannedLayer("svd", (3,))))
    assert done.layers["head"].params == count_params(done.network.get_submodule("head"))
    assert [line.partition(":")[0] for line in done.differences] == ["head"]


def test_an_edited_option_of_a_method_counts(net: Net, tmp_path: Path) -> None:
    """Fewer sweeps are built as they are written; more than an exact prediction knew are told."""
    path, ranks = tmp_path / "plan.json", Fixed({"body": [6, 6]})

    def sweeps(count: int) -> Callable[[dict[str, Any]], object]:
        return lambda value: value["methods"]["tucker2"].update(hooi_iterations=count)

    save_plan(path, plan(net, ranks, EXAMPLE, methods=[Tucker2(hooi_iterations=20)]))
    measured = [applied(net, load_plan(path)).layers["body"].measured_relative_error]
    edit(path, sweeps(0))
    measured.append(applied(net, load_plan(path)).layers["body"].measured_relative_error)
    assert measured[0] < measured[1] - 1e-3
    save_plan(path, plan(net, ranks, EXAMPLE, methods=[Tucker2(hooi_iterations=0)]))
    edit(path, sweeps(20))
    with pytest.raises(LowRankError, match=r"predicts exactly .* other options of tucker2: make"):
        applied(net, load_plan(path))
