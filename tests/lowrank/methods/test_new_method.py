"""A new method, with its form: one file and one row of each table; all else works with it.

Columns first: a convolution along the rows, then one down them, from the truncated SVD of the
matrix (in·width) × (out·height); `SpatialSVD` goes the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from pipeline import lowrank as lr
from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.forms import FORMS, Form
from pipeline.lowrank.forms.base import check_rank
from pipeline.lowrank.forms.parts import along, channels
from pipeline.lowrank.methods import METHODS, Method
from pipeline.lowrank.methods.base import Certificate, priced
from pipeline.lowrank.methods.candidate import Candidate, CandidateGrid
from pipeline.lowrank.network.linalg import balance, left_eigenbasis, split_groups, tails
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.planning.overrides import Override
from pipeline.lowrank.typed import knob, options
from tests.lowrank.forms import test_forms_contract as forms_contract
from tests.lowrank.layer_kinds import LAYER_KINDS, LayerKind
from tests.lowrank.methods import test_methods_contract as methods_contract


class ColumnsFirstForm(Form):
    """ranks = (rank,). A 1×width convolution onto `rank` channels a group, then a height×1 one."""

    name = "columns_first"

    def costs(self, target: Target, ranks: Tensor) -> tuple[Tensor, Tensor]:
        rank = ranks[:, 0]
        outputs, inputs, height, width = target.shape
        first, last = target.groups * inputs * width, outputs * height
        between = target.in_positions * target.out_positions // target.between_positions[0]
        macs = rank * (first * between + last * target.out_positions)
        return rank * (first + last) + target.bias_params, macs

    def check_ranks(self, shape: Sequence[int], ranks: Sequence[int]) -> str | None:
        if len(ranks) != 1:
            return f"columns_first takes one rank, not {len(ranks)}"
        if len(shape) != 4:
            return "columns_first needs a Conv2d, and one rank"
        outputs, inputs, height, width = shape
        return check_rank("rank", ranks[0], min(inputs * width, outputs * height))

    def layers(self, module: nn.Module, ranks: Sequence[int]) -> list[nn.Module]:
        (rank,) = ranks
        inputs, outputs, groups, bias = channels(module)
        return [
            along(module, 1, inputs, groups * rank, groups=groups),
            along(module, 0, groups * rank, outputs, groups=groups, bias=bias),
        ]

    def balanced(self, factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return balance(*factors)

    def reconstruct(self, factors: Sequence[Tensor]) -> Tensor:
        first, last = factors
        groups = first.shape[0] // last.shape[1]
        columns, rows = split_groups(first[..., 0, :], groups), split_groups(last[..., 0], groups)
        return torch.einsum("gorh,griw->goihw", rows, columns).flatten(0, 1)


@options
class ColumnsFirst(Method):
    """ranks = (rank,); it decomposes its matrix by itself, since no view of the spectra is its."""

    most: int = knob(99, ge=1, help="columns_first: candidates have at most this rank")

    name: ClassVar[str] = "columns_first"
    form: ClassVar[Form] = ColumnsFirstForm()
    views: ClassVar[tuple[str, ...]] = ()

    def candidates(self, target: Target, weight: Tensor, spectra: Spectra) -> list[Candidate]:
        return self._grid(target, weight).worthwhile(target) if target.kind == "conv2d" else []

    def candidate(
        self, target: Target, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> Candidate | None:
        return self._grid(target, weight).find(ranks)

    def _grid(self, target: Target, weight: Tensor) -> CandidateGrid:
        values, _ = self._basis(weight, target.groups)
        errors = tails(values)[1:][: self.most]
        return priced(self, target, torch.arange(1, len(errors) + 1)[:, None], errors)

    def _basis(self, weight: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        values, basis = left_eigenbasis(_matrix(weight, groups))
        return values.sum(0), basis

    def factorize(
        self, weight: Tensor, spectra: Spectra, ranks: Sequence[int]
    ) -> tuple[Tensor, ...]:
        (rank,) = ranks
        outputs, inputs, height, width = weight.shape
        basis = self._basis(weight, spectra.groups)[1][..., :rank]
        last = basis.mT @ _matrix(weight, spectra.groups)
        last = last.reshape(spectra.groups, rank, -1, height).transpose(1, 2)
        return basis.mT.reshape(-1, inputs, 1, width), last.reshape(outputs, rank, height, 1)

    def certify(self, spectra: Spectra, ranks: Sequence[int]) -> Certificate:
        return Certificate(0.0, spectra.squared_norm, "a projection")


def _matrix(weight: Tensor, groups: int) -> Tensor:
    """(groups, in·width, out·height) float64."""
    kernel = split_groups(weight.double(), groups)
    return kernel.permute(0, 2, 4, 1, 3).flatten(3).flatten(1, 2)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one row of each table."""
    monkeypatch.setitem(FORMS, ColumnsFirst.name, ColumnsFirst.form)
    monkeypatch.setitem(METHODS, ColumnsFirst.name, ColumnsFirst)


KINDS = [kind for kind in LAYER_KINDS if kind.name.startswith("conv2d") and kind.is_kernel]
FORM_CONTRACT = [
    forms_contract.test_costs_are_those_of_the_modules,
    forms_contract.test_what_is_stored_comes_back,
    forms_contract.test_the_layer_is_the_dense_layer_with_its_reconstruction,
    forms_contract.test_balanced_factors_have_their_product_and_forget_their_sizes,
    forms_contract.test_a_state_dict_round_trip_is_to_the_bit,
    forms_contract.test_ranks_that_the_layer_cannot_have_are_refused,
]
METHOD_CONTRACT = [
    methods_contract.test_every_candidate_costs_and_errs_as_predicted,
    methods_contract.test_full_rank_is_the_identity,
    methods_contract.test_error_falls_as_ranks_grow,
    methods_contract.test_state_dict_round_trip_to_the_bit,
    methods_contract.test_channels_enter_at_the_first_factor_and_leave_at_the_last,
]


@pytest.mark.parametrize("contract", FORM_CONTRACT, ids=lambda test: test.__name__[5:])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_it_keeps_the_contract_of_forms(contract: object, kind: LayerKind) -> None:
    row = forms_contract.Row(ColumnsFirst.form, tuple(kind.name for kind in KINDS))
    contract(row, kind)  # type: ignore[operator]


@pytest.mark.parametrize("contract", METHOD_CONTRACT, ids=lambda test: test.__name__[5:])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_it_keeps_the_contract_of_methods(contract: object, kind: LayerKind) -> None:
    row = methods_contract.Row(ColumnsFirst(), tuple(kind.name for kind in KINDS))
    contract(row, kind)  # type: ignore[operator]


def test_it_keeps_the_contract_where_it_has_no_form() -> None:
    row = methods_contract.Row(ColumnsFirst(), tuple(kind.name for kind in KINDS))
    methods_contract.test_a_kind_without_a_form_has_no_candidates(row)
    methods_contract.test_a_zero_weight_factorizes_to_zero(row)
    methods_contract.test_the_result_exports_and_compiles(row)


@pytest.mark.parametrize("metric", ["weight", "fisher"])
def test_it_is_planned_applied_saved_and_loaded_like_any_other(metric: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, (3, 5)), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten())
    net = nn.Sequential(*layers, nn.Linear(16 * 4 * 2, 10)).eval()
    batches = list(torch.randn(64, 3, 8, 8).split(16))
    chosen = lr.plan(
        net,
        lr.Budget(params=0.5),
        calibration=batches,
        metric=metric,  # type: ignore[arg-type]
        methods=[lr.make_method("columns_first", {"most": 7, "hooi_iterations": 3})],
        overrides={"0": Override(method=ColumnsFirst(most=7), ranks=[4])},
    )
    assert {chosen.layers[name].method for name in ("0", "2")} == {"columns_first"}
    assert chosen.layers["5"].method in ("svd", "dense")
    assert chosen.methods["columns_first"] == ColumnsFirst(most=7)
    lr.save_plan(tmp_path / "plan.json", chosen)
    assert lr.load_plan(tmp_path / "plan.json").methods == chosen.methods
    done = lr.apply_(net, chosen)
    report = done.layers["2"]
    assert report.measured_relative_error == pytest.approx(
        report.predicted_relative_error, abs=report.rounding
    )
    assert "columns_first" in str(done)
    lr.save(net, tmp_path)
    fresh = nn.Sequential(nn.Conv2d(3, 16, (3, 5)), *layers[1:2], nn.Conv2d(16, 16, 3), *layers[3:])
    fresh.append(nn.Linear(16 * 4 * 2, 10))
    assert torch.equal(lr.load_(fresh, tmp_path)(batches[0]), net(batches[0]))
