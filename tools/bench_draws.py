"""What a ticket is worth by the epoch of its draw: at a large and a small learning rate, and searched in few bits.

    python tools/bench_draws.py [--seeds 0 1 2] [--searches large small int8 bf16]
    python tools/bench_draws.py --table

After You et al. 2020, arXiv:1909.11957, section 3.1, at the size of `studies/early-bird-60.toml`: VGG-8 of width 16,
10,000 Fashion-MNIST images of 14 x 14, half of the channels. The dense network is trained for 60 epochs under early
bird's penalty, at 0.1 (`large`) or at 0.01 (`small`), a tenth of it from half of the epochs on and a hundredth from
three quarters on. At some epochs a copy is cut by its gammas, as early bird cuts, and retrained for 30 epochs by one
recipe at 0.1, whatever it comes from: with the weights that it inherits, and with fresh ones. Test %, last epoch.
"""

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from bench_settling import EPOCHS, IMAGES, PIXELS
from rows import Row, append, read

from slimkit import data, training, zoo
from slimkit.channels import Graph, trace
from slimkit.measure import quality
from slimkit.methods.early_bird import early, pull_of
from slimkit.methods.observer import EarlyBird
from slimkit.methods.penalised import strength_of
from slimkit.methods.shrink import lowered, on_cpu
from slimkit.selection.mask import Mask
from slimkit.surgery.remove import remove
from slimkit.training import Hook, Run, low_precision, penalise_gamma_

RATIO, RETRAINED = 0.5, 30
DRAWS = (2, 5, 10, 20, 30, 45, 60)
SEARCHES: dict[str, dict[str, Any]] = {
    "large": {"learning_rate": 0.1},
    "small": {"learning_rate": 0.01},
    "int8": {"learning_rate": 0.1, "precision": "int8-emulated"},
    "bf16": {"learning_rate": 0.1, "precision": "bf16"},
}
Drawn = dict[int, tuple[Mask, torch.nn.Module]]


def fresh(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return zoo.vgg8(width=16, in_channels=1)


def searched(split: data.Split, graph: Graph, seed: int, learning_rate: float, precision: str = "fp32") -> Drawn:
    """Train the dense network to its end; return the mask and a copy of the network at every epoch of a draw."""
    recipe = training.Recipe(
        epochs=EPOCHS, learning_rate=learning_rate, schedule="step", seed=seed, precision="fp32", device="cpu"
    )
    steps = len(split) // recipe.batch_size
    counted, last = early(recipe, steps)
    strength = strength_of(counted, steps, pull_of(RATIO), last)
    drawn: Drawn = {}

    def draw(run: Run) -> None:
        epoch, rest = divmod(run.step, steps)
        if rest == 0 and epoch in DRAWS:
            net = on_cpu(run.model)
            low_precision.restore_(net)
            bird = EarlyBird(graph, RATIO)
            bird.observe(net)
            drawn[epoch] = bird.latest, net

    hook = Hook(gradients=lambda run: penalise_gamma_(run.model, strength), after_step=draw)
    training.train(lowered(fresh(seed), precision), split, recipe, hooks=[hook])
    return drawn


def retrained(dataset: data.Dataset, net: torch.nn.Module, seed: int) -> float:
    """Train a small network by the one recipe; return its accuracy on test."""
    recipe = training.Recipe(epochs=RETRAINED, schedule="step", seed=seed, precision="fp32", device="cpu")
    net = training.train(net, dataset.train, recipe).model.eval()
    assert dataset.test is not None
    return quality.quality(net, dataset.test, dataset.task)


def rows(dataset: data.Dataset, search: str, seed: int) -> list[Row]:
    """Return a row a draw and kind of weights."""
    graph = trace(fresh(seed), torch.randn(1, 1, PIXELS, PIXELS))
    found = []
    for epoch, (mask, dense) in searched(dataset.train, graph, seed, **SEARCHES[search]).items():
        for weights, source in (("inherited", dense), ("fresh", fresh(seed + 1000))):
            about: Row = {"search": search, "seed": seed, "epoch": epoch, "weights": weights}
            found.append(about | {"test": retrained(dataset, remove(source, graph, mask), seed)})
    return found


def table(found: list[Row]) -> str:
    """Return a markdown table, a row a search and kind of weights, a column a draw: mean, lowest, highest."""
    lines = ["| search | weights | seeds | " + " | ".join(f"drawn at epoch {epoch}" for epoch in DRAWS) + " |"]
    lines += ["|" + " --- |" * (3 + len(DRAWS))]
    for search, weights in dict.fromkeys((row["search"], row["weights"]) for row in found):
        of = [row for row in found if (row["search"], row["weights"]) == (search, weights)]
        cells = []
        for epoch in DRAWS:
            tests = [100 * row["test"] for row in of if row["epoch"] == epoch]
            cells.append(f"{fmean(tests):.2f} ({min(tests):.1f} to {max(tests):.1f})")
        lines.append(f"| {search} | {weights} | {len({row['seed'] for row in of})} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--searches", nargs="+", choices=tuple(SEARCHES), default=list(SEARCHES))
    parser.add_argument("--out", type=Path, default=Path("docs/results/data/bench_draws.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what is there, measure nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    dataset = data.smaller(data.open("fashion-mnist"), IMAGES, PIXELS)
    cases = [(seed, search) for seed in given.seeds for search in given.searches]
    for seed, search in [] if given.table else cases:
        if not any((row["seed"], row["search"]) == (seed, search) for row in read(given.out)):
            for row in rows(dataset, search, seed):
                append(given.out, row)
    print(table(read(given.out)))


if __name__ == "__main__":
    main()
