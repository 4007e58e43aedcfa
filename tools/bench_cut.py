"""Accuracy right after the cut, before any retraining: what folding and BN re-estimation bring, and which ranking.

    python tools/bench_cut.py [--out bench_cut.jsonl]

Trained networks of the zoo, on their validation split. First table: gamma, ratios 0.1 to 0.5, constants of removed
channels left out or folded, BatchNorm's statistics as trained or re-estimated. Second: every ranking and scope at
half of the MACs, constants folded and statistics re-estimated; 3 seeds where chance or data order has a part.
"""

import argparse
import copy
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rows import append, read
from slimming import slim

from slimkit import data, provenance, recovery, zoo
from slimkit.channels import trace
from slimkit.measure.quality import quality as accuracy
from slimkit.models import load
from slimkit.recovery import fold
from slimkit.runs.start import context, proof_inputs
from slimkit.settings import CompressSpec

NETWORKS = ("resnet8-digits", "resnet20-fashion-mnist")
BATCHES, STATISTICS_BATCHES = 4, 20
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5)
RANKINGS = ("gamma", "group-norm", "taylor", "random")
SCOPES = ("global", "isomorphic", "group")
WAYS = (("zero", "as trained"), ("fold", "as trained"), ("zero", "re-estimated"), ("fold", "re-estimated"))


def cut(name: str, **settings: Any) -> dict[str, Any]:
    """Cut one network of the zoo and return its row."""
    dense = load(Path(zoo.__file__).parent / f"{name}.safetensors").model
    dataset = data.open(name.partition("-")[2]).normalised(provenance.of(dense).normalisation)
    spec = CompressSpec(**{"ranking": "gamma", "scope": "global", "data": dataset.name, "round_to": 1} | settings)
    image = torch.randn(1, *dataset.input_shape)
    graph = trace(dense, image)
    inputs = proof_inputs(dense, image, dataset, spec.seed)
    slimmed = slim(spec, dense, graph, inputs, context(spec, dataset))
    batches = [images for images, _ in islice(dataset.train.batches(128, seed=spec.seed), BATCHES)]
    found = {}
    for constants, statistics in WAYS:
        model = copy.deepcopy(slimmed.model)
        if constants == "fold":
            means = fold.input_means(dense, graph, slimmed.mask, batches, measured=True)
            fold.fold_(model, dense, graph, slimmed.mask, means)
        if statistics == "re-estimated":
            recovery.reestimate(model, dataset.train, batches=STATISTICS_BATCHES, seed=spec.seed)
        found[f"{constants}, {statistics}"] = accuracy(model, dataset.validation)
    return {
        "dense": accuracy(dense, dataset.validation),
        "accuracy": found,
        "removed": slimmed.mask.removed / graph.units,
        "error": slimmed.error,
    }


def jobs() -> list[dict[str, Any]]:
    """Return every cut of both tables."""
    found = [{"network": n, "ratio": r} for n in NETWORKS for r in RATIOS]
    for network in NETWORKS:
        for ranking in RANKINGS:
            for scope in SCOPES:
                seeds = (0, 1, 2) if ranking in ("random", "taylor") else (0,)
                found += [
                    {"network": network, "max_macs": 0.5, "ranking": ranking, "scope": scope, "seed": seed}
                    for seed in seeds
                ]
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Return both tables as markdown."""
    lines = ["| network | ratio | dense | " + " | ".join(f"{c}, {b}" for c, b in WAYS) + " |", "|" + " --- |" * 7]
    for row in rows:
        if "ratio" in row["job"]:
            cells = [f"{100 * row['accuracy'][f'{c}, {b}']:.1f}" for c, b in WAYS]
            head = [row["job"]["network"], f"{row['job']['ratio']}", f"{100 * row['dense']:.1f}"]
            lines.append("| " + " | ".join(head + cells) + " |")
    lines += ["", "| network | ranking | " + " | ".join(SCOPES) + " |", "|" + " --- |" * 5]
    for network in NETWORKS:
        for ranking in RANKINGS:
            cells = []
            for scope in SCOPES:
                values = [
                    100 * row["accuracy"]["fold, re-estimated"]
                    for row in rows
                    if row["job"].get("scope") == scope
                    and (row["job"]["network"], row["job"]["ranking"]) == (network, ranking)
                ]
                spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
                cells.append(f"{fmean(values):.1f}{spread}" if values else "")
            lines.append("| " + " | ".join([network, ranking, *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench_cut.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = read(args.out)
    for job in jobs():
        if job not in [row["job"] for row in rows]:
            row = {"job": job, **cut(job["network"], **{k: v for k, v in job.items() if k != "network"})}
            rows.append(row)
            append(args.out, row)
    print(table(rows))


if __name__ == "__main__":
    main()
