"""Which recipe of retraining gives most back: one cut, many recipes, several lengths, on four networks.

    python tools/bench_recipe.py --network resnet20 vgg8 mobilenet densenet --epochs 0.2 1 4 \
        --recipes base augment=0 temperature=2,augment=0
    python tools/bench_recipe.py --table

Fashion-MNIST at 28 pixels, all 54,000 training images an epoch, the dense network as teacher. Each network is cut once
to a quarter of its multiply-adds (the ConvNeXt, trained here for 3 epochs by AdamW, to 0.4 of them) by
`slimkit.compress` without training, and retrained from there by each recipe. `base` is the constant BASE below, what
`slimkit compress` did before these rows were made; others say in what they differ, by fields of `training.Recipe`, or
`ema=DECAY`: an average of the weights is what is judged. Accuracy is of the last epoch, on the 6,000 validation images,
since recipes are chosen by it; BatchNorm's statistics are measured anew after less than an epoch, as the command does.
"""

import argparse
import copy
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from bench_equal_latency import FAMILIES, Bench, Family
from bench_worth import IMAGES
from rows import Row, append, read
from torch import Tensor, nn

import slimkit
from slimkit import recovery, training

SHARE, SHARES = 0.25, {"convnext": 0.4}
BASE = training.Recipe(
    epochs=0, learning_rate=0.02, label_smoothing=0.1, distillation=0.5, temperature=4.0, warm_up=0.1, augment=True
)
FLAGS, NAMES = {"augment", "clip"}, {"optimizer"}


def convnext() -> nn.Module:
    """Return a ConvNeXt of six blocks, for 28 pixels."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    blocks = [CNBlockConfig(24, 48, 2), CNBlockConfig(48, 96, 2), CNBlockConfig(96, None, 2)]
    net = ConvNeXt(blocks, num_classes=10, layer_scale=1.0)
    net.features[0][0] = nn.Conv2d(1, 24, 2, 2)
    return net


BY_ADAMW = training.Recipe(epochs=0, optimizer="adamw", learning_rate=2e-3, weight_decay=0.05, label_smoothing=0.1)
FAMILIES["convnext"] = Family(convnext, 3, {}, recipe=BY_ADAMW)


def start(bench: Bench) -> nn.Module:
    inputs = next(iter(bench.dataset.train.batches(IMAGES, seed=0)))[0]
    return slimkit.compress(
        bench.dense, bench.image, calibration=inputs, epochs=0, cap=0.97, round_to=1,
        max_macs=SHARES.get(bench.name, SHARE),
    ).model  # fmt: skip


def recipe(words: str, epochs: float, seed: int) -> tuple[training.Recipe, float | None]:
    """Return the recipe of a few words, and the decay of an average of weights if it has one."""
    given = dict(word.split("=") for word in words.split(",") if word != "base")
    decay = given.pop("ema", None)
    changes: dict[str, Any] = {
        k: v if k in NAMES else bool(int(v)) if k in FLAGS else float(v) for k, v in given.items()
    }
    return replace(BASE, epochs=epochs, seed=seed, **changes), float(decay) if decay else None


class Average:
    """An average of a network's weights over its training, as an exponential one with a warm-up."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {}

    def note(self, run: training.Run) -> None:
        share = 1 - min(self.decay, (1 + run.step) / (10 + run.step))
        for name, value in run.model.state_dict().items():
            if name in self.weights and value.is_floating_point():
                self.weights[name].lerp_(value, share)
            else:
                self.weights[name] = value.clone()


def measured(bench: Bench, cut: nn.Module, words: str, epochs: float, seed: int) -> Row:
    settings, decay = recipe(words, epochs, seed)
    average = Average(decay) if decay else None
    hooks = [training.Hook(after_step=average.note)] if average else []
    began = time.process_time()
    net = training.train(copy.deepcopy(cut), bench.dataset.train, settings, teacher=bench.dense, hooks=hooks).model
    row: Row = {"cpu_s": time.process_time() - began}
    if average:
        net.load_state_dict(average.weights)
    if epochs < 0.24:  # a hundred steps
        recovery.reestimate(net, bench.dataset.train, batches=20, seed=seed)
    return row | {"validation": bench.accuracy(net, "validation")}


def table(rows: list[Row]) -> str:
    """Return a markdown table: recipes down, networks and lengths across, mean validation % and the number of seeds."""
    columns = sorted({(row["network"], row["epochs"]) for row in rows if row["epochs"]}, key=str)
    cut = {row["network"]: 100 * row["validation"] for row in rows if not row["epochs"]}
    heads = [f"{network} ({cut[network]:.2f} as cut), {epochs:g}" for network, epochs in columns]
    lines = ["| recipe | " + " | ".join(heads) + " |", "|" + " --- |" * (len(columns) + 1)]
    for words in dict.fromkeys(row["recipe"] for row in rows if row["epochs"]):
        cells = []
        for network, epochs in columns:
            of = {"network": network, "epochs": epochs, "recipe": words}
            found = [100 * row["validation"] for row in rows if of.items() <= row.items()]
            many = f" ({len(found)})" if len(found) > 1 else ""
            cells.append(f"{fmean(found):.2f}{many}" if found else "")
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=FAMILIES, default=["resnet20"])
    parser.add_argument("--epochs", nargs="+", type=float, default=[1.0])
    parser.add_argument("--recipes", nargs="+", default=["base"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--folder", type=Path, default=Path("bench_worth"), help="trained dense networks")
    parser.add_argument("--out", type=Path, default=Path("docs/results/data/bench_recipe.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what is there, measure nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in [] if given.table else given.network:
        given.folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(name, given.folder, 1.0)
        cut = start(bench)
        about: Row = {"network": name, "recipe": "none", "epochs": 0.0, "seed": 0}
        if not any(about.items() <= row.items() for row in read(given.out)):
            append(given.out, about | {"validation": bench.accuracy(cut, "validation")})
        for epochs in given.epochs:
            for seed in given.seeds:
                for words in given.recipes:
                    about = {"network": name, "recipe": words, "epochs": epochs, "seed": seed}
                    if not any(about.items() <= row.items() for row in read(given.out)):
                        row = about | measured(bench, cut, words, epochs, seed)
                        append(given.out, row)
                        print(row, flush=True)
    if given.table:
        print(table(read(given.out)))


if __name__ == "__main__":
    main()
