"""Data sets of Hugging Face's library `datasets`: by their name, or in a local folder."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

from pipeline.data.sources.dataset import read_parts
from pipeline.data.sources.raw import RawData, Request
from pipeline.data.sources.sounds import read_sound
from pipeline.lowrank.errors import LowRankError
from pipeline.machine.checksums import check_sha256, content_sha256
from pipeline.machine.fetching import DATASETS

_TEST = "test"
_WHOLE = "train"


def read_hub(request: Request) -> RawData:
    """`data.path`: a folder (of `save_to_disk`, or of files that `load_dataset` reads), or
    datasets:NAME[:CONFIG[:SPLIT]]. Columns are chosen by `data.columns`, `data.inputs` and
    `data.labels`; images are Pillow's, sounds are read by soundfile; classes are numbered as the
    data set does. A split "test" is the test split, where no other split was asked for.
    """
    options = request.options
    if options.path is None:
        raise LowRankError(
            "data.path is null: the source hub needs a folder, or datasets:NAME; set data.path"
        )
    found, title, sha256 = load(options.path, options.sha256)
    test = None
    if isinstance(found, dict):
        if _WHOLE not in found and len(found) > 1:
            raise LowRankError(
                f"{options.path}: has the splits {', '.join(found)} and none called {_WHOLE}; name "
                "one, datasets:NAME:CONFIG:SPLIT"
            )
        test = found.get(_TEST) if _WHOLE in found else None
        found = found.get(_WHOLE, next(iter(found.values())))
    label = options.labels[0] if options.labels else _label(found)
    rest = None if test is None else _Opened(test, label)
    return read_parts(request, _Opened(found, label), rest, title, sha256)


def load(path: str, sha256: str | None) -> tuple[Any, str, dict[str, str]]:
    """(a Dataset, or a dict of them by split; a title; {title: checksum}) of what lies at `path`.

    A data set by its name has the checksum that the library keeps of its content.
    """
    try:
        import datasets
    except ImportError as error:
        raise LowRankError(f"{path}: needs pip install 'lowrank-pipeline[transformers]'") from error
    try:
        if path.startswith(DATASETS):
            title = path.removeprefix(DATASETS)
            name, config, split = (*title.split(":"), "", "")[:3]
            found = datasets.load_dataset(name, config or None, split=split or None)
            actual = _fingerprint(found)
        else:
            place = Path(path)
            if not place.exists():
                raise LowRankError(f"data.path={path}: no such folder; correct data.path")
            title, actual = place.name, content_sha256(place)
            read = datasets.load_from_disk if is_saved(place) else datasets.load_dataset
            found = read(str(place))
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise LowRankError(
            f"{path}: cannot be loaded ({reason}); give a local folder in data.path instead"
        ) from error
    if sha256 is not None:
        check_sha256(path, actual, sha256, "it is another version: correct the checksum, or null")
    return found, title, {title: actual}


def is_saved(place: Path) -> bool:
    """Whether a folder is one that the library saved."""
    return any((place / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _fingerprint(found: Any) -> str:
    parts = found.values() if isinstance(found, dict) else [found]
    text = "\n".join(str(part.info.download_checksums or part._fingerprint) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()


def _label(dataset: Any) -> str | None:
    return next((name for name in ("labels", "label") if name in dataset.features), None)


class _Opened:
    """The rows of a data set; sounds are decoded, and the classes have the names of its
    features."""

    def __init__(self, dataset: Any, label: str | None) -> None:
        from datasets import Audio

        self._sounds = [k for k, v in dataset.features.items() if isinstance(v, Audio)]
        for name in self._sounds:
            dataset = dataset.cast_column(name, Audio(decode=False))
        self._dataset = dataset
        feature = dataset.features.get(label) if label else None
        feature = getattr(feature, "feature", feature)  # of a list of classes
        names = getattr(feature, "names", None)
        self.classes = list(names) if names else None

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row: dict[str, Any] = self._dataset[number]
        for name in self._sounds:
            content = row[name]["bytes"]
            row[name] = read_sound(io.BytesIO(content) if content else Path(row[name]["path"]))
        return row
