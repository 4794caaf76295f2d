"""Causal language models: the next token at each place of a text."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipeline.lowrank.tasks.logits import Logits, logits_of, rows_of


class CausalLM(Logits):
    """The network reads token ids (N, T) and gives logits (N, vocabulary, T); those at padding
    count nowhere."""

    name = "causal_lm"
    unit = "nats per token"

    def rows(self, output: Any, mask: Tensor | None) -> Tensor:
        return rows_of(logits_of(output), mask)
