"""Seconds and tightness of the certified error bounds of a ResNet-18 on 32×32 images.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.bounds [--threads 2] [--examples 64] [--profile]

11 M seeded weights, BatchNorm statistics of the examples, every layer cut to half its
parameters or less.
"""

from __future__ import annotations

import argparse
import copy
import cProfile
import pstats
import time

import torch
from torch import nn

from pipeline.lowrank import SVD, Compute, apply_, plan
from pipeline.lowrank.bounds import Bounds, certify
from pipeline.models.resnet import ResNet


def resnet18(images: torch.Tensor) -> nn.Module:
    """A ResNet-18 as for CIFAR: a 3×3 stem, four groups of two blocks, one dense layer behind the
    average."""
    torch.manual_seed(0)
    model = ResNet(in_channels=3, widths=(64, 128, 256, 512), blocks=(2, 2, 2, 2), hidden=0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            layer.momentum = None  # an average over all batches
    with torch.no_grad():
        model.train()(images)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--profile", action="store_true", help="and the slowest functions")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = torch.randn(options.examples, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    dense = resnet18(images)
    chosen = plan(dense, Compute(compression_ratio=2.0), images[:1], methods=[SVD()])
    done = apply_(copy.deepcopy(dense), chosen)
    profiler = cProfile.Profile()
    wall, processor = time.perf_counter(), time.process_time()
    if options.profile:
        profiler.enable()
    found = certify(dense, done.network, images, list(done.layers))
    profiler.disable()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{wall:.1f} s, {processor:.1f} s of processor time, {options.threads} threads")
    show(found)
    if options.profile:
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(40)


def show(found: Bounds) -> None:
    print("| layer | bound | measured | tightness | by |\n|---|---|---|---|---|")
    for name, layer in found.layers.items():
        figures = f"{layer.bound:.4f} | {layer.measured:.4f} | {layer.tightness:.2f}"
        print(f"| {name} | {figures} | {layer.theorem} |")
    network = found.network
    assert network.certificate is not None and network.tightness is not None
    print(
        f"network: measured {network.measured.max:.4g}, certified "
        f"{network.certificate.max:.4g} (tightness {network.tightness.median:.2g}), "
        f"worst case {network.worst_case:.4g}"
    )


if __name__ == "__main__":
    main()
