"""What the papers on single weights say, measured on small data; a line of JSON each run, with the commit.

    python tools/study_papers.py NAME [--out studies/NAME.jsonl]

NAME is lottery-ticket, factorised, edge-popup or popup.

Goes on where it was stopped. One thread; last epoch, never the best; the test split is read once a run.
"""

import argparse
import copy
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rows import append, read
from torch import nn
from torch.nn.functional import avg_pool2d

from slimkit import data, models, provenance, training
from slimkit.channels import trace
from slimkit.data import TensorSplit
from slimkit.measure.accuracy import accuracy
from slimkit.methods import edge_popup, weight_ticket
from slimkit.methods import factorised as factorised_method
from slimkit.models.factors import Factors
from slimkit.recovery.statistics import reestimate
from slimkit.selection import ranking
from slimkit.selection.exact import masks
from slimkit.selection.weight_mask import hold
from slimkit.surgery.remove import remove
from slimkit.zoo import CHECKPOINTS, lenet_300_100, vgg8
from slimkit.zoo.initialise import initialise

Row = dict[str, Any]
COMMIT = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


def recipe(**settings: Any) -> training.Recipe:
    """Return settings that every study shares: no augmentation, float32 on the CPU."""
    return training.Recipe(**{"augment": False, "precision": "fp32", "device": "cpu", **settings})


# Lottery ticket: LeNet-300-100 on Fashion-MNIST, 21 % of the weights after 7 rounds --------------------------

_LOW, _HIGH = 0.01, 0.1  # learning rates, momentum 0.9
_TICKETS: dict[str, tuple[int, Row]] = {
    "low rate": (5, {"learning_rate": _LOW, "warm_up": 0.0, "rewind": 0}),
    "high rate": (3, {"learning_rate": _HIGH, "warm_up": 0.0, "rewind": 0}),
    "high rate, warm-up": (3, {"learning_rate": _HIGH, "warm_up": 0.5, "rewind": 0}),
    "high rate, rewound": (3, {"learning_rate": _HIGH, "warm_up": 0.0, "rewind": 421}),
}


def lottery_jobs() -> Iterator[Row]:
    """Give a job an arm and seed."""
    for arm, (seeds, settings) in _TICKETS.items():
        for seed in range(seeds):
            yield {"arm": arm, "seed": seed, "epochs": 4, "schedule": "constant", **settings}


def lottery(job: Row) -> Row:
    """Find a ticket and train its controls; accuracies on test."""
    dataset = data.open("fashion-mnist", seed=job["seed"])
    settings = recipe(
        weight_decay=0, **{name: job[name] for name in ("epochs", "learning_rate", "warm_up", "schedule", "seed")}
    )
    torch.manual_seed(job["seed"])
    model = lenet_300_100()
    config = weight_ticket.Config(rounds=7, rewind=job["rewind"])
    found = weight_ticket.find(
        model, dataset.train, settings, config, evaluate=lambda net: accuracy(net, dataset.validation)
    )

    def trained(start: nn.Module, mask: Any) -> float:
        done = training.train(start, dataset.train, settings, hooks=[hold(mask)], first_step=job["rewind"])
        return accuracy(done.model, dataset.test)

    torch.manual_seed(1000 + job["seed"])
    row = {
        "density": found.mask.density,
        "validation by round": [(done.density, done.accuracy) for done in found.rounds],
        "ticket": accuracy(found.trained, dataset.test),
        "re-initialised": trained(weight_ticket.reinitialised(lenet_300_100(), found.mask), found.mask),
    }
    if job["arm"] == "low rate":
        sparse, other = weight_ticket.random_sparse(found, job["seed"])
        row["re-initialised by layer"] = trained(weight_ticket.reinitialised_by_layer(found, job["seed"]), found.mask)
        row["random sparse"] = trained(sparse, other)
    return row


# Small Fashion-MNIST: 6,000 training images of 14 x 14 pixels, all test images --------------------------------


def small(seed: int) -> data.Dataset:
    """Return Fashion-MNIST of half the height and width, and 6,000 training images drawn by the seed."""
    whole = data.open("fashion-mnist", seed=seed)

    def halved(split: Any, count: int | None = None) -> TensorSplit:
        images = avg_pool2d(split.images[:count].float(), 2).round().to(torch.uint8)
        return replace(split, images=images, labels=split.labels[:count])

    return replace(
        whole, input_shape=(1, 14, 14), train=halved(whole.train, 6000), validation=halved(whole.validation),
        test=halved(whole.test),
    )  # fmt: skip


# Factorised layers: a fifth of the parameters -----------------------------------------------------------------


def factorised_jobs() -> Iterator[Row]:
    """Give a job arms, and a seed."""
    common = {"max_params": 0.2, "weight_decay": 5e-4}
    for seed in range(3):
        yield {"seed": seed, "epochs": 6, "arms": ["plain", "SI+FD"], **common}
    for seed in range(3):
        yield {"seed": seed, "epochs": 16, "arms": ["plain", "FD", "SI", "SI+FD", "dense", "from trained"], **common}


def factorised(job: Row) -> Row:
    """Train VGG-8 dense, with thin layers from the beginning, and with thin ones from trained ones."""
    dataset = small(job["seed"])
    settings = recipe(epochs=job["epochs"], schedule="milestones", weight_decay=job["weight_decay"], seed=job["seed"])
    torch.manual_seed(job["seed"])
    model = vgg8()

    def config(frobenius: bool) -> factorised_method.Config:
        return factorised_method.Config(max_params=job["max_params"], frobenius=frobenius)

    def trained(thin: nn.Module, frobenius: bool, with_settings: training.Recipe = settings) -> float:
        done = factorised_method.retrain(thin, dataset.train, with_settings, config(frobenius))
        return accuracy(done.model, dataset.test)

    done = factorised_method.reduce(model, dataset.input_shape, config(True))
    fresh = copy.deepcopy(done.model)
    for module in fresh.modules():
        if isinstance(module, Factors):
            initialise(module)
    row: Row = {"params": done.params, "macs": done.macs}
    for arm in job["arms"]:
        if arm in ("plain", "FD"):
            row[arm] = trained(fresh, arm == "FD")
        elif arm in ("SI", "SI+FD"):
            row[arm] = trained(done.model, arm == "SI+FD")
    if "dense" in job["arms"]:
        dense = training.train(model, dataset.train, settings).model
        cut = factorised_method.reduce(dense, dataset.input_shape, config(True))
        again = replace(settings, epochs=job["epochs"] // 2, learning_rate=0.05, schedule="cosine")
        row |= {
            "dense": accuracy(dense, dataset.test),
            "as cut": accuracy(cut.model, dataset.test),
            "from trained": trained(cut.model, True, again),
        }
    return row


# Edge-popup ---------------------------------------------------------------------------------------------------


def popup_jobs() -> Iterator[Row]:
    """Give a job what is kept, and a seed."""
    for seed in range(3):
        for keep in (0.5, 1.0, 1e-4, 0.1, 0.3, 0.7, 0.9):
            yield {"seed": seed, "epochs": 8, "keep": keep, "choose": "weights"}
        yield {"seed": seed, "epochs": 8, "keep": 0.5, "choose": "channels"}


def popup(job: Row) -> Row:
    """Train scores on random weights of VGG-8."""
    dataset = small(job["seed"])
    settings = recipe(epochs=job["epochs"], weight_decay=1e-4, seed=job["seed"])
    config = edge_popup.Config(keep=job["keep"], choose=job["choose"], seed=job["seed"])
    found = edge_popup.find(vgg8(), dataset.train, settings, config)
    return {"density": found.density, "accuracy": accuracy(found.model, dataset.test)}


# Channels of trained networks, ranked by trained scores --------------------------------------------------------


def ranking_jobs() -> Iterator[Row]:
    """Give a job a network, a ranking and a seed, which draws the batches."""
    for network in ("resnet8-digits", "resnet20-fashion-mnist"):
        for name in ("popup", "group-norm", "gamma", "taylor", "random"):
            for seed in range(3 if name in ("popup", "taylor", "random") else 1):
                yield {"network": network, "ranking": name, "seed": seed}


def ranked(job: Row) -> Row:
    """Remove channels by one ranking, group by group; BatchNorm's statistics anew, no training."""
    network = models.load(CHECKPOINTS[job["network"]]).model
    name = job["network"].partition("-")[2]
    dataset = data.open(name).normalised(provenance.of(network).normalisation or {})
    graph = trace(network, torch.zeros(1, *dataset.input_shape))
    batches = list(islice(dataset.train.batches(128, seed=job["seed"]), 10))
    scores = ranking.rank(job["ranking"], network, graph, "group", ranking.Context(job["seed"], batches))
    row: Row = {}
    for ratio in (0.3, 0.5):
        slim = remove(network, graph, masks(graph, scores, [ratio], 0.95)[ratio])
        reestimate(slim, dataset.train, batches=10)
        row[f"accuracy at {ratio}"] = accuracy(slim, dataset.validation)
    return row


STUDIES: dict[str, tuple[Callable[[], Iterator[Row]], Callable[[Row], Row]]] = {
    "lottery-ticket": (lottery_jobs, lottery),
    "factorised": (factorised_jobs, factorised),
    "edge-popup": (popup_jobs, popup),
    "popup": (ranking_jobs, ranked),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    out = arguments.out or Path("studies") / f"{arguments.study.replace('-', '_')}.jsonl"
    torch.set_num_threads(1)
    jobs, run = STUDIES[arguments.study]
    done = [row["job"] for row in read(out)]
    for job in jobs():
        if job not in done:
            began = time.perf_counter()
            row = {"study": arguments.study, "commit": COMMIT, "job": job, **run(job)}
            append(out, {**row, "seconds": round(time.perf_counter() - began, 1)})


if __name__ == "__main__":
    main()
