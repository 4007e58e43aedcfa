"""Which penalty makes channels removable: accuracy right after the cut, at equal MACs, before any retraining.

    python tools/bench_penalty.py --out FILE                             # digits, 60 epochs
    python tools/bench_penalty.py --out FILE --data fashion-mnist        # 10,000 images of 14 pixels, 12 epochs

ResNet-8 is trained with no penalty, the L1 penalty on gamma, the group lasso on all coupled weights, and
torch-pruning's regularisation (DepGraph's ridge), each at several strengths; then it is cut with each ranking, to
half and to 30 % of the MACs. Test images, last epoch, 3 seeds; constants of removed channels are folded.
"""

import argparse
import copy
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rows import append, read
from slimming import slim
from torch import nn

from slimkit import data, recovery, training, zoo
from slimkit.channels import Graph, trace
from slimkit.measure.quality import quality as accuracy
from slimkit.recovery import fold
from slimkit.runs.start import context, proof_inputs
from slimkit.settings import CompressSpec
from slimkit.training.group_penalty import group_penalty
from slimkit.training.penalty import gamma_penalty
from slimkit.training.run import Hook, Run
from slimkit.training.schedules import total

SEEDS = (0, 1, 2)
EPOCHS = {"digits": 60, "fashion-mnist": 12}
GAMMA, GROUP = (("gamma", 1.0), ("gamma", 2.0), ("gamma", 4.0)), (("group", 1.0), ("group", 2.0), ("group", 4.0))
RIVAL = (("torch-pruning", 1e-4), ("torch-pruning", 5e-4), ("torch-pruning", 2e-3))
PENALTIES = {
    "digits": (("none", 0.0), *GAMMA, *GROUP, *RIVAL),
    "fashion-mnist": (("none", 0.0), *GAMMA[1:], *GROUP[:2]),
}
RANKINGS = ("gamma", "group-norm")
SCOPES = ("global", "group")
SHARES = (0.5, 0.3)


def train(penalty: str, strength: float, seed: int, dataset: data.Dataset) -> tuple[nn.Module, Graph]:
    """Train a network with a penalty from the first to the last step; for slimkit's, `strength` is S."""
    torch.manual_seed(seed)
    model = zoo.resnet8(in_channels=1)
    image = torch.zeros(1, *dataset.input_shape)
    graph = trace(model, image)
    recipe = training.Recipe(
        epochs=EPOCHS[dataset.name], batch_size=64, learning_rate=0.05, seed=seed, device="cpu", precision="fp32"
    )
    steps = recipe.epochs * (len(dataset.train) // recipe.batch_size)
    weight = 0.0
    if penalty in ("gamma", "group") and strength:
        rates = recipe.learning_rate * total(recipe.rate_share, steps)
        weight = training.solve_strength(strength, rates, recipe.momentum)
    hooks = {
        "none": [],
        "gamma": [gamma_penalty(lambda step: weight)],
        "group": [group_penalty(graph, lambda step: weight)],
        "torch-pruning": [rival(strength, image)],
    }[penalty]
    return training.train(model, dataset.train, recipe, hooks=hooks).model, graph


def rival(strength: float, image: torch.Tensor) -> Hook:
    """Return what torch-pruning's GroupNormPruner does to the gradients."""
    pruners: dict[int, Any] = {}

    def regularise(run: Run) -> None:
        import torch_pruning as tp

        if id(run.model) not in pruners:
            last = [m for m in run.model.modules() if isinstance(m, nn.Linear)][-1:]
            pruners[id(run.model)] = tp.pruner.GroupNormPruner(
                run.model,
                image,
                importance=tp.importance.GroupMagnitudeImportance(p=2),
                reg=strength,
                ignored_layers=last,
            )
        pruners[id(run.model)].regularize(run.model)

    return Hook(gradients=regularise)


def cuts(model: nn.Module, graph: Graph, seed: int, dataset: data.Dataset) -> list[dict[str, Any]]:
    """Cut a trained network by each ranking, scope and budget."""
    found = []
    batches = [images for images, _ in dataset.train.batches(128, seed=0)][:4]
    for ranking in RANKINGS:
        for scope in SCOPES:
            for share in SHARES:
                spec = CompressSpec(max_macs=share, ranking=ranking, scope=scope, round_to=1, seed=seed)
                image = torch.zeros(1, *dataset.input_shape)
                inputs = proof_inputs(model, image, dataset, seed)
                slimmed = slim(spec, model, graph, inputs, context(spec, None))
                small = copy.deepcopy(slimmed.model)
                means = fold.input_means(model, graph, slimmed.mask, batches, measured=True)
                fold.fold_(small, model, graph, slimmed.mask, means)
                row = {"ranking": ranking, "scope": scope, "share": share, "as_trained": accuracy(small, dataset.test)}
                recovery.reestimate(small, dataset.train, batches=20, seed=seed)
                found.append(row | {"reestimated": accuracy(small, dataset.test)})
    return found


def table(rows: list[dict[str, Any]], name: str) -> str:
    """Return the means and ranges over the seeds as markdown; of the scopes the better one is shown."""
    heads = [f"{ranking}, {share} of the MACs" for ranking in RANKINGS for share in SHARES]
    lines = ["| penalty | dense | " + " | ".join(heads) + " |", "|" + " --- |" * (len(heads) + 2)]
    for penalty, strength in PENALTIES[name]:
        own = [row for row in rows if row["job"][:2] == [penalty, strength]]
        if not own:
            continue
        cells = [show([row["dense"] for row in own])]
        for ranking in RANKINGS:
            for share in SHARES:
                values = {
                    scope: [
                        cut["as_trained"]
                        for row in own
                        for cut in row["cuts"]
                        if (cut["ranking"], cut["scope"], cut["share"]) == (ranking, scope, share)
                    ]
                    for scope in SCOPES
                }
                best = max(SCOPES, key=lambda scope: fmean(values[scope]))
                cells.append(f"{show(values[best])} {best}")
        lines.append("| " + " | ".join([f"{penalty}, {strength:g}" if strength else penalty, *cells]) + " |")
    return "\n".join(lines)


def show(shares: list[float]) -> str:
    values = [100 * share for share in shares]
    return f"{fmean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench_penalty.jsonl"))
    parser.add_argument("--data", choices=PENALTIES, default="digits")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = read(args.out)
    dataset = data.open(args.data)
    if args.data == "fashion-mnist":
        dataset = data.smaller(dataset, images=10_000, pixels=14)
    for seed in SEEDS:
        for penalty, strength in PENALTIES[args.data]:
            job = [penalty, strength, seed]
            if job not in [row["job"] for row in rows]:
                model, graph = train(penalty, strength, seed, dataset)
                row = {"job": job, "dense": accuracy(model, dataset.test), "cuts": cuts(model, graph, seed, dataset)}
                rows.append(row)
                append(args.out, row)
    print(table(rows, args.data))


if __name__ == "__main__":
    main()
