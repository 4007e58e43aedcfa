"""Throughput of the training loop against a bare PyTorch loop: same data, network, precision, optimizer.

    python tools/bench_loop.py --arch resnet20 --data fashion-mnist

The two take turns, a few steps each, in one process: CPU seconds on a CPU, wall seconds on a GPU.
"""

import argparse
import statistics
import time
from contextlib import nullcontext
from itertools import islice

import torch
from torch.nn import functional as F

from slimkit import data, zoo
from slimkit.data import Dataset
from slimkit.hardware import pick_device, pick_precision
from slimkit.training import Hook, Recipe, Run, make_optimizer, penalise_gamma_, train


def bare(arch: str, dataset: Dataset, steps: int, device: torch.device, precision: str) -> float:
    """Return the seconds of `steps` steps after a warm-up, in the shortest loop that does the same work."""
    model = make(arch, dataset).to(device, memory_format=torch.channels_last).train()
    optimizer = make_optimizer(model, Recipe(epochs=1, learning_rate=0.05, momentum=0.9, weight_decay=5e-4))
    dtype = pick_precision(precision, device)
    batches = dataset.train.batches(128, seed=0, augment=True)
    began = 0.0
    for number, (images, labels) in enumerate(islice(batches, steps + 3)):
        if number == 3:
            began = clock(device)
        images = images.to(device).contiguous(memory_format=torch.channels_last)
        narrow = torch.autocast(device.type, dtype) if dtype != torch.float32 else nullcontext()
        with narrow:
            value = F.cross_entropy(model(images).float(), labels.to(device))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return clock(device) - began


def ours(arch: str, dataset: Dataset, steps: int, device: torch.device, precision: str, l1: bool) -> float:
    """Return the seconds of the same steps in slimkit's loop, with the penalty on gamma if asked for."""
    times: list[float] = []

    def watch(run: Run) -> None:
        if run.step in (3, steps + 3):
            times.append(clock(device))
        if run.step == steps + 3:
            raise Enough

    gradients = (lambda run: penalise_gamma_(run.model, 1e-3)) if l1 else None
    recipe = Recipe(epochs=1, batch_size=128, learning_rate=0.05, device=device.type, precision=precision)
    try:
        train(make(arch, dataset), dataset.train, recipe, hooks=[Hook(after_step=watch, gradients=gradients)])
    except Enough:
        return times[1] - times[0]
    raise SystemExit(f"an epoch has fewer than {steps + 3} steps: give a smaller --steps")


class Enough(Exception):
    """Ends a run after the steps that are timed."""


def make(arch: str, dataset: Dataset) -> torch.nn.Module:
    torch.manual_seed(0)
    return zoo.ARCHITECTURES[arch](num_classes=dataset.classes, in_channels=dataset.input_shape[0])


def clock(device: torch.device) -> float:
    """Return seconds: of this process on a CPU, of the wall on a GPU, all its work done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet20")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--data-root")
    parser.add_argument("--steps", type=int, default=20, help="timed steps a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = pick_device("auto")
    dataset = data.open(options.data, options.data_root)
    common = (options.arch, dataset, options.steps, device, options.precision)
    turns = [(bare(*common), ours(*common, l1=False), ours(*common, l1=True)) for _ in range(options.turns)]
    dtype = pick_precision(options.precision, device)
    print(f"{options.arch}, {options.data}, batch 128, {device.type}, {dtype}")
    for name, column in zip(("bare loop", "slimkit", "slimkit with penalty"), zip(*turns, strict=True), strict=True):
        shares = [turn[0] / own for turn, own in zip(turns, column, strict=True)]
        milliseconds = 1e3 * statistics.median(column) / options.steps
        print(
            f"{name:21} {milliseconds:8.2f} ms a step   throughput {statistics.median(shares):.3f} of bare "
            f"({min(shares):.3f} to {max(shares):.3f}, {options.turns} turns)"
        )


if __name__ == "__main__":
    main()
