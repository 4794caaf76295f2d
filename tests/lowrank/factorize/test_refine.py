"""Trained refinement: blocks learn what the dense network's blocks give, and nothing gets worse."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.lowrank import Budget, Interpolative, LowRankError, PivotedTucker2, apply_, plan
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.factorize.batchnorm import estimate_, estimate_if_closer
from pipeline.lowrank.factorize.lesson import squared_error
from pipeline.lowrank.factorize.options import RefitOptions, StateError
from pipeline.lowrank.factorize.refine import refine_
from pipeline.lowrank.factorize.settling import settle
from pipeline.lowrank.tasks import Classification
from pipeline.models.resnet import ResNet
from tests.lowrank.factorize.test_refit import Alone, Stack, correlated

SHAPE = {"residual": (12,), "cnn": (1, 8, 8)}
MAKE: dict[str, Callable[[], nn.Module]] = {
    "residual": lambda: Stack(blocks=4),
    "cnn": lambda: ResNet(widths=(8, 16), blocks=(1, 1), hidden=0),
}
CHOSEN = RefitOptions(steps=60, learning_rate=3e-3)


def compressed(kind: str) -> tuple[nn.Module, nn.Module, list[str], list[Tensor], Divergence]:
    """(dense, compressed, names of the layers, calibration, divergence on other data)."""
    torch.manual_seed(0)
    dense = MAKE[kind]().eval()
    for module in dense.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    batches = list(correlated(256, SHAPE[kind], 1).split(32))
    estimate_(dense, batches)
    methods = (PivotedTucker2(), Interpolative())
    chosen = plan(
        dense,
        Budget(params=0.5),
        calibration=batches,
        methods=methods,
        contest_examples=0,
        include=["blocks.*"],
    )
    small = apply_(copy.deepcopy(dense), chosen).network
    held_out = [correlated(128, SHAPE[kind], 2)]
    return dense, small, list(chosen.factorized), batches, Divergence(dense, held_out)


@pytest.mark.parametrize(
    ("kind", "error"),
    [("residual", "relative"), ("residual", "fisher"), ("cnn", "plain"), ("cnn", "fisher")],
)
def test_trained_blocks_come_closer_to_the_dense_network(kind: str, error: StateError) -> None:
    dense, small, layers, batches, divergence = compressed(kind)
    before = divergence.of(small)
    modes = [module.training for module in small.modules()]
    chosen = replace(CHOSEN, error=error)
    report = refine_(dense, small, batches, divergence, chosen, layers=layers)
    after = divergence.of(small)
    assert after < 0.9 * before
    assert (report.divergence.without, report.divergence.refit) == (before, after)
    kept = [block.divergence for block in report.blocks.values() if block.kept]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] == after
    assert [module.training for module in small.modules()] == modes
    assert all(p.grad is None for p in small.parameters())


def test_what_makes_it_worse_is_taken_back_to_the_bit() -> None:
    dense, small, layers, batches, divergence = compressed("residual")
    small.blocks[1].requires_grad_(False)  # type: ignore[index]
    before = copy.deepcopy(small.state_dict())
    wild = RefitOptions(steps=10, learning_rate=10.0)
    report = refine_(dense, small, batches, divergence, wild, layers=layers)
    assert not any(block.kept for block in report.blocks.values())
    assert "blocks.1" not in report.blocks
    assert all(torch.equal(before[k], v) for k, v in small.state_dict().items())


def test_errors_are_means_over_tokens_without_padding() -> None:
    target = torch.tensor([[[3.0, 4.0], [0.0, 10.0], [7.0, 7.0]]])
    state = target + torch.tensor([[[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    relative, plain = (
        float(squared_error(target, mask, kind, None)(state)) for kind in ("relative", "plain")
    )
    assert relative == pytest.approx((1 / 25 + 4 / 100) / 2, rel=1e-2)
    assert plain == pytest.approx((1 + 4) / (25 + 100))
    root = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    nats = float(squared_error(target, mask, "fisher", root)(state))
    assert nats == pytest.approx((4 + (2.0**2 + 6.0**2)) / 2 / 2)
    image = torch.randn(3, 2, 4, 4)
    changed = image + torch.randn(image.shape)
    weighed = ((changed - image).movedim(1, -1) @ root).square().sum((1, 2, 3)).mean() / 2
    assert float(squared_error(image, None, "fisher", root)(changed)) == pytest.approx(
        float(weighed), rel=1e-4
    )


class Killed(BaseException):
    pass


class Dying(Divergence):
    """Measures as the one that it is made of, a few times, and is then killed."""

    def __init__(self, real: Divergence, times: int) -> None:
        self.real, self.times, self.task = real, times, real.task

    def of(self, model: nn.Module) -> float:
        self.times -= 1
        if self.times < 0:
            raise Killed
        return self.real.of(model)


def test_a_refinement_that_was_killed_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    dense, small, layers, batches, divergence = compressed("residual")
    whole, folder = copy.deepcopy(small), tmp_path / "kept"
    expected = refine_(dense, whole, batches, divergence, CHOSEN, layers=layers, seed=3)
    for times in (3, 2):  # the dense network's distance, and two blocks; then one more
        stopped = copy.deepcopy(small)
        with pytest.raises(Killed):
            refine_(
                dense, stopped, batches, Dying(divergence, times), CHOSEN,
                layers=layers, seed=3, folder=folder,
            )  # fmt: skip
        assert len(list(folder.iterdir())) == 1
    found = refine_(
        dense, small, batches, Dying(divergence, 2), CHOSEN,
        layers=layers, seed=3, folder=folder,
    )  # fmt: skip
    assert found == expected
    assert all(torch.equal(whole.state_dict()[k], v) for k, v in small.state_dict().items())
    assert not list(folder.iterdir())


def test_a_damaged_file_is_warned_of_and_its_blocks_are_trained_again(tmp_path: Path) -> None:
    dense, small, layers, batches, divergence = compressed("residual")
    whole, stopped = copy.deepcopy(small), copy.deepcopy(small)
    expected = refine_(dense, whole, batches, divergence, CHOSEN, layers=layers, seed=3)
    with pytest.raises(Killed):
        refine_(
            dense, stopped, batches, Dying(divergence, 3), CHOSEN,
            layers=layers, seed=3, folder=tmp_path,
        )  # fmt: skip
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 64
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="its content is not what was written; it was removed"):
        found = refine_(
            dense, small, batches, divergence, CHOSEN, layers=layers, seed=3, folder=tmp_path
        )
    assert found == expected
    assert all(torch.equal(whole.state_dict()[k], v) for k, v in small.state_dict().items())


def test_what_was_factorized_without_certificates_is_settled_too() -> None:
    torch.manual_seed(0)
    dense = MAKE["residual"]().eval()
    batches = list(correlated(256, SHAPE["residual"], 1).split(32))
    chosen = plan(dense, Budget(params=0.5), calibration=batches, contest_examples=0)
    assert chosen.analysis is not None
    found = []
    for certified in (True, False):
        done = apply_(copy.deepcopy(dense), chosen, certified=certified)
        assert bool(done.layers) is certified
        given = (dense, done, chosen.analysis, batches, [correlated(128, SHAPE["residual"], 2)])
        found.append(settle(*given, CHOSEN, task=Classification()).report.refine)
    assert found[0] is not None and len(found[0].blocks) == 4
    assert found[0] == found[1]


def test_time_is_a_limit() -> None:
    dense, small, layers, batches, divergence = compressed("residual")
    limited = RefitOptions(steps=10**6, minutes=1 / 60)
    report = refine_(dense, small, batches, divergence, limited, layers=layers)
    assert all(1 <= block.steps < 10**4 for block in report.blocks.values())


def test_a_network_without_blocks_is_told_so() -> None:
    net = Alone()
    batches = [torch.randn(4, 12)]
    with pytest.raises(LowRankError, match=r"no blocks that follow.*set refit\.steps=0"):
        refine_(net, net, batches, Divergence(net, batches), CHOSEN, layers=["layer"])


def test_statistics_are_those_of_the_data_again() -> None:
    """A layer in front was scaled: its BatchNorm knows nothing of it, and then does."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(2, 6, 1), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(24, 5))
    batches = [torch.randn(64, 2, 2, 2) for _ in range(3)]
    estimate_(dense, batches)
    values = torch.stack([dense[0](x).transpose(0, 1).flatten(1) for x in batches])
    torch.testing.assert_close(dense[1].running_mean, values.mean((0, 2)))
    torch.testing.assert_close(dense[1].running_var, values.var(2).mean(0))
    assert dense[1].momentum == 0.1
    dense.eval()
    small, divergence = copy.deepcopy(dense), Divergence(dense, [torch.randn(64, 2, 2, 2)])
    with torch.no_grad():
        small[0].weight.mul_(2.0)
    found, report = estimate_if_closer(small, batches, divergence)
    assert report is not None
    assert report.kept
    assert report.layers == 1
    assert divergence.of(found) < 1e-3 * divergence.of(small)
    same, report = estimate_if_closer(dense, [x + 3 for x in batches], divergence)
    assert same is dense
    assert report is not None
    assert not report.kept
    assert estimate_if_closer(dense[3], [], divergence) == (dense[3], None)
