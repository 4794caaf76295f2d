"""Spectra of the weights in training, from the states that the stage baseline kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from pipeline.lowrank.analysis.history import WeightSpectra, weight_spectra
from pipeline.training.curve import read_curve
from pipeline.training.snapshots import INIT, training_states


def weights_in_training(folder: Path, model: nn.Module, names: Sequence[str]) -> WeightSpectra:
    """Spectra of the named layers at the start, in the snapshots and as they came out.

    folder: of the baseline stage; model: the network that loads from it. Only the trained state
    is known, with the reason, of an imported network and of one that training never improved.
    """
    if not (folder / INIT).is_file():
        return weight_spectra(model, names, absent="the weights were imported, not trained here")
    best = read_curve(folder).best
    step = best.step if best else 0
    if step == 0:
        return weight_spectra(model, names, absent="training never improved on the initial weights")
    return weight_spectra(model, names, step=step, earlier=training_states(folder, step))
