"""Weights in 8 bits: numbers that fit are kept, and what layers compute moves little."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pipeline import lowrank as lr
from pipeline.lowrank.exports.calls import Call, calls_of
from pipeline.lowrank.exports.rounding import rounded, rounded_pivots, rounded_weights
from pipeline.lowrank.forms.surgery import Factorized
from tests.lowrank.exports.export_case import transformer_case


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def inputs(size: int) -> Tensor:
    """Positions whose directions differ in size by a factor of a thousand, and go together."""
    return (drawn(400, size) * torch.logspace(0, -3, size, dtype=torch.float64)) @ drawn(
        size, size, seed=1
    )


@pytest.mark.parametrize("known", [True, False])
def test_numbers_of_8_bits_are_kept(known: bool) -> None:
    numbers = torch.randint(-127, 128, (6, 200), generator=torch.Generator().manual_seed(0))
    numbers[:, 0] = 127  # each row uses its range
    steps = torch.rand(6, 1).double() + 0.5
    x = inputs(200)
    found = rounded(numbers * steps, x.mT @ x if known else None)
    assert torch.equal(found.numbers.long(), numbers)
    assert torch.equal(found.steps, found.steps.float().double())
    assert torch.allclose(found.matrix(), numbers * steps, rtol=1e-6)


def test_feedback_moves_outputs_less_than_the_nearest_numbers() -> None:
    weight, x = drawn(30, 150), inputs(150)
    errors = []
    for moments in (None, x.mT @ x):
        found = rounded(weight, moments)
        assert (found.matrix() - weight).abs().max() < 3 * found.steps.max()
        errors.append(float((x @ (found.matrix() - weight).mT).norm()))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("known", [True, False])
def test_the_rest_makes_up_for_the_errors_of_pivots(known: bool) -> None:
    pivots, x = drawn(20, 60), inputs(60)
    rest = drawn(40, 20, seed=2)
    moments = x.mT @ x if known else None
    whole = torch.cat([pivots, rest @ pivots])

    def error(first: Tensor, last: Tensor) -> float:
        apart = torch.cat([first, last @ first]) - whole
        return float((apart if moments is None else x @ apart.mT).norm())

    alone = error(rounded(pivots, None).matrix(), rounded(rest, None).matrix())
    together = rounded_pivots(pivots, rest, moments)
    assert error(*(one.matrix() for one in together)) < (0.5 if known else 0.9) * alone


def test_rows_of_zeros_and_inputs_that_never_come() -> None:
    weight = drawn(4, 10)
    weight[1] = 0
    for moments in (None, torch.zeros(10, 10, dtype=torch.float64)):
        found = rounded(weight, moments).matrix()
        assert torch.equal(found[1], weight[1]) and torch.allclose(found, weight, atol=0.02)


def test_the_linears_of_a_network_are_weighed_by_what_they_read() -> None:
    """Padding is not read."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.first, self.last = (
                nn.Embedding(9, 48),
                nn.Linear(48, 32),
                nn.Linear(32, 8),
            )

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            answer: Tensor = self.last(self.first(self.table(input_ids)).relu())
            return answer

    torch.manual_seed(0)
    net, ids = Net().eval(), torch.randint(1, 9, (4, 7))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    lr.compress_(net, lr.Fixed({"first": 10}), batch, methods=[lr.PivotedSVD()])
    padded = {key: nn.functional.pad(value, (0, 3)) for key, value in batch.items()}
    found, short = (rounded_weights(net, calls_of(one)[:1]) for one in (padded, batch))
    linears = {name for name, one in net.named_modules() if isinstance(one, nn.Linear)}
    assert found.keys() == short.keys() == linears
    assert len([name for name in linears if name.startswith("first.")]) == 2
    for name, one in found.items():
        assert torch.equal(one.numbers, short[name].numbers), name
    assert any(
        not torch.equal(one.numbers, found[name].numbers)
        for name, one in rounded_weights(net, []).items()
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_examples_make_the_layers_of_a_transformer_lose_less(seed: int) -> None:
    """On the same inputs, beside what layers lose whose inputs all count alike."""
    model, _ = transformer_case("llama")
    ids = torch.randint(2, 300, (32, 12), generator=torch.Generator().manual_seed(seed))
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, Factorized):
            layer.register_forward_hook(lambda _, x, y, name=name: seen.update({name: (x[0], y)}))
    with torch.no_grad():
        model(ids)
        lost = []
        for calls in ([Call((), {"input_ids": ids})], []):
            small = copy.deepcopy(model)
            for name, one in rounded_weights(model, calls).items():
                small.get_parameter(f"{name}.weight").copy_(one.matrix())
            given = list(seen.items())  # the copies of the hooks see more
            outputs = [(small.get_submodule(name)(x), y) for name, (x, y) in given]
            lost.append(sum(((z - y).norm() / y.norm()).square().item() for z, y in outputs))
    assert len(seen) >= 14
    assert 0 < lost[0] < 0.7 * lost[1]
