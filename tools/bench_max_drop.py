"""Does `--max-drop` keep its word on test, and how much faster is its network than uniform widths of the same word?

    python tools/bench_max_drop.py --seeds 0 1 2 3 4 5 6 7 8 9 [--network resnet20] [--drop 1] [--epochs 0]

`slimkit`: `slimkit.compress(max_drop=...)`, which looks at validation images alone. `uniform`: the same share of every
layer by group norm, fitted by the same reconstruction and retrained alike, from a tenth of the channels on in
twentieths; the narrowest that keeps the drop by the same rule, with its margin. A seed draws calibration inputs, order
and augmentation. Test is read once, of the network that each arm chose. Latency: ONNX Runtime, one thread, batch 1, in
turns with the dense network.
"""

import argparse
import math
from pathlib import Path
from statistics import fmean, stdev

import torch
from bench_equal_latency import Bench
from bench_worth import FAMILIES
from rows import Row, append, read
from scipy.stats import t

import slimkit
from slimkit.measure import quality

STEP, MOST = 0.05, 0.9
Arm = tuple[torch.nn.Module, float]


def ours(bench: Bench, seed: int, drop: float, epochs: float) -> Arm:
    found = slimkit.compress(bench.dense, bench.image, dataset=bench.dataset, max_drop=drop, epochs=epochs, seed=seed)
    assert found.report.drop is not None
    return found.model, found.report.drop.drop + found.report.drop.margin


def uniform(bench: Bench, seed: int, drop: float, epochs: float) -> Arm:
    kept: Arm = bench.dense, 0.0
    ratio = 2 * STEP
    while ratio < MOST:
        made = slimkit.compress(
            bench.dense, bench.image, ratio, dataset=bench.dataset, ranking="group-norm", epochs=epochs, seed=seed
        ).model
        lost = quality.drop_from(bench.dense, bench.dataset.validation, bench.dataset.task)(made)
        if lost.value + lost.margin > drop:
            break
        kept = made, lost.value + lost.margin
        ratio += STEP
    return kept


ARMS = {"slimkit": ours, "uniform": uniform}


def table(rows: list[Row]) -> str:
    """Return a markdown table: how often the word was kept on test, and the latency that it took, a line an arm."""
    found: dict[tuple[str, float, float], dict[str, dict[int, Row]]] = {}
    for row in rows:
        key = row["network"], row["max_drop"], row["epochs"]
        found.setdefault(key, {}).setdefault(row["arm"], {})[row["seed"]] = row
    lines = [
        "| network, drop, epochs | arm | kept on test | lost on test: mean, most | latency: mean, range | shorter |"
    ]
    lines += ["|" + " --- |" * 6]
    for (network, drop, epochs), arms in found.items():
        for arm, of in arms.items():
            lost, latency = ([row[what] for row in of.values()] for what in ("test_drop", "latency"))
            kept = f"{sum(one <= drop for one in lost)} of {len(lost)} seeds"
            times = f"{fmean(latency):.2f}, {min(latency):.2f} to {max(latency):.2f}"
            cells = [f"{network}, {drop:g}, {epochs:g}", arm, kept, f"{fmean(lost):.2f}, {max(lost):.2f}", times]
            lines.append("| " + " | ".join([*cells, shorter(arms["slimkit"], of) if arm != "slimkit" else ""]) + " |")
    return "\n".join(lines)


def shorter(ours: dict[int, Row], theirs: dict[int, Row]) -> str:
    """Return by how much slimkit's latency is below another arm's, %: mean over the seeds of both, 95 % interval."""
    gains = [
        100 * (1 - ours[seed]["latency"] / theirs[seed]["latency"]) for seed in sorted(ours.keys() & theirs.keys())
    ]
    if len(gains) < 2:
        return f"{gains[0]:.0f} %" if gains else ""
    half = t.ppf(0.975, len(gains) - 1) * stdev(gains) / math.sqrt(len(gains))
    return f"by {fmean(gains):.0f} ± {half:.0f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=FAMILIES, default=["resnet20"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--drop", type=float, default=1.0)
    parser.add_argument("--epochs", type=float, default=0.0)
    parser.add_argument("--folder", type=Path, default=Path("bench_worth"), help="trained dense networks")
    parser.add_argument("--out", type=Path, default=Path("docs/results/data/bench_max_drop.jsonl"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.network:
        bench = Bench(name, given.folder, 1.0)
        whole = bench.accuracy(bench.dense, "test")
        for seed in given.seeds:
            for arm in given.arms:
                about: Row = {"network": name, "arm": arm, "seed": seed, "max_drop": given.drop, "epochs": given.epochs}
                if any(about.items() <= row.items() for row in read(given.out)):
                    continue
                net, said = ARMS[arm](bench, seed, given.drop, given.epochs)
                row = about | {
                    "said": said,
                    "test_drop": 100 * (whole - bench.accuracy(net, "test")),
                    "latency": bench.latency(net, seconds=2.0),
                }
                append(given.out, row)
                print(row, flush=True)


if __name__ == "__main__":
    main()
