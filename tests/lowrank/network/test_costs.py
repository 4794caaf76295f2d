"""Padding: the places of a batch that a network's statistics leave out."""

from __future__ import annotations

import torch

from pipeline.lowrank.network.calling import padding_mask


def test_padding_is_read_from_both_forms_of_a_batch() -> None:
    ids = torch.tensor([[5, 0, 7], [3, -1, -1]])
    expected = torch.tensor([[True, True, True], [True, False, False]])
    mask = padding_mask(ids)
    assert mask is not None and torch.equal(mask, expected)
    mask = padding_mask({"input_ids": ids.clamp(min=0), "attention_mask": expected.long()})
    assert mask is not None and torch.equal(mask, expected)
    assert padding_mask(torch.zeros(2, 3)) is None
    mask = padding_mask({"input_ids": ids})
    assert mask is not None and torch.equal(mask, expected), "negative ids are padding by name too"
    assert padding_mask({"input_values": torch.zeros(2, 3)}) is None
    # Of two texts of one length a layer's positions could be either's.
    assert padding_mask({"input_ids": ids, "decoder_input_ids": ids}) is None
    mask = padding_mask({"input_ids": ids, "decoder_input_ids": ids[:, :2]})
    assert mask is not None and torch.equal(mask, expected)
