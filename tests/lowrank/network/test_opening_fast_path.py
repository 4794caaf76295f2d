"""torch's transformer encoders take their layers' weights on a fast path: with factors they do not,
and a network of which the root is packed is opened as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline import lowrank as lr
from pipeline.lowrank.network.opening import opened

PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0)).double()
RANKS = {"layers.1.linear1": 4, "layers.1.self_attn.k_proj": 5}


def encoder() -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    net = nn.TransformerEncoder(layer, 2).eval().double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


def plan(net: nn.Module, ranks: dict[str, int]) -> lr.Plan:
    return lr.plan(net, lr.Fixed(ranks), X[:1], metric="weight", methods=[lr.SVD()])


@contextmanager
def slow_path() -> Iterator[None]:
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def calls_of(layer: nn.Module, run: object) -> int:
    """How often the layer's own forward runs, without a hook, which would change the path."""
    calls = []
    forward = layer.forward
    layer.forward = lambda x: (calls.append(1), forward(x))[1]  # type: ignore[method-assign]
    run()  # type: ignore[operator]
    del layer.forward
    return len(calls)


@pytest.mark.parametrize("ranks", [{n: r} for n, r in RANKS.items()], ids=list(RANKS))
@pytest.mark.parametrize("frozen", [False, True], ids=["no_grad", "frozen"])
@pytest.mark.parametrize("padding", [None, PADDING], ids=["whole", "padded"])
def test_the_factors_compute_and_the_output_is_that_of_the_slow_path(
    ranks: dict[str, int], frozen: bool, padding: Tensor | None
) -> None:
    net = encoder()
    lr.apply_(net, plan(net, ranks))
    net.requires_grad_(not frozen)
    found = {}

    def run() -> None:
        with torch.set_grad_enabled(frozen):
            found["output"] = net(X, src_key_padding_mask=padding)

    (name,) = ranks
    layer = net.get_submodule(name)
    assert isinstance(layer, lr.Factorized)
    assert [calls_of(factor, run) for factor in layer] == [1, 1]
    with slow_path(), torch.no_grad():
        expected = net(X, src_key_padding_mask=padding)
    assert torch.allclose(found["output"], expected, rtol=1e-12, atol=1e-12)


def test_layers_without_factors_keep_the_fast_path_and_dense_ones_get_it_back() -> None:
    net = encoder()
    with torch.no_grad():
        assert calls_of(net.layers[0].linear1, lambda: net(X)) == 0
    before = vars(net)["use_nested_tensor"]
    lr.apply_(net, plan(net, RANKS))
    with torch.no_grad():
        assert calls_of(net.layers[0].linear1, lambda: net(X)) == 0
        assert calls_of(net.layers[1].linear2, lambda: net(X)) == 1
        lr.to_dense_(net)
        assert calls_of(net.layers[1].linear2, lambda: net(X)) == 0
    assert vars(net)["use_nested_tensor"] == before


def test_calibration_with_padding_sees_every_layer() -> None:
    net = encoder()
    batch = {"src": X, "src_key_padding_mask": PADDING}
    task = lr.tasks.get_task("classification")
    found = lr.analyze(
        net,
        {"src": X[:1], "src_key_padding_mask": PADDING[:1]},
        calibration=[batch],
        chosen=lr.AnalysisOptions(metric="input"),
        task=task,
    )
    assert len(found.targets) == 2 * 6
    with torch.no_grad():
        assert net(**batch)[1, 3:].abs().max() == 0, "the nested tensors of the fast path"
        with opened(net):
            assert net(**batch)[1, 3:].abs().max() > 0


def roots() -> list[tuple[nn.Module, tuple[Tensor, ...]]]:
    torch.manual_seed(0)
    packed: list[tuple[nn.Module, tuple[Tensor, ...]]] = [
        (nn.MultiheadAttention(16, 2, batch_first=True), (X, X, X)),
        (nn.LSTM(16, 24, batch_first=True), (X,)),
        (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (X,)),
    ]
    return [(net.double(), given) for net, given in packed]


@pytest.mark.parametrize("place", range(3), ids=["attention", "lstm", "encoder layer"])
def test_a_packed_root_is_opened_and_stays_the_same_object(place: int, tmp_path: Path) -> None:
    net, given = roots()[place]
    example = tuple(tensor[:1] for tensor in given)
    chosen = lr.plan(net, lr.Fixed(4), example, metric="weight", methods=[lr.SVD()])
    done = lr.apply_(net, chosen)
    assert done.ran
    assert done.network is net
    lr.save(net, tmp_path)
    loaded = lr.load_(roots()[place][0], tmp_path)
    net.eval()
    with torch.no_grad():
        found, again = net(*given), loaded(*given)
    pairs = zip(found, again, strict=True) if isinstance(found, tuple) else [(found, again)]
    first, second = next(iter(pairs))
    assert torch.equal(first, second)
