"""Progressive shrinking beside early bird and narrower networks from scratch, at equal cost, MACs and parameters.

    python tools/bench_progressive.py --out FILE                          # narrow VGG-8, 14-pixel images
    python tools/bench_progressive.py --out FILE --arch resnet20 --width 8 --epochs 12

A quarter of the MACs may be left. Cost counts multiply-adds of training, three forward passes an image, as a share of
one dense training; what is trained from scratch trains for as much as `progressive` has cost, or for a dense training
where that cost more. Accuracy is that of the last epoch; test is read once a run. Arms that stand in the file are left
out, so the tool goes on where it was stopped.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from bench_early_bird import Bench, Setting
from rows import append, read

from slimkit import models
from slimkit.runs.plan import plan
from slimkit.runs.train import job_of

ARMS = (
    "progressive",
    "early-bird",
    "uniform, equal MACs and cost",
    "uniform, equal parameters and cost",
    "learned widths from scratch, equal cost",
    "dense",
    "early-bird on gammas",
    "progressive, fresh",
)


def settings(arm: str, progressive: dict[str, Any]) -> dict[str, Any]:
    """Return the method of an arm and its settings; the controls take cost and widths from `progressive`."""
    scratch = {"method": "scratch", "spend": min(1.0, progressive.get("cost", 1.0))}
    kept = tuple(progressive.get("kept", ()))
    known: dict[str, dict[str, Any]] = {
        "progressive": {"method": "progressive"},
        "early-bird": {"method": "early-bird", "penalty": "group", "ranking": "group-norm"},
        "uniform, equal MACs and cost": scratch | {"control": "uniform"},
        "uniform, equal parameters and cost": scratch | {"control": "uniform-params", "kept": kept},
        "learned widths from scratch, equal cost": scratch | {"control": "scratch-E", "kept": kept},
        "dense": {"method": "scratch", "control": "dense"},
        "early-bird on gammas": {"method": "early-bird"},
        "progressive, fresh": {"method": "progressive", "init": "fresh"},
    }
    return known[arm]


def run(bench: Bench, arm: str, progressive: dict[str, Any]) -> dict[str, Any]:
    """Train an arm, and return its row."""
    s = bench.setting
    shared = {"epochs": s.epochs, "seed": s.seed, "batch_size": s.batch_size, "round_to": 1, "precision": s.precision}
    given = {"arch": f"zoo:{s.arch}", "data": "fashion-mnist", "max_macs": 0.25, **shared, **settings(arm, progressive)}
    asked = plan(given)
    cpu, wall = time.process_time(), time.time()
    job = job_of(
        models.of(bench.dense, bench.dataset.input_shape), lambda: bench.fresh(s.seed + 100), bench.dataset, asked
    )
    found = asked.method(job, asked.config)
    full = torch.ones(job.graph.units, dtype=torch.bool)
    keep = found.cut.mask.keep if found.cut else full
    return {
        "network": f"{s.arch}, width {s.width}",
        "arm": arm,
        "seed": s.seed,
        "epochs": s.epochs,
        "data": f"fashion-mnist, {s.images:,} images of {s.pixels} px",
        "settings": given,
        **bench.result(found.model, sum(leg.cost for leg in found.legs)),
        "macs": job.graph.macs(keep) / job.macs(),
        "params": job.graph.params(keep) / job.graph.params(full),
        "kept": found.cut.mask.counts(job.graph) if found.cut else None,
        "after_cut": found.cut.after.accuracy if found.cut else None,
        "drawn_epoch": found.search.to_dict().get("drawn_epoch"),
        "trained_epochs": len(found.search.to_dict()["history"]),
        "notes": found.warnings,
        "cpu_seconds": time.process_time() - cpu,
        "seconds": time.time() - wall,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return mean, lowest and highest of every arm, as Markdown."""
    heads = ("network", "arm", "seeds", "test % (lowest to highest)", "cost", "MACs", "parameters", "cut at epoch")
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for network in dict.fromkeys(f"{row['network']}, {row['epochs']} epochs" for row in rows):
        for arm in ARMS:
            of = [row for row in rows if (f"{row['network']}, {row['epochs']} epochs", row["arm"]) == (network, arm)]
            if not of:
                continue
            tests = [100 * row["test"] for row in of]
            spread = f" ({min(tests):.2f} to {max(tests):.2f})" if len(of) > 1 else ""
            numbers = [f"{statistics.fmean(row[name] for row in of):.2f}" for name in ("cost", "macs", "params")]
            drawn = [row["drawn_epoch"] for row in of if row["drawn_epoch"] is not None]
            at = f"{statistics.fmean(drawn):.1f}" if drawn else ""
            cells = (network, arm, str(len(of)), f"{statistics.fmean(tests):.2f}{spread}", *numbers, at)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("progressive.jsonl"))
    parser.add_argument("--arch", default="vgg8")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--pixels", type=int, default=14)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", nargs="*", default=ARMS, choices=ARMS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(args.seeds):
        setting = Setting(args.arch, args.width, args.images, args.pixels, args.epochs, 128, 0.5, seed, "fp32")
        network = f"{args.arch}, width {args.width}"
        rows = [row for row in read(args.out) if (row["network"], row["epochs"]) == (network, args.epochs)]
        done = {row["arm"]: row for row in rows if row["seed"] == seed}
        for arm in args.arms:
            if arm not in done:
                done[arm] = run(Bench(setting, {}), arm, done.get("progressive", {}))
                append(args.out, done[arm])
    print(table(read(args.out)))


if __name__ == "__main__":
    main()
