"""What a model is given and gives: padding and the place of the classes."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch.nn import functional

from pipeline.lowrank.network.calling import padding_mask, prediction_rows


def test_padding_is_read_from_both_forms_of_a_batch() -> None:
    ids = torch.tensor([[5, 0, 7], [3, -1, -1]])
    expected = torch.tensor([[True, True, True], [True, False, False]])
    mask = padding_mask(ids)
    assert mask is not None and torch.equal(mask, expected)
    mask = padding_mask({"input_ids": ids.clamp(min=0), "attention_mask": expected.long()})
    assert mask is not None and torch.equal(mask, expected)
    assert padding_mask(torch.zeros(2, 3)) is None
    assert padding_mask({"input_ids": ids}) is None


def test_rows_of_predictions_have_their_classes_last_and_no_padding() -> None:
    """Both forms of logits give the loss that torch computes with its ignored labels."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 11, generator=generator)
    batch = torch.tensor([[5, 0, 7], [3, -1, -1]])
    labels = torch.tensor([[1, 2, 3], [4, -100, -100]])
    expected = functional.cross_entropy(logits.transpose(1, 2), labels)
    for output in (logits.transpose(1, 2), SimpleNamespace(logits=logits)):
        rows = prediction_rows(output, batch)
        assert rows.shape == (4, 11)
        torch.testing.assert_close(functional.cross_entropy(rows, labels[labels >= 0]), expected)
    flat = torch.randn(2, 11, generator=generator)
    assert torch.equal(prediction_rows(flat, batch), flat), "one prediction a sequence"
