"""Networks of plain torch layers: what people write themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.zoo.entry import Entry, images, vectors
from benchmarks.zoo.torch_sequences import (
    CLASSES,
    WIDTH,
    Attention,
    ByHand,
    Cell,
    Encoder,
    EncoderDecoder,
    Recurrent,
)
from pipeline.lowrank.tasks import Custom, Task


class Bags(nn.Module):
    """An EmbeddingBag."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.hidden = nn.EmbeddingBag(300, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.hidden(self.bag(ids)).relu())


class UNet(nn.Module):
    """Down, across and up again by a transposed convolution; a class at each place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.down = nn.Conv2d(32, WIDTH, 3, stride=2, padding=1)
        self.across = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.up = nn.ConvTranspose2d(WIDTH, 32, 2, stride=2)
        self.last = nn.Conv2d(64, 32, 3, padding=1)
        self.head = nn.Conv2d(32, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.first(x).relu()
        low = self.across(self.down(high).relu()).relu()
        return self.head(self.last(torch.cat([high, self.up(low).relu()], 1)).relu())


class Autoencoder(nn.Module):
    """Convolutions down, transposed convolutions up."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, WIDTH, 4, 2, 1), nn.ReLU()
        )
        self.up = nn.Sequential(
            nn.ConvTranspose2d(WIDTH, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.up(self.down(x))
        return output


class Bilinear(nn.Module):
    """A Bilinear layer, whose weight is no matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.hidden = nn.Bilinear(16, 16, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.pair(x, x)).relu())


class SharedModule(nn.Module):
    """One layer that is called again and again, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(WIDTH, WIDTH)
        self.again, self.head = self.step, nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + self.step(x).tanh()
        return self.head(self.again(x))


class TwoInputs(nn.Module):
    """Two inputs by name, and a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(32, WIDTH), nn.Linear(16, WIDTH)
        self.both, self.head = nn.Linear(2 * WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        hidden = self.both(torch.cat([self.left(x).relu(), self.right(y).relu()], -1)).relu()
        return {"logits": self.head(hidden), "hidden": hidden}


def vgg() -> nn.Module:
    """Convolutions without normalisation, in-place activations, a wide layer behind them."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, WIDTH, 3, padding=1),
        nn.ReLU(True),
        nn.MaxPool2d(4),
        nn.Flatten(),
        nn.Linear(16 * WIDTH, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, CLASSES),
    )


def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(16, WIDTH, 5, padding="same"),
        nn.ReLU(),
        nn.Conv1d(WIDTH, WIDTH, 3, padding=1, padding_mode="circular", dilation=2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(WIDTH, CLASSES),
    )


def conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv3d(32, WIDTH, 3, stride=2),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(WIDTH, CLASSES),
    )


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(WIDTH, 2 * WIDTH),
        nn.GELU(),
        nn.Dropout(),
        nn.Linear(2 * WIDTH, WIDTH),
        nn.LayerNorm(WIDTH),
        nn.Linear(WIDTH, CLASSES),
    )


def regressor() -> nn.Module:
    """One number for each example."""
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1), nn.Flatten(0))


# {name: what it predicts}; the others classify.
_TASKS: dict[str, Task | str] = {
    "unet": "segmentation",
    "autoencoder": "reconstruction",
    "regressor": "regression",
    "two_inputs": Custom(output=["logits", "hidden"]),
}


def entries() -> list[Entry]:
    """All networks of plain torch, by name."""
    series = vectors(9, WIDTH)
    return [
        Entry(f"torch/{name}", make, batch, _TASKS.get(name, "classification"))
        for name, make, batch in (
            ("mlp", mlp, vectors(WIDTH)),
            ("linear", lambda: nn.Linear(WIDTH, CLASSES), vectors(WIDTH)),
            ("regressor", regressor, vectors(WIDTH)),
            ("lstm", lambda: Recurrent(nn.LSTM, 2), series),
            ("bidirectional_gru", lambda: Recurrent(nn.GRU, both=True), series),
            ("rnn", lambda: Recurrent(nn.RNN), series),
            ("lstm_cell", lambda: Cell(nn.LSTMCell), series),
            ("gru_cell", lambda: Cell(nn.GRUCell), series),
            ("attention", Attention, series),
            ("transformer_encoder", Encoder, series),
            ("transformer", EncoderDecoder, series),
            ("embedding_bag", Bags, lambda n: torch.randint(0, 300, (n, 7))),
            ("unet", UNet, images(16)),
            ("autoencoder", Autoencoder, images(16)),
            ("vgg", vgg, images(16)),
            ("bilinear", Bilinear, vectors(16)),
            ("conv1d", conv1d, vectors(16, 40)),
            ("conv3d", conv3d, vectors(3, 8, 8, 8)),
            ("shared_module", SharedModule, vectors(WIDTH)),
            ("by_hand", ByHand, series),
            (
                "two_inputs",
                TwoInputs,
                lambda n: {"x": torch.randn(n, 32), "y": torch.randn(n, 16)},
            ),
        )
    ]
