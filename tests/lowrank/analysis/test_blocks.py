"""Statistics of networks larger than memory: a block of layers at a time, of which the metrics go
to disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor, nn

from pipeline import lowrank as lr
from pipeline.lowrank.analysis import collecting
from pipeline.lowrank.analysis.files import load_analysis, save_analysis
from pipeline.lowrank.analysis.measurable import Measured
from pipeline.lowrank.analysis.moments import Moments
from pipeline.lowrank.analysis.stored import StoredMetrics
from pipeline.lowrank.network.targets import Target

DATA_METRICS = ["input", "fisher"]
SMALL = 2.5e-5  # GiB, little more than the convolution takes: three passes or four
X = torch.randint(0, 12, (10, 5), generator=torch.Generator().manual_seed(0)).split(4)


class Net(nn.Module):
    """Attention that is packed, a convolution, one weight in two places, and a layer that no
    gradient reaches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.mixed = nn.Embedding(12, 16), nn.MultiheadAttention(16, 2)
        self.conv, self.aside = nn.Conv1d(16, 16, 2), nn.Linear(16, 12, bias=False)
        self.head = nn.Linear(16, 12)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        x = torch.relu(x + self.mixed(x, x, x, need_weights=False)[0])
        x = self.conv(x.mT).mT
        out: Tensor = (self.head(x) + self.aside(x.detach()).detach()).mean(1)
        return out


def analyzed(
    metric: str,
    spill: Path | None = None,
    memory_gib: float = SMALL,
    damping: float = 0.1,
    model: nn.Module | None = None,
) -> lr.Analysis:
    chosen = lr.AnalysisOptions(
        metric=metric,  # type: ignore[arg-type]
        memory_gib=memory_gib,
        damping=damping,
        gradient_share=0.7,
    )
    return lr.analyze(model or Net(), calibration=X, chosen=chosen, spill=spill)


@contextmanager
def passes(most: int | None = None) -> Iterator[list[list[str]]]:
    """The targets of each pass over the data; after `most` of them the process is stopped."""
    found: list[list[str]] = []
    run = collecting._Pass.run

    def counted(self: collecting._Pass, *given: object) -> object:
        if len(found) == most:
            raise KeyboardInterrupt
        found.append(list(self.targets))
        return run(self, *given)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting._Pass, "run", counted)
        yield found


def assert_same(one: lr.Analysis, other: lr.Analysis) -> None:
    """To the bit."""
    assert list(one.spectra) == list(other.spectra) and one.skipped == other.skipped
    assert one.targets == other.targets and one.notes == other.notes
    for name, spectra in one.spectra.items():
        for key, view in spectra.views.items():
            assert torch.equal(view.eigenvalues, other.spectra[name].views[key].eigenvalues)
            assert torch.equal(view.basis, other.spectra[name].views[key].basis)
        for part, value in vars(one.metrics[name]).items():
            again = getattr(other.metrics[name], part)
            assert value is again is None or torch.equal(value, again)


@pytest.mark.parametrize("metric", DATA_METRICS)
def test_passes_and_files_change_no_bit(metric: str, tmp_path: Path) -> None:
    with passes() as one:
        plain = analyzed(metric, memory_gib=8.0)
    with passes() as several:
        spilled = analyzed(metric, tmp_path / "spill")
    assert len(one) == 1 < 3 <= len(several) and one[0] == [*chain(*several)]
    assert ("aside" in plain.skipped) == (metric == "fisher")
    assert_same(plain, spilled)
    assert_same(plain, analyzed(metric))
    save_analysis(tmp_path, spilled)
    read = load_analysis(tmp_path)
    assert_same(plain, read)
    plans = [lr.plan_from(Net(), found, lr.Budget(params=0.6)) for found in (plain, read)]
    assert plans[0].layers == plans[1].layers
    layers = [lr.apply_(Net(), plan, read).layers for plan in plans]
    assert layers[0] == layers[1] != {}


@pytest.mark.parametrize("metric", DATA_METRICS)
def test_a_stopped_analyze_takes_up_the_passes_that_it_finished(
    metric: str, tmp_path: Path
) -> None:
    with passes() as every:
        plain = analyzed(metric)
    with passes(most=2) as before, pytest.raises(KeyboardInterrupt):
        analyzed(metric, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == len([*chain(*before)]), "a metric each, or why there is none"
    with passes() as after:
        assert_same(plain, analyzed(metric, tmp_path))
    assert [*chain(*after)] == [*chain(*every[2:])], "no layer is measured again"
    assert {path: path.stat().st_mtime_ns for path in files} == files
    with passes() as none:
        assert_same(plain, analyzed(metric, tmp_path, memory_gib=8.0))
    assert none == []
    other = {"input": "fisher", "fisher": "input"}[metric]
    for name, damping in ((other, 0.1), ("fisher", 0.2)):
        found = analyzed(name, tmp_path, damping=damping)
        assert_same(analyzed(name, damping=damping), found)


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="Linux tells what is mapped")
def test_what_is_held_is_a_block_and_not_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sums of a pass are gone when the next one begins; metrics and spectra lie in files."""
    lr.save(Net(), tmp_path / "net")
    sums, alive, of = [], [], Measured.of

    def seen(target: Target, moments: Moments, *given: Any) -> Measured:
        alive.append(sum(one() is not None for one in sums))
        sums.append(ref(moments.inputs))
        return of(target, moments, *given)

    monkeypatch.setattr(Measured, "of", seen)
    model = lr.load_(Net(), tmp_path / "net", mapped=True)
    with passes() as every:
        found = analyzed("input", tmp_path / "spill", model=model)
    assert sum(one() is not None for one in sums) == 0 and max(alive) == 0 and len(every) == 3
    read = load_analysis(_saved(tmp_path / "analysis", found))
    mapped = _mapped_files()
    for one in (found, read):
        assert isinstance(one.metrics, StoredMetrics)
        views = [view for spectra in one.spectra.values() for view in spectra.views.values()]
        kept = [value for parts in one.metrics.parts.values() for value in parts.values()]
        for value in [*kept, *(view.basis for view in views)]:
            assert any(start <= value.data_ptr() < end for start, end in mapped)
    assert all(any(a <= p.data_ptr() < b for a, b in mapped) for p in model.parameters())


def _saved(folder: Path, analysis: lr.Analysis) -> Path:
    save_analysis(folder, analysis)
    return folder


def _mapped_files() -> list[tuple[int, int]]:
    """The places in memory where files of numbers are."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    found = [line.split()[0].split("-") for line in lines if line.endswith(".safetensors")]
    return [(int(start, 16), int(end, 16)) for start, end in found]
