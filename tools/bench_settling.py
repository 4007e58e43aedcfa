"""When masks of early bird settle, and how far they then are from those of the end of the training.

    python tools/bench_settling.py [--ratios 0.3 0.5 0.7] [--seeds 0 1] [--pulls 1] [--epochs 60]
    python tools/bench_settling.py --table

VGG-8 of width 16, 10,000 Fashion-MNIST images of 14 x 14, 60 or 160 epochs, a tenth of the learning rate from half of
them on: what `studies/early-bird-60.toml` and `studies/early-bird-160.toml` train. Here nothing is cut: the dense
network is trained to the end under the penalty of early bird, and the masks of all its looks are kept. `--pulls` is
times the penalty that early bird takes for a ratio; 0.15 is about what 2 over the whole schedule comes to.
"""

import argparse
from pathlib import Path

import torch
from rows import Row, append, read

from slimkit import data, training, zoo
from slimkit.channels import trace
from slimkit.methods.early_bird import early, pull_of
from slimkit.methods.looks import LOOKS
from slimkit.methods.observer import EarlyBird
from slimkit.methods.penalised import strength_of
from slimkit.methods.settled import Rule
from slimkit.selection.mask import distance
from slimkit.training import Hook, Run, penalise_gamma_

EPOCHS, IMAGES, PIXELS = 60, 10_000, 14


def trained(ratio: float, seed: int, pull: float, epochs: int) -> Row:
    """Train to the end; return the epoch at which the mask had settled, and how far it is from the last one."""
    dataset = data.smaller(data.open("fashion-mnist"), IMAGES, PIXELS)
    torch.manual_seed(seed)
    net = zoo.vgg8(width=16, in_channels=1)
    graph = trace(net, torch.randn(1, 1, PIXELS, PIXELS))
    recipe = training.Recipe(epochs=epochs, schedule="step", seed=seed, precision="fp32", device="cpu")
    steps = len(dataset.train) // recipe.batch_size
    counted, last = early(recipe, steps)
    strength = strength_of(counted, steps, pull * pull_of(ratio), last)
    every = steps // LOOKS
    bird = EarlyBird(graph, ratio, rule=Rule(interval=every / steps))

    def look(run: Run) -> None:
        if run.step % every == 0:
            bird.observe(run.model)

    hook = Hook(gradients=lambda run: penalise_gamma_(run.model, strength), after_step=look)
    training.train(net, dataset.train, recipe, hooks=[hook])
    draw = bird.draws.get(ratio)
    return {
        "epoch": None if draw is None else (draw.observation + 1) * every / steps,
        "to_final": None if draw is None else distance(draw.mask, bird.latest),
    }


def table(rows: list[Row]) -> str:
    """Return a markdown table, a row a ratio and pull, the seeds in order."""
    lines = ["| epochs | ratio | times early bird's penalty | settled at epoch | distance to the last mask |"]
    lines += ["|" + " --- |" * 5]
    for length, ratio, pull in sorted({(row["epochs"], row["ratio"], row["pull"]) for row in rows}):
        of = [row for row in rows if (row["epochs"], row["ratio"], row["pull"]) == (length, ratio, pull)]
        epochs = ", ".join("never" if row["epoch"] is None else f"{row['epoch']:.1f}" for row in of)
        far = ", ".join("" if row["epoch"] is None else f"{row['to_final']:.2f}" for row in of)
        lines.append(f"| {length} | {ratio:g} | {pull:g} | {epochs} | {far} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.3, 0.5, 0.7])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--pulls", nargs="+", type=float, default=[1.0])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=Path("docs/results/data/bench_settling.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what is there, measure nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cases = [(seed, ratio, pull) for seed in given.seeds for pull in given.pulls for ratio in given.ratios]
    for seed, ratio, pull in [] if given.table else cases:
        about: Row = {"epochs": given.epochs, "ratio": ratio, "seed": seed, "pull": pull}
        if not any(about.items() <= row.items() for row in read(given.out)):
            append(given.out, about | trained(ratio, seed, pull, given.epochs))
    print(table(read(given.out)))


if __name__ == "__main__":
    main()
