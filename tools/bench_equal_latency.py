"""Accuracy at equal measured latency after the same recovery: slimkit's solver and its rivals.

    python tools/bench_equal_latency.py [--network resnet20] [--share 0.5] [--epochs 1] [--seeds 1] [--arms WORD ...]
    python tools/bench_equal_latency.py --table

Fashion-MNIST at 28 pixels. Every arm brings the same trained network to the same share of its own latency in ONNX
Runtime (one thread, batch 1; the fastest of up to 2000 runs in turns with the dense network: on a busy machine it
varies by 2 %, medians by 10 %) and is retrained for the same epochs: SGD, label smoothing, no teacher but in the arm
that says so, as `slimkit compress` retrains. slimkit aims by its table; of a rival that pruning ratio is taken which
gives the slowest network that takes no longer than 1.02 of the target. `stock` is a smaller network of the same
family that starts from fresh weights, at the learning rate of training from scratch, for the same epochs or for those
and the dense network's. Accuracy right after the cut is on the validation split; the test split is read once, at the
end.
"""

import argparse
import copy
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rows import append, read
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).parents[1]))
from slimkit import data, models, recovery, training, zoo
from slimkit.channels import Graph, trace
from slimkit.export import export_onnx
from slimkit.measure.latency import measure
from slimkit.measure.macs import count_macs
from slimkit.measure.quality import quality as accuracy
from slimkit.recovery import fold as folding
from slimkit.runs.start import allowed_widths, conditions
from slimkit.selection.mask import Mask
from slimkit.selection.measured import LatencySolver
from slimkit.selection.ranking import Context, rank
from slimkit.settings import CompressSpec
from slimkit.surgery.remove import remove
from slimkit.zoo.initialise import initialise
from slimkit.zoo.resnet import ResNet

SHAPE = (1, 28, 28)
RANKING_BATCHES = 10
TOLERANCE = 1.02  # of the target: what a rival may take
SCRATCH_RATE = 0.1
TAUGHT = "with its teacher"


def mobilenet(width: float = 0.5) -> nn.Module:
    """Return MobileNetV2 with fewer stages and a stem without stride, for 28 pixels."""
    from torchvision.models import mobilenet_v2

    plan = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2], [6, 64, 2, 2], [6, 96, 1, 1]]
    net = mobilenet_v2(num_classes=10, width_mult=width, inverted_residual_setting=plan)
    net.features[0][0] = nn.Conv2d(1, net.features[0][0].out_channels, 3, 1, 1, bias=False)
    net.classifier[0] = nn.Identity()  # no dropout: training is short
    initialise(net, gamma=1.0)
    return net


@dataclass(frozen=True)
class Family:
    """A dense network, the epochs that it was trained for, smaller ones, the step that fits its widths, its recipe."""

    dense: Callable[[], nn.Module]
    epochs: int
    stock: dict[str, Callable[[], nn.Module]]
    step: int = 16
    recipe: training.Recipe = training.Recipe(epochs=0)


def widths_of(make: Callable[..., nn.Module], values: tuple[float, ...]) -> dict[str, Callable[[], nn.Module]]:
    return {f"narrower, width {value}": partial(make, width=value) for value in values}


FAMILIES = {
    "resnet20": Family(
        partial(zoo.resnet20, in_channels=1),
        10,
        widths_of(partial(zoo.resnet20, in_channels=1), tuple(range(14, 4, -1)))
        | {f"ResNet-14, width {w}": partial(ResNet, 2, 10, 1, w) for w in (16, 14, 12, 11, 10, 9, 8)},
        step=8,
    ),
    "vgg8": Family(partial(zoo.vgg8, width=32), 3, widths_of(zoo.vgg8, tuple(range(30, 8, -2)))),
    "mobilenet": Family(mobilenet, 5, widths_of(mobilenet, (0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1))),
}


class Bench:
    """A trained network, its data, and how long others take beside it."""

    def __init__(self, name: str, folder: Path, share: float) -> None:
        self.name, self.folder, self.share = name, folder, share
        self.dataset = data.open("fashion-mnist")
        self.dense = dense(name, self.dataset, folder)
        self.image = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
        self.graph: Graph = trace(self.dense, self.image)
        self.path = folder / f"{name}.onnx"
        export_onnx(self.dense, self.path, self.image)

    def batches(self, seed: int) -> list[tuple[Tensor, Tensor]]:
        """Return the batches that criteria with gradients read."""
        return list(islice(self.dataset.train.batches(128, seed=seed), RANKING_BATCHES))

    def latency(self, net: nn.Module, seconds: float = 1.0) -> float:
        """Return the share of the dense network's latency that another takes."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "net.onnx")
            export_onnx(net, path, self.image)
            before, after = measure([self.path, path], seconds=seconds)
        return after.fastest_ms / before.fastest_ms

    def accuracy(self, net: nn.Module, part: str) -> float:
        """Return the accuracy on a split, in ONNX Runtime: twice as fast as in torch."""
        with tempfile.TemporaryDirectory() as folder:
            export_onnx(net, Path(folder, "net.onnx"), self.image)
            return accuracy(Path(folder, "net.onnx"), getattr(self.dataset, part))

    def fastest_ratio(self, make: Callable[[float], nn.Module]) -> nn.Module:
        """Return the slowest network within the target that `make` gives for ratios in (0, 1).

        First every twentieth, as some rounding keeps more at a higher ratio; then around the best of them.
        """
        best: tuple[float, float, nn.Module] | None = None
        raised: Exception | None = None
        ratios, step = [number / 20 for number in range(1, 20)], 0.025
        for _ in range(4):
            for ratio in ratios:
                try:
                    net = make(ratio)
                    taken = self.latency(net)
                except Exception as error:  # nothing is left of some layer
                    raised = error
                    continue
                if taken <= TOLERANCE * self.share and (best is None or taken > best[0]):
                    best = taken, ratio, net
            if best is None:
                raise raised or RuntimeError("no ratio reaches the target")
            ratios, step = [best[1] - step, best[1] + step], step / 2
        assert best is not None
        return best[2]


def dense(name: str, dataset: data.Dataset, folder: Path) -> nn.Module:
    """Return the trained network of a family: the zoo's, else trained now and kept."""
    family = FAMILIES[name]
    if f"{name}-fashion-mnist" in zoo.CHECKPOINTS:
        return models.load(zoo.CHECKPOINTS[f"{name}-fashion-mnist"]).model.eval()
    kept = folder / f"{name}.pt"
    torch.manual_seed(0)
    net = family.dense().eval()
    if kept.exists():
        net.load_state_dict(torch.load(kept, weights_only=True))
        return net
    net = training.train(net, dataset.train, replace(family.recipe, epochs=family.epochs)).model
    torch.save(net.state_dict(), kept)
    return net


# ---- the arms: (bench, seed) -> network, and the one to recover from where that is another


def ours(bench: Bench, seed: int, ranking: str, scope: str) -> tuple[nn.Module, nn.Module]:
    """Choose by slimkit's solver, remove; fold what the removed channels put out on average."""
    spec = CompressSpec(max_latency=bench.share, ranking=ranking, scope=scope, data="fashion-mnist", seed=seed)
    context = Context(seed, bench.batches(seed) if ranking == "taylor" else ())
    scores = rank(spec.ranking, bench.dense, bench.graph, spec.scope, context)
    fixed = torch.zeros(bench.graph.units, dtype=torch.bool)
    solver = LatencySolver(bench.dense, remove, spec.budget, bench.image, conditions(spec))
    mask = solver(bench.graph, scores, allowed_widths(spec), fixed)
    return cut(bench, mask, seed)


def cut(bench: Bench, mask: Mask, seed: int) -> tuple[nn.Module, nn.Module]:
    """Return the network of a mask, without and with the constants of removed channels."""
    plain = remove(bench.dense, bench.graph, mask)
    folded = copy.deepcopy(plain)
    images = [x for x, _ in islice(bench.dataset.train.batches(128, seed=seed), 4)]
    means = folding.input_means(bench.dense, bench.graph, mask, images, measured=True)
    folding.fold_(folded, bench.dense, bench.graph, mask, means)
    return plain, folded


def uniform(bench: Bench, seed: int, step: int) -> tuple[nn.Module, nn.Module]:
    """Take the same share of every group, counts in steps: the channels with the smallest norms."""
    spec = CompressSpec(ratio=0.5, ranking="group-norm", data="fashion-mnist")
    scores = rank(spec.ranking, bench.dense, bench.graph, spec.scope, Context(seed))

    def mask(ratio: float) -> Mask:
        keep = torch.zeros(bench.graph.units, dtype=torch.bool)
        for group in bench.graph.groups:
            full = len(group.members)
            count = min(max(round((1 - ratio) * full / step) * step, min(step, full)), full)
            keep[group.members[scores[group.members].argsort(descending=True)[:count]]] = True
        return Mask(keep)

    last: dict[nn.Module, Mask] = {}

    def make(ratio: float) -> nn.Module:
        net = remove(bench.dense, bench.graph, mask(ratio))
        last[net] = mask(ratio)
        return net

    return cut(bench, last[bench.fastest_ratio(make)], seed)


def theirs(bench: Bench, seed: int, importance: str, where: str, step: int | None) -> tuple[nn.Module, nn.Module]:
    """Prune by torch-pruning; the classifier's outputs stay."""
    import torch_pruning as tp

    torch.manual_seed(seed)
    batches = bench.batches(seed)

    def make(ratio: float) -> nn.Module:
        net = copy.deepcopy(bench.dense)
        last = [m for m in net.modules() if isinstance(m, nn.Linear) and m.out_features == 10]
        criterion = getattr(tp.importance, f"{importance}Importance")()
        pruner = tp.pruner.BasePruner(
            net, bench.image, importance=criterion, global_pruning=where != "local", isomorphic=where == "isomorphic",
            pruning_ratio=ratio, ignored_layers=last, round_to=step,
        )  # fmt: skip
        if importance == "Taylor":
            for images, labels in batches:
                cross_entropy(net(images), labels).backward()
        elif importance == "Hessian":
            for image, label in zip(*(part[:64].split(1) for part in batches[0]), strict=True):
                net.zero_grad()
                cross_entropy(net(image), label).backward()
                criterion.accumulate_grad(net)
        elif importance == "OBDC":
            criterion.num_classes = 10
            criterion._prepare_model(net, pruner)
            for images, labels in batches[:4]:
                cross_entropy(net(images), labels).backward()
                criterion.step()
            criterion._rm_hooks(net)
        pruner.step()
        net.zero_grad()
        return net

    net = bench.fastest_ratio(make)
    return net, net


def stock(bench: Bench, seed: int, kind: str) -> tuple[nn.Module, nn.Module]:
    """Return the slowest smaller network of the family within the target, with fresh weights."""
    torch.manual_seed(seed)
    found = [(bench.latency(make().eval()), name) for name, make in FAMILIES[bench.name].stock.items() if kind in name]
    taken, name = max(entry for entry in found if entry[0] <= TOLERANCE * bench.share)
    net = FAMILIES[bench.name].stock[name]().eval()
    return net, net


def arms(name: str) -> dict[str, Callable[[Bench, int], tuple[nn.Module, nn.Module]]]:
    """Return every arm of a network, the most telling first."""
    found: dict[str, Callable[[Bench, int], tuple[nn.Module, nn.Module]]] = {}
    for ranking in ("gamma", "reader-norm", "group-norm", "taylor"):
        for scope in ("global", "isomorphic", "group"):
            found[f"slimkit {ranking} {scope}"] = partial(ours, ranking=ranking, scope=scope)
    found[f"slimkit group-norm group {TAUGHT}"] = found["slimkit group-norm group"]
    step = FAMILIES[name].step
    rivals: list[tuple[str, str, int | None]] = []
    for importance in ("GroupMagnitude", "BNScale", "Taylor", "LAMP", "FPGM", "Hessian", "OBDC", "Random"):
        rivals += [(importance, "global", step), (importance, "local", step)]
    rivals += [(i, "isomorphic", step) for i in ("GroupMagnitude", "Taylor")]
    rivals += [(i, where, None) for i in ("GroupMagnitude", "BNScale", "Taylor") for where in ("global", "local")]
    rivals += [("GroupMagnitude", "local", 16)] if step != 16 else []
    for importance, where, counts in rivals:
        label = f"torch-pruning {importance} {where} {counts or 'default'}"
        found[label] = partial(theirs, importance=importance, where=where, step=counts)
    for counts in (1, step):
        found[f"uniform steps of {counts}"] = partial(uniform, step=counts)
    for kind in dict.fromkeys(label.split(",")[0] for label in FAMILIES[name].stock):
        for budget in ("same epochs", "+ dense budget"):
            found[f"stock {kind}, {budget}"] = partial(stock, kind=kind)
    return found


def run(bench: Bench, arm: str, seed: int, epochs: int) -> dict[str, Any]:
    """Make, recover and measure one arm; what it raises goes into its row."""
    row: dict[str, Any] = {"network": bench.name, "share": bench.share, "arm": arm, "seed": seed, "epochs": epochs}
    began = time.process_time()
    try:
        plain, start = arms(bench.name)[arm](bench, seed)
    except Exception as error:
        return row | {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"}
    row["choose_s"] = time.process_time() - began
    row["latency"] = bench.latency(plain, seconds=4.0)
    row["macs"] = count_macs(plain, SHAPE) / count_macs(bench.dense, SHAPE)
    row["widths"] = [len(m.weight) for m in plain.modules() if isinstance(m, nn.BatchNorm2d)]
    if arm.startswith("stock"):
        length = epochs + (FAMILIES[bench.name].epochs if "dense budget" in arm else 0)
        recipe = training.Recipe(epochs=length, seed=seed, learning_rate=SCRATCH_RATE, label_smoothing=0.1)
        trained = training.train(start, bench.dataset.train, recipe).model
    else:
        for key, net in {"cut": plain, "folded": start}.items() if start is not plain else [("cut", plain)]:
            row[key] = bench.accuracy(net, "validation")
            renewed = copy.deepcopy(net)
            recovery.reestimate(renewed, bench.dataset.train, batches=20, seed=seed)
            row[f"{key}_renewed"] = bench.accuracy(renewed, "validation")
        recipe = recovery.recipe(epochs, seed)
        if not arm.endswith(TAUGHT):
            recipe = replace(recipe, distillation=0.0)
        start = copy.deepcopy(start)
        recovery.reestimate(start, bench.dataset.train, seed=seed)
        trained = training.train(start, bench.dataset.train, recipe, teacher=bench.dense).model
    row |= {part: bench.accuracy(trained, part) for part in ("validation", "test")}
    row["cpu_s"] = time.process_time() - began
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Return a markdown table a network, the best arm first."""
    lines: list[str] = []
    for name, share in dict.fromkeys((row["network"], row["share"]) for row in rows):
        own = [row for row in rows if (row["network"], row["share"]) == (name, share)]
        lines += ["", f"{name}, latency {share:g} of the dense network's", ""]
        lines += ["| arm | latency | MACs | cut | BN anew | folded | folded, BN anew | validation | test | seeds |"]
        lines += ["|" + " --- |" * 10]
        by_arm: dict[str, list[dict[str, Any]]] = {}
        for row in own:
            by_arm.setdefault(row["arm"], []).append(row)

        def mean(found: list[dict[str, Any]], key: str) -> float:
            return fmean(row[key] for row in found) if all(key in row for row in found) else math.nan

        tests = {arm: mean(found, "test") for arm, found in by_arm.items()}
        for arm, found in sorted(by_arm.items(), key=lambda item: -tests[item[0]] if tests[item[0]] > 0 else 0.0):
            if "error" in found[0]:
                lines.append(f"| {arm} | {found[0]['error']} |" + " |" * 8)
                continue
            cells = [f"{mean(found, key):.3f}" for key in ("latency", "macs")]
            for key in ("cut", "cut_renewed", "folded", "folded_renewed", "validation", "test"):
                cells.append("-" if math.isnan(mean(found, key)) else f"{100 * mean(found, key):.2f}")
            if len(found) > 1:
                spread = max(row["test"] for row in found) - min(row["test"] for row in found)
                cells[-1] += f" (range {100 * spread:.2f})"
            lines.append(f"| {arm} | " + " | ".join(cells) + f" | {len(found)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=FAMILIES, default="resnet20")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", nargs="*", help="only arms with all of the words of one of these")
    parser.add_argument("--folder", type=Path, default=Path("bench_equal_latency"), help="trained dense networks")
    parser.add_argument("--out", type=Path, default=Path("bench_equal_latency.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what is there, measure nothing")
    args = parser.parse_args()
    if not args.table:
        torch.set_num_threads(1)
        args.folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(args.network, args.folder, args.share)
        done = {(r["network"], r["share"], r["arm"], r["seed"]) for r in read(args.out)}
        if (args.network, 1.0, "dense", 0) not in done:
            parts = {part: bench.accuracy(bench.dense, part) for part in ("validation", "test")}
            row = {"network": args.network, "share": 1.0, "arm": "dense", "seed": 0, "latency": 1.0, "macs": 1.0}
            append(args.out, row | parts)
        for seed in range(args.seeds):
            for arm in arms(args.network):
                wanted = args.arms is None or any(all(w in arm.split() for w in words.split()) for words in args.arms)
                if wanted and (args.network, args.share, arm, seed) not in done:
                    row = run(bench, arm, seed, args.epochs)
                    append(args.out, row)
                    print({k: v for k, v in row.items() if k != "widths"}, flush=True)
    print(table(read(args.out)))


if __name__ == "__main__":
    main()
