"""Networks to compress: a configurable residual CNN."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from pipeline.lowrank.errors import LowRankError


class ResidualBlock(nn.Module):
    """relu(bn(conv3x3(relu(bn(conv3x3(x))))) + shortcut(x)); shortcut is 1x1 where shapes differ.

    x: (N, inputs, H, W) → (N, outputs, ⌈H/stride⌉, ⌈W/stride⌉).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        # The block starts as its shortcut, which makes short trainings with high rates stable.
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        y += self.shortcut(x)
        return functional.relu(y, inplace=True)


class ResNet(nn.Module):
    """Stem, one group of residual blocks a width (each but the first halves the image), dense head.

    The head averages the image down to `pool` × `pool` and has one hidden layer, so that there
    are dense matrices beside the kernels (`hidden` = 0 leaves a single one).

    x: (N, in_channels, H, W) → logits (N, classes). H and W must be such that the last feature
    map can be cut into `pool` × `pool` equal tiles.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        classes: int = 10,
        widths: Sequence[int] = (32, 64, 128),
        blocks: Sequence[int] = (1, 1, 1),
        hidden: int = 128,
        pool: int = 1,
        stem_kernel: int = 3,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        if len(widths) != len(blocks) or not widths:
            raise LowRankError(
                f"model: widths={list(widths)} and blocks={list(blocks)} must name the same "
                "number of groups; give one number of blocks a width"
            )
        for name, size in (("pool", pool), ("stem_stride", stem_stride), ("classes", classes)):
            if size < 1:
                raise LowRankError(f"model.{name}={size}: choose a number of at least 1")
        self.pool = pool
        self.stem = nn.Sequential(
            nn.Conv2d(
                in_channels, widths[0], stem_kernel, stem_stride, stem_kernel // 2, bias=False
            ),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        groups = []
        channels = widths[0]
        for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for number in range(count):
                groups.append(ResidualBlock(channels, width, 2 if index and not number else 1))
                channels = width
        self.blocks = nn.Sequential(*groups)
        features = channels * pool * pool
        self.head = (
            nn.Sequential(
                nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, classes)
            )
            if hidden
            else nn.Linear(features, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        height, width = x.shape[-2:]
        # To a tracer sizes are no numbers: nothing of the check is in its graph.
        if isinstance(height, int) and min(height, width) < self.pool:
            raise LowRankError(
                f"model.pool={self.pool}: the last feature map is {height}×{width}; choose a "
                "smaller pool, or fewer widths"
            )
        # Not adaptive_avg_pool2d: its backward pass on a GPU is not deterministic.
        x = functional.avg_pool2d(x, (height // self.pool, width // self.pool))
        logits: Tensor = self.head(x.flatten(1))
        return logits
