"""What slimkit is worth beside its rivals: accuracy at equal cost, before and after short retraining, over seeds.

    python tools/bench_worth.py --network resnet20 --point macs:0.25 latency:0.3 --epochs 0 0.2 1 --seeds 0 1 2
    python tools/bench_worth.py --table

Fashion-MNIST at 28 pixels. Every arm brings the same trained network to the same share of its multiply-adds, or of its
latency (ONNX Runtime, one thread, batch 1; the fastest of many runs in turns with the dense network), and is then
retrained by the one recipe of `slimkit compress`, the dense network as teacher. A seed draws the calibration inputs
(1,024 training images without labels) and the order and augmentation of the retraining; an epoch is all 54,000 images.

Arms, all with BatchNorm right for what is left of the network:

- `slimkit`: `slimkit.compress` without labels and training, in widths of 1 for multiply-adds as the others;
- `uniform, reconstructed`: the same share of every layer, by group norm, then slimkit's reconstruction;
- `uniform`: the same, constants folded, BatchNorm measured anew;
- `torch-pruning ...`: its importances, local (the same share of every layer), `round_to` for latencies that it reaches
  so, BatchNorm measured anew; of all ratios the one that gives the largest network within the budget;
- `stock`: a smaller network of the same family from scratch, for the dense network's epochs and those of retraining.

Networks: `resnet20` is the zoo's; the others are trained here, once, and kept in --folder: `vgg8` (3 epochs),
`mobilenet` and `densenet` (2 epochs each). Accuracy is of all validation and of all test images, by ONNX Runtime.
Rows say by which recipe they were retrained: `bounded`, as now; `plain`, before gradients were bounded; `varied`, when
images were shifted and mirrored; the table has each apart.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from bench_equal_latency import FAMILIES, TOLERANCE, Bench, Family, stock
from rows import Row, append, read
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import slimkit
from slimkit import recovery, training
from slimkit.measure.macs import count_macs
from slimkit.recovery import fold
from slimkit.recovery.reconstruct import reconstruct
from slimkit.selection.mask import Mask
from slimkit.selection.ranking import rank
from slimkit.surgery.remove import remove
from slimkit.zoo.initialise import initialise

IMAGES, RANKING_BATCHES = 1024, 10
QUANTILE = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # Student's t at 97.5 %, by seeds
SHAPE = (1, 28, 28)
BEFORE = {"plain": ", gradients not bounded", "varied": ", on varied images"}  # recipes


def densenet(growth: int = 12) -> nn.Module:
    """Return a DenseNet of three blocks of three layers, a stem without stride, for 28 pixels."""
    from torchvision.models import DenseNet

    net = DenseNet(growth_rate=growth, block_config=(3, 3, 3), num_init_features=2 * growth, num_classes=10)
    net.features.conv0 = nn.Conv2d(1, 2 * growth, 3, 1, 1, bias=False)
    net.features.pool0 = nn.Identity()
    initialise(net, gamma=1.0)
    return net


FAMILIES["mobilenet"] = replace(FAMILIES["mobilenet"], epochs=2)
FAMILIES["densenet"] = Family(
    densenet, 2, {f"narrower, growth {n}": partial(densenet, growth=n) for n in (11, 10, 9, 8, 7, 6, 5, 4)}, step=8
)


@dataclass(frozen=True)
class Point:
    """A network and a budget."""

    bench: Bench
    kind: str
    share: float

    @property
    def step(self) -> int:
        """The widths that engines like matter to latency alone."""
        return FAMILIES[self.bench.name].step if self.kind == "latency" else 1

    def cost(self, net: nn.Module) -> float:
        """Return the share of the dense network's cost that another has."""
        if self.kind == "latency":
            return self.bench.latency(net)
        return count_macs(net, SHAPE) / count_macs(self.bench.dense, SHAPE)

    def inputs(self, seed: int) -> Tensor:
        return next(iter(self.bench.dataset.train.batches(IMAGES, seed=seed)))[0]


RATIOS: dict[tuple[str, str, float, str], float] = {}


# ---- the arms: (point, seed) -> a network as it is before retraining


def ours(point: Point, seed: int) -> nn.Module:
    asked: dict[str, Any] = {f"max_{point.kind}": point.share, "round_to": "auto" if point.kind == "latency" else 1}
    inputs = point.inputs(seed)
    return slimkit.compress(point.bench.dense, point.bench.image, calibration=inputs, epochs=0, cap=0.97, **asked).model


def even(point: Point) -> Mask:
    """Return the mask with the same share of every group, counts in steps, the largest within the budget."""
    graph = point.bench.graph
    scores = rank("group-norm", point.bench.dense, graph)

    def mask(ratio: float) -> Mask:
        keep = torch.zeros(graph.units, dtype=torch.bool)
        for group in graph.groups:
            full, step = len(group.members), point.step
            count = min(max(round((1 - ratio) * full / step) * step, min(step, full)), full)
            keep[group.members[scores[group.members].argsort(descending=True)[:count]]] = True
        return Mask(keep)

    return mask(largest(point, lambda ratio: remove(point.bench.dense, graph, mask(ratio)), "even"))


def largest(point: Point, make: Callable[[float], nn.Module], name: str) -> float:
    """Return the ratio of the largest network within the budget; costs fall with ratios, but for noise."""
    found = RATIOS.get((point.bench.name, point.kind, point.share, name))
    if found is None:
        low, high = 0.0, 0.97
        for _ in range(8 if point.kind == "macs" else 6):
            middle = (low + high) / 2
            low, high = (low, middle) if point.cost(make(middle)) <= TOLERANCE * point.share else (middle, high)
        found = RATIOS[point.bench.name, point.kind, point.share, name] = high
    return found


def uniform(point: Point, seed: int, fitted: bool) -> nn.Module:
    bench, mask, inputs = point.bench, even(point), point.inputs(seed)
    slim = remove(bench.dense, bench.graph, mask)
    if fitted:
        return reconstruct(bench.dense, slim, bench.graph, mask, [inputs]).model
    fold.fold_(slim, bench.dense, bench.graph, mask, fold.input_means(
        bench.dense, bench.graph, mask, inputs[:512].split(128), measured=True
    ))  # fmt: skip
    return renewed(bench, slim, seed)


def renewed(bench: Bench, net: nn.Module, seed: int) -> nn.Module:
    recovery.reestimate(net, bench.dataset.train, batches=IMAGES // 128, seed=seed)
    return net


def theirs(point: Point, seed: int, importance: str) -> nn.Module:
    import torch_pruning as tp

    bench = point.bench
    batches = list(islice(bench.dataset.train.batches(128, seed=seed), RANKING_BATCHES))

    def make(ratio: float, importance: str, step: int = 1) -> nn.Module:
        net = copy.deepcopy(bench.dense)
        last = [m for m in net.modules() if isinstance(m, nn.Linear) and m.out_features == 10]
        pruner = tp.pruner.BasePruner(
            net, bench.image, importance=getattr(tp.importance, f"{importance}Importance")(), global_pruning=False,
            pruning_ratio=ratio, ignored_layers=last, round_to=step if step > 1 else None,
        )  # fmt: skip
        if importance == "Taylor":
            for images, labels in batches:
                cross_entropy(net(images), labels).backward()
        pruner.step()
        net.zero_grad()
        return net.eval()

    for step in dict.fromkeys((point.step, 1)):  # some networks get nowhere near the budget in steps
        ratio = largest(point, partial(make, importance="GroupMagnitude", step=step), f"torch-pruning {step}")
        if point.cost(make(ratio, "GroupMagnitude", step)) <= TOLERANCE * point.share:
            break
    return renewed(bench, make(ratio, importance, step), seed)


ARMS: dict[str, Callable[[Point, int], nn.Module]] = {
    "slimkit": ours,
    "uniform, reconstructed": partial(uniform, fitted=True),
    "torch-pruning GroupMagnitude": partial(theirs, importance="GroupMagnitude"),
    "uniform": partial(uniform, fitted=False),
    "torch-pruning Taylor": partial(theirs, importance="Taylor"),
    "torch-pruning BNScale": partial(theirs, importance="BNScale"),
    "stock": lambda point, seed: stock(point.bench, seed, "narrower")[0],
}


def run(point: Point, about: Row, lengths: list[float]) -> Iterator[Row]:
    """Give a row for each length of retraining; what an arm raises goes into its row."""
    bench, arm, seed = point.bench, about["arm"], about["seed"]
    began = time.process_time()
    try:
        start = ARMS[arm](point, seed)
    except Exception as error:
        said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
        yield from (about | {"epochs": epochs, "error": said} for epochs in lengths)
        return
    about = about | {"choose_cpu_s": time.process_time() - began}
    about["macs"] = count_macs(start, SHAPE) / count_macs(bench.dense, SHAPE)
    if point.kind == "latency":
        about["latency"] = bench.latency(start, seconds=2.0)
    for epochs in lengths:
        began = time.process_time()
        net = start if arm != "stock" and not epochs else trained(bench, start, seed, epochs, arm == "stock")
        row = about | {"epochs": epochs, "train_cpu_s": time.process_time() - began}
        yield row | {part: bench.accuracy(net, part) for part in ("validation", "test")}


def trained(bench: Bench, start: nn.Module, seed: int, epochs: float, fresh: bool) -> nn.Module:
    """Retrain as the command does; a fresh network is trained for the dense one's epochs beside."""
    recipe = recovery.recipe(epochs, seed)
    if fresh:
        length = epochs + FAMILIES[bench.name].epochs
        recipe = training.Recipe(epochs=length, seed=seed, label_smoothing=0.1, distillation=0.5)
    return training.train(start, bench.dataset.train, recipe, teacher=bench.dense).model


def table(rows: list[Row]) -> str:
    """Return a markdown table a network: test %, and what slimkit is ahead by, with its interval over seeds."""
    found: dict[tuple[str, str, float, float, str], dict[str, dict[int, Row]]] = {}
    for row in rows:
        if "test" in row and row["arm"] != "dense":
            key = (where(row), row["kind"], row["share"], row["epochs"], row["recipe"] if row["epochs"] else "")
            found.setdefault(key, {}).setdefault(row["arm"], {})[row["seed"]] = row
    dense = {where(row): row for row in rows if row["arm"] == "dense"}
    lines = []
    for network in dict.fromkeys(key[0] for key in found):
        before = f"{network} ({100 * dense[network]['test']:.2f} before)" if network in dense else network
        points = [key for key in sorted(found, key=lambda k: (k[1] == "latency", -k[2], *k[3:])) if key[0] == network]
        lines += ["", f"| {before}: budget | epochs | arm | MACs | latency | test % | slimkit is ahead by | seeds |"]
        lines += ["|" + " --- |" * 8]
        for key in points:
            arms = found[key]
            for arm in (name for name in ARMS if name in arms):
                of = list(arms[arm].values())
                latency = f"{fmean(r['latency'] for r in of):.2f}" if "latency" in of[0] else ""
                epochs = f"{key[3]:g}{BEFORE.get(key[4], '')}"
                cells = [f"{key[1]} {key[2]:g}", epochs, arm, f"{fmean(r['macs'] for r in of):.2f}", latency]
                cells += [f"{100 * fmean(r['test'] for r in of):.2f}"]
                cells += [ahead(arms.get("slimkit", {}), arms[arm]) if arm != "slimkit" else "", str(len(of))]
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines).strip()


def where(row: Row) -> str:
    """Return the network of a row, and the GPU that it was trained on, if any: elsewhere it became another one."""
    return f"{row['network']}, on one {row['device']}" if "device" in row else str(row["network"])


def ahead(ours: dict[int, Row], theirs: dict[int, Row]) -> str:
    """Return the mean difference over the seeds that both have, in points, and its 95 % interval."""
    gaps = [100 * (ours[seed]["test"] - theirs[seed]["test"]) for seed in sorted(ours.keys() & theirs.keys())]
    if len(gaps) < 2:
        return f"{gaps[0]:+.2f}" if gaps else ""
    half = QUANTILE.get(len(gaps), 2.6) * stdev(gaps) / math.sqrt(len(gaps))
    said = f"{fmean(gaps):+.2f} ± {half:.2f}"
    return said if abs(fmean(gaps)) > half else f"no difference ({said})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=FAMILIES, default=["resnet20"])
    parser.add_argument("--point", nargs="+", default=["macs:0.25"], help="macs:SHARE or latency:SHARE")
    parser.add_argument("--epochs", nargs="+", type=float, default=[0.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=[arm for arm in ARMS if arm != "stock"])
    parser.add_argument("--folder", type=Path, default=Path("bench_worth"), help="trained dense networks")
    parser.add_argument("--out", type=Path, default=Path("docs/results/data/bench_worth.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what is there, measure nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in [] if args.table else args.network:
        args.folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(name, args.folder, 1.0)
        network = {"network": name} | ({"device": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})
        if not any((network | {"arm": "dense"}).items() <= row.items() for row in read(args.out)):
            parts = {part: bench.accuracy(bench.dense, part) for part in ("validation", "test")}
            append(args.out, network | {"arm": "dense", **parts})
        for seed, word, arm in product(args.seeds, args.point, args.arms):
            kind, share = word.split(":")[0], float(word.split(":")[1])
            about = network | {"kind": kind, "share": share, "arm": arm, "seed": seed, "recipe": "bounded"}
            rows = [row for row in read(args.out) if row.get("device") == about.get("device")]
            done = {row["epochs"] for row in rows if about.items() <= row.items()}
            bench.share = share
            if left := [epochs for epochs in args.epochs if epochs not in done]:
                for row in run(Point(bench, kind, share), about, left):
                    append(args.out, row)
                    print(row, flush=True)
    if args.table:
        print(table(read(args.out)))


if __name__ == "__main__":
    main()
