"""Networks of plain torch layers over series: recurrent ones, attention, weights read by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, CLASSES = 64, 10


class Recurrent(nn.Module):
    """A recurrent layer over a series, and its last state read by a head."""

    def __init__(self, kind: type[nn.RNNBase], layers: int = 1, *, both: bool = False) -> None:
        super().__init__()
        self.layer = kind(WIDTH, WIDTH, num_layers=layers, batch_first=True, bidirectional=both)
        self.head = nn.Linear(WIDTH * (2 if both else 1), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x)[0]
        return self.head(output[:, -1])


class Cell(nn.Module):
    """A cell that a loop of the network's own drives."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.cell, self.into = kind(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), WIDTH)
        memory = state
        for step in self.into(x).unbind(1):
            if isinstance(self.cell, nn.LSTMCell):
                state, memory = self.cell(step, (state, memory))
            else:
                state = self.cell(step, state)
        return self.head(state)


class Attention(nn.Module):
    """MultiheadAttention on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.after, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.attention(x, x, x)[0]).mean(1))


class Encoder(nn.Module):
    """torch's TransformerEncoder, whose fast path reads weights directly."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True)
        self.encoder, self.into = nn.TransformerEncoder(layer, 2), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.into(x)).mean(1))


class EncoderDecoder(nn.Module):
    """torch's Transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Transformer(WIDTH, 4, 1, 1, 2 * WIDTH, batch_first=True)
        self.into, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.transformer(self.into(x), x).mean(1))


class ByHand(nn.Module):
    """Weights of layers, and a parameter of its own, multiplied by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Parameter(torch.randn(WIDTH, WIDTH) / 8)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = functional.linear(x, self.qkv.weight).chunk(3, -1)
        return self.head((functional.scaled_dot_product_attention(q, k, v) @ self.out).mean(1))
