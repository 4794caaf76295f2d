"""Convolutions that pad their input as its size asks for, so that every stride gives an output
position: TensorFlow's SAME padding, which networks trained there need. torch's padding="same" is
another thing: it takes no stride, and is the same for inputs of all sizes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx, nn
from torch.nn import functional


class _Same(nn.modules.conv._ConvNd):
    def forward(self, input: Tensor) -> Tensor:  # named as in torch's own layers
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        geometry = self.kernel_size, self.stride, self.dilation
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(self.stride) - 1]
        padded = pad_same(input, *geometry)
        return convolve(padded, weight, bias, self.stride, 0, self.dilation, self.groups)


class Conv1dSame(_Same, nn.Conv1d):
    """A Conv1d with SAME padding; its `padding` is not read."""


class Conv2dSame(_Same, nn.Conv2d):
    """A Conv2d with SAME padding; its `padding` is not read."""


class Conv3dSame(_Same, nn.Conv3d):
    """A Conv3d with SAME padding; its `padding` is not read."""


SAME: dict[str, type[nn.Module]] = {
    "conv1d": Conv1dSame,
    "conv2d": Conv2dSame,
    "conv3d": Conv3dSame,
}


@fx.wrap  # torch.fx knows no sizes: there it is one call of the graph
def pad_same(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """x with the zeros around its last axes that SAME padding asks for."""
    pads = same_padding(x.shape[-len(kernel) :], kernel, stride, dilation)
    return functional.pad(x, [size for pair in reversed(pads) for size in pair])


def same_padding(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """(zeros before, zeros after) each axis of an image of these sizes; the odd one comes after."""
    missing = [
        max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True)
    ]
    return tuple((total // 2, total - total // 2) for total in missing)
