"""A folder of images or sounds: by class, with masks, or without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.data.sources import images, sounds
from pipeline.data.sources.images import Format, open_image
from pipeline.data.sources.items import Collector, Reader, Reservoir
from pipeline.data.sources.raw import RawData, Request
from pipeline.data.sources.sounds import read_sound
from pipeline.data.splits import Values
from pipeline.lowrank.errors import LowRankError
from pipeline.machine.checksums import check_sha256, content_sha256

_SUFFIXES = (*images.SUFFIXES, *sounds.SUFFIXES)
_IMAGES, _MASKS = "images", "masks"
# Folders of these names are splits, not classes.
_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}
_Labelled = tuple[Path, Any]  # a file, and its class, its mask or None


def read_image_folder(request: Request) -> RawData:
    """`data.path` holds a folder for each class; or `images` and `masks`, whose files have the same
    names but for their suffixes, a mask being the number of the class at each place; or files
    without labels. `data.test_path` is the same for a test split of its own.

    Images become (channels, height, width) bytes of `data.size` and `data.colour`, if no transform
    or processor reads them; sounds (channels, samples) float32.
    """
    options = request.options
    if options.path is None:
        raise LowRankError("data.path is null: the source image_folder needs a folder; set it")
    reader = Reader(options)
    sha256: dict[str, str] = {}
    parts: list[tuple[Values, Values | None]] = []
    names: Sequence[str] | None = options.class_names
    given, numbered = names is not None, None
    for part, path, pin in (
        ("", options.path, options.sha256),
        ("test", options.test_path, options.test_sha256),
    ):
        if path is None:
            continue
        folder = _checked(path, pin, sha256, f"data.{part}{'_' if part else ''}path")
        collector = _collected(request, reader, folder, part)
        inputs, labels, numbering = collector.finish(names)
        parts.append((inputs, labels))
        if numbering is not None:
            names = numbered = numbering.names
    test = parts[1] if len(parts) > 1 else (None, None)
    return RawData(
        inputs=parts[0][0],
        labels=parts[0][1],
        class_names=None if numbered is None else list(numbered),
        sha256=sha256,
        source=Path(options.path).name,
        test_inputs=test[0],
        test_labels=test[1],
        complete=not given,
        transformed=reader.transformed,
        preprocessing=reader.preprocessing(),
    )


def _checked(path: str, pin: str | None, sha256: dict[str, str], key: str) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise LowRankError(f"{key}={path}: no such folder; correct {key}")
    actual = content_sha256(folder)
    if pin is not None:
        check_sha256(path, actual, pin, f"it is another version: correct {key[:-4]}sha256, or null")
    sha256[folder.name] = actual
    return folder


def _collected(request: Request, reader: Reader, folder: Path, part: str) -> Collector:
    collector = Collector(request, folder.name, part)
    found = _files(folder, request.task.labels)
    # A test split of its own is used whole.
    reservoir = Reservoir(None if part else request.options.limit, request.seed)
    taken = {}
    for number, one in enumerate(found):
        if (place := reservoir.place(number)) is not None:
            taken[place] = one
    format = Format.of(request.options)
    for place, (file, label) in sorted(taken.items()):
        name = str(file.relative_to(folder))
        inputs = reader(_opened(file), name)
        mask = isinstance(label, Path)
        collector.put(place, inputs, _mask(format, label, folder) if mask else label)
    return collector


def _opened(file: Path) -> Any:
    sound = file.suffix.lower() in sounds.SUFFIXES
    return read_sound(file) if sound else open_image(file)


def _mask(format: Format, file: Path, folder: Path) -> torch.Tensor:
    return format.mask(open_image(file), str(file.relative_to(folder))).to(torch.int64)


def _files(folder: Path, kind: str | None) -> list[_Labelled]:
    inner = sorted(place for place in folder.iterdir() if place.is_dir())
    names = [place.name for place in inner]
    if names == [_IMAGES, _MASKS]:
        if kind in ("class", "classes"):
            raise LowRankError(
                f"{folder}: has masks, a class at each place, and this task wants one for each "
                "image; choose task=segmentation, or a folder for each class"
            )
        return _with_masks(folder)
    if not inner:
        return [(file, None) for file in _media(folder, folder)]
    if kind == "class map":
        raise LowRankError(
            f"{folder}: this task wants a class at each place; put the images into {_IMAGES}/ and "
            f"their masks into {_MASKS}/, or choose task=classification"
        )
    if _SPLITS.issuperset(name.lower() for name in names):
        raise LowRankError(
            f"{folder}: {', '.join(names)} are splits, not classes; give one of them in data.path "
            "and the test split in data.test_path"
        )
    loose = [file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES]
    if loose:
        raise LowRankError(
            f"{loose[0]}: lies beside the folders of the classes; move it into one of them"
        )
    return [(file, place.name) for place in inner for file in _media(place, folder)]


def _media(place: Path, folder: Path) -> list[Path]:
    """The files of a folder and of those in it; other files are refused, none is left out."""
    files = sorted(p for p in place.rglob("*") if p.is_file() and not p.name.startswith("."))
    for file in files:
        if file.suffix.lower() not in _SUFFIXES:
            raise LowRankError(
                f"{file}: neither an image nor a sound ({', '.join(_SUFFIXES)}); remove it"
            )
    if not files:
        raise LowRankError(f"{place}: holds no images; give some, or remove the folder")
    return files


def _with_masks(folder: Path) -> list[_Labelled]:
    masks = {file.stem: file for file in _media(folder / _MASKS, folder)}
    files = _media(folder / _IMAGES, folder)
    for file in files:
        if file.stem not in masks:
            raise LowRankError(f"{file}: has no mask in {folder / _MASKS}; give it one of its name")
    unused = masks.keys() - {file.stem for file in files}
    if unused:
        raise LowRankError(f"{masks[sorted(unused)[0]]}: belongs to no image; remove it")
    return [(file, masks[file.stem]) for file in files]
