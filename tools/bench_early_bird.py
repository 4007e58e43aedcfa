"""Early bird against its rivals: accuracy and total cost of every arm, one line of JSON a run.

    python tools/bench_early_bird.py --out FILE              # narrow VGG-8, 14-pixel images, p = 0.5
    python tools/bench_early_bird.py --out FILE --arch resnet20 --width 16 --images 54000 --pixels 28 \\
        --epochs 60 --ratio 0.3 0.5 0.7                      # the full size, for a GPU
    python tools/bench_early_bird.py --out FILE --table      # what is there, as Markdown

Runs that stand in the file are left out, so the tool goes on where it was stopped. Accuracy is that of
the last epoch; settings were chosen on the validation split, the test split is read once a run. Cost counts
multiply-adds of training, three forward passes an image, as a share of one dense training of `--epochs`.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rows import append, read
from torch import nn

from slimkit import data, models, provenance, training, zoo
from slimkit.channels import Graph, trace
from slimkit.data import Dataset
from slimkit.measure.accuracy import accuracy
from slimkit.methods import EarlyBird
from slimkit.methods import scratch as rethinking
from slimkit.runs.plan import Plan, plan
from slimkit.runs.train import job_of
from slimkit.selection.mask import Mask
from slimkit.surgery.remove import remove
from slimkit.training.penalty import gammas


@dataclass(frozen=True)
class Setting:
    """What all arms share."""

    arch: str
    width: int
    images: int
    pixels: int
    epochs: int
    batch_size: int
    ratio: float
    seed: int
    precision: str


Arm = Callable[["Bench"], dict[str, Any]]


class Bench:
    """One setting: its data, its fresh network, and the arms run so far."""

    def __init__(self, setting: Setting, done: dict[str, dict[str, Any]]) -> None:
        self.setting, self.done = setting, done
        self.dataset = subset(data.open("fashion-mnist", seed=0), setting)
        self.dense = self.fresh(setting.seed)
        self.graph: Graph = trace(self.dense, torch.zeros(1, *self.dataset.input_shape))
        self.macs = self.graph.macs(Mask.full(self.graph).keep)

    def fresh(self, seed: int) -> nn.Module:
        """Build the dense network."""
        torch.manual_seed(seed)
        arguments = {"num_classes": 10, "in_channels": 1, "width": self.setting.width}
        model = zoo.ARCHITECTURES[self.setting.arch](**arguments)
        known = provenance.Provenance(
            arch=f"zoo:{self.setting.arch}",
            arguments=arguments,
            input_shape=self.dataset.input_shape,
            classes=10,
        )
        provenance.attach(model, known)
        return model

    def plan(self, **settings: Any) -> Plan:
        """Return the settings of a run."""
        s = self.setting
        given = {
            "arch": f"zoo:{s.arch}", "data": "fashion-mnist", "ratio": s.ratio, "epochs": s.epochs, "seed": s.seed,
            "batch_size": s.batch_size, "round_to": 1, "precision": s.precision,
        }  # fmt: skip
        return plan(given | settings)

    def ticket(self, **settings: Any) -> dict[str, Any]:
        """Search, draw and train on with slimkit's own stages."""
        asked = self.plan(**settings)
        network = models.of(self.dense, self.dataset.input_shape)
        job = job_of(network, lambda: self.fresh(asked.spec.seed + 100), self.dataset, asked)
        found = asked.method(job, asked.config)
        assert found.cut is not None
        mask, search = found.cut.mask, found.search.to_dict()
        cost = sum(leg.cost for leg in found.legs)
        return self.result(found.model, cost) | {
            "kept": mask.counts(self.graph),
            "keep": mask.keep.int().tolist(),
            "macs": self.graph.macs(mask.keep) / self.macs,
            "drawn": search.get("drawn_epoch"),
            "epochs": len(search["history"]),
            "after_cut": found.cut.after.accuracy,
            "ratios": search["ratios"],
            "warnings": found.warnings,
        }

    def alone(self, mask: Mask | None, epochs: int, seed: int = 0) -> dict[str, Any]:
        """Train a network of a mask's widths from fresh weights."""
        model = self.fresh(self.setting.seed + seed)
        macs = self.macs
        if mask is not None:
            model, macs = remove(model, self.graph, mask), self.graph.macs(mask.keep)
        trained = self.train(model, epochs)
        found = {
            "macs": macs / self.macs,
            "epochs": epochs,
            "kept": mask.counts(self.graph) if mask else None,
        }
        return self.result(trained.model, 3 * macs * trained.images) | found

    def train(self, model: nn.Module, epochs: int, **more: Any) -> training.Trained:
        """Train by the recipe of all arms."""
        s = self.setting
        recipe = training.Recipe(epochs=epochs, batch_size=s.batch_size, seed=s.seed, precision=s.precision)
        return training.train(model, self.dataset.train, recipe, **more)

    def result(self, model: nn.Module, cost: float) -> dict[str, Any]:
        """Return accuracy and cost."""
        images = self.setting.epochs * (len(self.dataset.train) // self.setting.batch_size) * self.setting.batch_size
        return {
            "validation": accuracy(model, self.dataset.validation),
            "test": accuracy(model, self.dataset.test),
            "cost": cost / (3 * self.macs * images),
        }

    def drawn(self, arm: str = "early bird, 0.55") -> Mask:
        """Return the mask of an earlier arm."""
        return Mask(torch.tensor(self.done[arm]["keep"], dtype=torch.bool))


def subset(dataset: Dataset, setting: Setting) -> Dataset:
    """Keep the first images of the training split; average pixels down to the size asked for."""
    factor = 28 // setting.pixels

    def small(split: Any, count: int | None = None) -> Any:
        images = split.images[:count]
        if factor > 1:
            pooled = torch.nn.functional.avg_pool2d(images.float(), factor)
            images = pooled.round().to(torch.uint8)
        shift = replace(split.augmentation, pad=max(1, split.augmentation.pad // factor))
        return replace(split, images=images, labels=split.labels[:count], augmentation=shift)

    return replace(
        dataset,
        input_shape=(1, setting.pixels, setting.pixels),
        train=small(dataset.train, setting.images),
        validation=small(dataset.validation),
        test=small(dataset.test),
    )


def torch_pruning(bench: Bench) -> dict[str, Any]:
    """Train with torch-pruning's own penalty, cut by its BNScalePruner, retrain for as long."""
    import torch_pruning as tp

    example = torch.zeros(1, *bench.dataset.input_shape)
    pruners: dict[int, Any] = {}

    def pruner(model: nn.Module) -> Any:
        linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
        return tp.pruner.BNScalePruner(
            model, example.to(next(model.parameters()).device), tp.importance.BNScaleImportance(), reg=1e-4,
            global_pruning=True, pruning_ratio=bench.setting.ratio, max_pruning_ratio=0.9, ignored_layers=linears,
        )  # fmt: skip

    def regularise(run: training.Run) -> None:
        if id(run.model) not in pruners:
            pruners[id(run.model)] = pruner(run.model)
            pruners[id(run.model)].update_regularizer()
        pruners[id(run.model)].regularize(run.model)

    dense = bench.train(bench.dense, bench.setting.epochs, hooks=[training.Hook(gradients=regularise)])
    model = dense.model
    pruner(model).step()
    after = accuracy(model, bench.dataset.validation)
    small = trace(model, example)
    macs = small.macs(Mask.full(small).keep)
    trained = bench.train(model, bench.setting.epochs)
    cost = 3 * (bench.macs * dense.images + macs * trained.images)
    kept = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    return bench.result(trained.model, cost) | {"macs": macs / bench.macs, "kept": kept, "after_cut": after}


def equal_cost(bench: Bench, mask: Mask, arm: str = "early bird, 0.55") -> int:
    """Return the epochs that cost a network alone as much as a whole earlier arm."""
    share = bench.graph.macs(mask.keep) / bench.macs
    return max(1, round(bench.done[arm]["cost"] * bench.setting.epochs / share))


def uniform(bench: Bench, arm: str = "early bird, 0.55") -> dict[str, Any]:
    """Train uniform widths of equal MACs for an equal cost."""
    mask = rethinking.scaled(bench.graph, bench.graph.macs(bench.drawn(arm).keep), bench.graph.macs)
    return bench.alone(mask, equal_cost(bench, mask, arm))


def published(bench: Bench, **settings: Any) -> dict[str, Any]:
    """Search as in the paper: a look an epoch, all channels compete, the rest of the schedule."""
    epoch = len(bench.dataset.train) // bench.setting.batch_size
    return bench.ticket(scope="global", interval=epoch, deadline=0.6, **settings)


def random_channels(bench: Bench) -> dict[str, Any]:
    """Cut random channels to the same widths at the same time, and train on."""
    at = max(1, round(bench.done["early bird, 0.55"]["drawn"]))
    return bench.ticket(spend=0.55, ranking="random", at=at)


ARMS: dict[str, Arm] = {
    "early bird, 0.55": lambda b: b.ticket(spend=0.55),
    "dense": lambda b: b.alone(None, b.setting.epochs),
    "scratch-B": lambda b: b.alone(b.drawn(), equal_cost(b, b.drawn()), seed=100),
    "uniform": uniform,
    "early bird": lambda b: b.ticket(),
    "early bird, 0.45": lambda b: b.ticket(spend=0.45),
    "early bird by 5 %, 0.55": lambda b: b.ticket(spend=0.55, deadline=0.05),
    "global, 0.55": lambda b: b.ticket(spend=0.55, scope="global", cap=0.75),
    "network slimming": lambda b: b.ticket(method="network-slimming", scope="global", watch=[0.3, 0.7]),
    "scratch-E": lambda b: b.alone(b.drawn(), b.setting.epochs, seed=100),
    "early bird, fresh": lambda b: b.ticket(spend=0.55, init="fresh"),
    "early bird, rewind": lambda b: b.ticket(spend=0.55, init="rewind"),
    "random channels": random_channels,
    "torch-pruning": torch_pruning,
    "published": published,
    "published, fresh": lambda b: published(b, init="fresh"),
    "bf16 search": lambda b: b.ticket(spend=0.55, search_precision="bf16"),
    "int8 search": lambda b: b.ticket(spend=0.55, search_precision="int8-emulated"),
    **{f"drawn at {e}": lambda b, at=e: b.ticket(spend=0.8, at=at) for e in (1, 2, 4, 6, 8)},
}
DEFAULT = [name for name in ARMS if not name.startswith("drawn")]


def table(runs: list[dict[str, Any]]) -> str:
    """Return, per setting, mean, lowest and highest of every arm, and what the search saw, as Markdown."""
    settings: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        s = run["setting"]
        name = f"{s['arch']}, width {s['width']}, {s['images']} images of {s['pixels']} px, {s['epochs']} epochs"
        settings.setdefault(f"{name}, {s['precision']}", []).append(run)
    return "\n\n".join(f"{name}\n\n{arms(found)}\n\n{draws(found)}".strip() for name, found in settings.items())


def arms(runs: list[dict[str, Any]]) -> str:
    """Return the rows of one setting."""
    heads = ("arm", "p", "seeds", "test % (lowest to highest)", "cost", "MACs", "drawn at epoch", "after the cut, %")
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    order = list(ARMS)
    keys = sorted({(run["setting"]["ratio"], order.index(run["arm"])) for run in runs})
    for ratio, number in keys:
        found = [run for run in runs if (run["setting"]["ratio"], run["arm"]) == (ratio, order[number])]
        accuracies = [100 * run["test"] for run in found]

        def mean(name: str, scale: float = 1.0, found: list[dict[str, Any]] = found) -> str:
            values = [scale * run[name] for run in found if run.get(name) is not None]
            return f"{statistics.fmean(values):.2f}" if values else ""

        spread = f" ({min(accuracies):.2f} to {max(accuracies):.2f})" if len(found) > 1 else ""
        cells = (order[number], f"{ratio:g}", str(len(found)), f"{statistics.fmean(accuracies):.2f}{spread}",
                 mean("cost"), mean("macs"), mean("drawn"), mean("after_cut", 100))  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draws(runs: list[dict[str, Any]]) -> str:
    """Return when the masks settled in runs that were watched to their end, and how far they were from the last."""
    watched = [run["ratios"] for run in runs if run["arm"] == "network slimming"]
    lines = ["| ratio | runs | settled | at epoch | distance to the final mask |", "|" + " --- |" * 5]
    for ratio in sorted({name for ratios in watched for name in ratios}):
        seen = [ratios[ratio] for ratios in watched if ratio in ratios]
        settled = [entry for entry in seen if entry["distance_to_final"] is not None]
        epochs = ", ".join(f"{entry['epoch']:.2g}" for entry in settled)
        far = ", ".join(f"{entry['distance_to_final']:.3f}" for entry in settled)
        lines.append(f"| {ratio} | {len(seen)} | {len(settled)} | {epochs} | {far} |")
    return "\n".join(lines) if watched else ""


def observe() -> str:
    """Return what a look at ResNet-50 costs beside a training step: CPU milliseconds, medians."""
    import torchvision
    from torch.nn.functional import cross_entropy

    model = torchvision.models.resnet50().train()
    bird = EarlyBird(trace(model, torch.zeros(1, 3, 224, 224)), 0.5, watch=(0.3, 0.7))
    looks, steps = [], []
    images, labels = torch.randn(8, 3, 224, 224), torch.zeros(8, dtype=torch.long)
    for number in range(11):
        for _, gamma in gammas(model):
            gamma.data.uniform_(0, 1)
        began = time.process_time()
        bird.observe(model)
        looks.append(time.process_time() - began)
        if number < 3:
            began = time.process_time()
            cross_entropy(model(images), labels).backward()
            steps.append(time.process_time() - began)
    look, step = statistics.median(looks), statistics.median(steps) / len(images)
    count = sum(len(gamma) for _, gamma in gammas(model))
    return (
        f"ResNet-50, {count} gammas, {bird.graph.units} removable units, 3 ratios: a look takes {1e3 * look:.1f} ms "
        f"of CPU, training on an image {1e3 * step:.0f} ms; 8 looks are {8 * look / (1e4 * step):.2e} of an epoch of "
        "10,000 images"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("early_bird.jsonl"))
    parser.add_argument("--observe", action="store_true", help="measure what a look costs, and nothing else")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--arch", default="vgg8", choices=sorted(zoo.ARCHITECTURES))
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--pixels", type=int, default=14, choices=(14, 28))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--ratio", type=float, nargs="+", default=[0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=DEFAULT)
    args = parser.parse_args()
    if args.observe:
        print(observe())
        return
    if args.table:
        print(table(read(args.out)))
        return
    for ratio in args.ratio:
        for seed in args.seeds:
            setting = Setting(
                args.arch,
                args.width,
                args.images,
                args.pixels,
                args.epochs,
                args.batch_size,
                ratio,
                seed,
                args.precision,
            )
            run_arms(setting, args.arms, args.out)


def run_arms(setting: Setting, arms: list[str], out: Path) -> None:
    """Run the arms of one setting that are not in the file yet."""
    wanted = vars(setting)
    done = {run["arm"]: run for run in read(out) if run["setting"] == wanted}
    bench = Bench(setting, done)
    for arm in arms:
        if arm in done:
            continue
        began, cpu = time.perf_counter(), time.process_time()
        done[arm] = ARMS[arm](bench)
        done[arm] |= {"arm": arm, "setting": wanted, "seconds": time.perf_counter() - began}
        done[arm]["cpu_seconds"] = time.process_time() - cpu
        append(out, done[arm])
        shown = {k: v for k, v in done[arm].items() if k in ("test", "validation", "cost", "macs", "drawn", "epochs")}
        print(
            setting.seed,
            setting.ratio,
            arm,
            {k: v if isinstance(v, int) or v is None else round(v, 4) for k, v in shown.items()},
            flush=True,
        )


if __name__ == "__main__":
    main()
