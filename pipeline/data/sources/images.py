"""Images: files or objects of Pillow → tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data.options import DataOptions
from pipeline.lowrank.errors import LowRankError, reason_of

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# Of more than eight bits a channel: Pillow would cut them off.
_DEEP = ("I", "F")


@dataclass(frozen=True)
class Format:
    """What images become: `size` (height, width) or None as they are, `resize` and `colour` as in
    the options of the data."""

    size: tuple[int, int] | None
    resize: str
    colour: str

    @staticmethod
    def of(options: DataOptions) -> Format:
        return Format(options.image_size, options.resize, options.colour)

    def tensor(self, image: Image, name: str) -> Tensor:
        """(channels, height, width) uint8. name: of the image, for messages."""
        if image.mode.split(";")[0] in _DEEP:
            raise LowRankError(
                f"{name}: has the mode {image.mode}, more than eight bits a channel; convert it, "
                "or give a data.transform that reads it"
            )
        turned = self._sized(self.coloured(image), masks=False)
        values = torch.from_numpy(np.array(turned))
        return values.unsqueeze(0) if values.dim() == 2 else values.permute(2, 0, 1).contiguous()

    def coloured(self, image: Image) -> Image:
        """The image in the colour that is asked for; a deep one as it is."""
        if image.mode.split(";")[0] in _DEEP:
            return image
        return image.convert("L" if self.colour == "grey" else "RGB")

    def mask(self, image: Image, name: str) -> Tensor:
        """(height, width) uint8, the class at each place."""
        if image.mode not in ("L", "P", "1"):
            raise LowRankError(
                f"{name}: has the mode {image.mode}; a mask has one channel of eight bits, the "
                "number of the class at each place"
            )
        if image.mode == "1":
            image = image.convert("L").point(lambda value: value // 255)
        return torch.from_numpy(np.array(self._sized(image, masks=True)))

    def _sized(self, image: Image, *, masks: bool) -> Image:
        """The image at the size; nothing is interpolated between classes."""
        if self.size is None:
            return image
        from PIL import Image as Pillow
        from PIL import ImageOps

        how = Pillow.Resampling.NEAREST if masks else Pillow.Resampling.BILINEAR
        (height, width) = self.size
        if self.resize == "squash":
            return image.resize((width, height), how)
        return (ImageOps.fit if self.resize == "crop" else ImageOps.pad)(
            image, (width, height), how
        )


def open_image(path: Path) -> Image:
    """The image of a file. Raises LowRankError, with its name, for a damaged one."""
    from PIL import Image as Pillow

    try:
        image = Pillow.open(path)
        image.load()
    except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError) as error:
        raise LowRankError(
            f"{path}: cannot be read as an image ({reason_of(error)}); remove it or save it again"
        ) from error
    return image


def is_image(value: Any) -> bool:
    """Whether a value is an image of Pillow, which is not imported for the question."""
    return any(cls.__module__.startswith("PIL.") for cls in type(value).__mro__)
