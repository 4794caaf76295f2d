"""A split of several inputs and labels is what its parts are; its names on disk lead back to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.data.files import example_input
from pipeline.data.splits import Channels, Split, TokenSplit, named, unnamed
from pipeline.lowrank.network.calling import PADDING
from pipeline.lowrank.tasks import Classification
from pipeline.lowrank.tasks.base import Examples

X, Y = torch.rand(5, 2, 3), torch.randint(0, 256, (5, 4), dtype=torch.uint8)


def test_each_input_is_normalised_by_its_own_channels() -> None:
    channels = {"inputs.x": Channels((1.0, 2.0), (0.5, 4.0))}
    split = Split({"x": X, "y": Y, "ids": torch.arange(5)}, None, channels)
    inputs, labels = split.batch(torch.tensor([3, 1]))
    alone, _ = Split(X, None, {"inputs": channels["inputs.x"]}).batch(torch.tensor([3, 1]))
    assert torch.equal(inputs["x"], alone)
    assert torch.allclose(inputs["y"], Y[[3, 1]] / 255)
    assert inputs["ids"].tolist() == [3, 1]
    assert labels is None and len(split) == 5


def test_what_is_stored_is_not_what_a_network_may_write_into() -> None:
    stored = X.clone()
    Split(stored).batch(slice(0, 3))[0].zero_()
    assert torch.equal(stored, X)


@pytest.mark.parametrize("values", [X, {"a": X, "b": Y}, None])
def test_names_on_disk_lead_back(values: Any) -> None:
    stored = named("labels", values) | {"inputs": X}
    again = unnamed("labels", stored)
    assert (again is None) == (values is None)
    assert named("labels", again).keys() == named("labels", values).keys()


def test_several_are_followed_by_several() -> None:
    split = Split({"x": X, "y": Y}, {"class": torch.arange(5)})
    both = split.followed_by(split)
    assert len(both) == 10
    assert isinstance(both.labels, dict) and both.labels["class"].tolist() == [*range(5)] * 2


def test_tokens_are_cut_only_where_no_label_stands_at_each_of_them() -> None:
    ids = torch.tensor([[4, 5, PADDING, PADDING], [6, PADDING, PADDING, PADDING]])
    cut, _ = TokenSplit(ids, torch.tensor([0, 1])).batch(slice(None))
    whole, labels = TokenSplit(ids, ids.clone()).batch(slice(None))
    assert cut.shape == (2, 2)
    assert whole.shape == labels.shape == (2, 4)


def test_an_example_has_the_shape_and_type_of_each_input() -> None:
    examples = Examples(
        "mine", {"x": (2, 3), "ids": (7,)}, 2, dtype={"x": "float32", "ids": "int64"}
    )
    example: dict[str, Tensor] = example_input(examples, Classification())
    assert {k: (tuple(v.shape), v.dtype) for k, v in example.items()} == {
        "x": ((1, 2, 3), torch.float32),
        "ids": ((1, 7), torch.int64),
    }
