"""Layers that are on disk as soon as they are factorized: a stopped run is taken up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline import lowrank as lr
from pipeline.lowrank.factorize.layer import LayerFactorization

X = torch.randn(1, 12, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 12, bias=False)]
    return nn.Sequential(*layers).to(torch.bfloat16)


def test_a_stopped_apply_is_taken_up_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example, model = X.bfloat16(), net()
    plan = lr.plan(model, lr.Fixed(ranks=0.5), example, methods=[lr.PivotedSVD()])
    plain = lr.apply_(net(), plan)
    found, build = [], LayerFactorization.built

    def built(self: LayerFactorization) -> nn.Module:
        if len(found) == 2:
            raise KeyboardInterrupt
        found.append(self.name)
        return build(self)

    with monkeypatch.context() as patch:
        patch.setattr(LayerFactorization, "built", built)
        with pytest.raises(KeyboardInterrupt):
            lr.apply_(model, plan, spill=tmp_path)
        assert found == ["0", "2"] and type(model[0]) is nn.Linear
        found[:] = ["0"]  # one more may be built
        done = lr.apply_(model, plan, spill=tmp_path)
    assert found == ["0", "3"], "two of three are not computed again"
    assert done.layers == plain.layers
    assert torch.equal(done.network(example), plain.network(example))
    assert [p.requires_grad for p in model.parameters()] == [True] * len(list(model.parameters()))
    file = sorted(tmp_path.iterdir())[0]
    whole = file.read_bytes()
    file.unlink()  # and not written over: the network reads from it
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 64]))
    with pytest.warns(UserWarning, match="its content is not what was written; it was removed"):
        again = lr.apply_(net(), plan, spill=tmp_path)
    assert torch.equal(again.network(example), plain.network(example))
    other = lr.plan(net(), lr.Fixed(ranks=0.25), example, methods=[lr.PivotedSVD()])
    apart = lr.apply_(net(), other, spill=tmp_path)
    assert apart.layers == lr.apply_(net(), other).layers, "of other ranks nothing is taken up"
