"""Spectra of the weights in training, from the states that the stage baseline kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

from torch import Tensor, nn

from pipeline.lowrank.analysis.history import WeightSpectra, weight_spectra
from pipeline.lowrank.forms.building import known_builder
from pipeline.lowrank.network.targets import Target
from pipeline.training.curve import read_curve
from pipeline.training.snapshots import INIT, training_states


def weights_in_training(
    folder: Path,
    model: nn.Module,
    names: Sequence[str],
    targets: Mapping[str, Target] = MappingProxyType({}),
    known: Mapping[str, Tensor] = MappingProxyType({}),
) -> WeightSpectra:
    """Spectra of the named layers at the start, in the snapshots and as they came out.

    folder: of the baseline stage; model: the network that loads from it; targets: facts of the
    layers, which say how stacks are stored; known: as of `weight_spectra`. Only the trained state
    is known, with the reason, of an imported network and of one that training never improved.
    """
    spectra = partial(weight_spectra, model, names, targets=targets, known=known)
    if not (folder / INIT).is_file():
        return spectra(absent="the weights were imported, not trained here")
    best = read_curve(folder).best
    step = best.step if best else 0
    if step == 0:
        return spectra(absent="training never improved on the initial weights")
    return spectra(step=step, earlier=training_states(folder, step, known_builder(model)))
