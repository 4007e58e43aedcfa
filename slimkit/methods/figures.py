"""What a training run found, measured and cost, for the report."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from slimkit import training
from slimkit.measure import accuracy, energy
from slimkit.measure.stages import Stages
from slimkit.methods.job import Job, Searched, rates, recipe, steps_of, strength
from slimkit.methods.shrink import Shrinking
from slimkit.results import ledger
from slimkit.runs import figures as sides_of
from slimkit.training.penalty import gammas, pull


def record(
    job: Job, shrinking: Shrinking, kept: dict[str, Any], history: Sequence[training.Epoch], steps: int
) -> dict[str, Any]:
    """Return the part of the report on the search."""
    spec, bird, settings = job.spec, shrinking.bird, recipe(job.spec)
    drawn_step = shrinking.drawn_step
    lam = shrinking.plan.strength if penalised(job) else 0.0
    reached, planned = (pull(lam, rates(settings, steps, last), settings.momentum) for last in (drawn_step, None))
    return shrinking.record(steps) | {
        "draw_policy": spec.draw,
        "rule": spec.rule,
        "normalised": spec.normalised,
        "threshold": bird.rule.calibrated,
        "init": "inherit" if shrinking.never_rewound else spec.init,
        "precision": spec.search_precision,
        "drawn_epoch": None if drawn_step is None else drawn_step / steps,
        "history": history_rows(history),
        "penalty": {
            "kind": spec.penalty,
            "lambda": lam,
            "S": reached,
            "S_of_schedule": planned,
            "share_below_tenth_of_median": kept["near_zero"],
            "gap": kept["gap"] if lam else None,
        },
    }


def penalised(job: Job) -> bool:
    """Tell whether the penalty has anything to act on."""
    anything = job.spec.penalty == "group" or any(gamma.requires_grad for _, gamma in gammas(job.dense))
    return anything and strength(job) > 0


def history_rows(history: Sequence[training.Epoch]) -> list[dict[str, Any]]:
    return [
        asdict(entry) | {"epoch": number, "accuracy": entry.validation_accuracy}
        for number, entry in enumerate(history, 1)
    ]


def measure(job: Job, model: nn.Module, example: Tensor, work: Path) -> dict[str, Any]:
    """Return the figures before and after; the dense network was not trained to the end: no accuracy."""
    dataset, spec = job.dataset, job.spec
    sides = sides_of.measure(job.dense, model, example, spec, dataset if spec.int8 else None, work)
    sides["before"].pop("accuracy", None)
    if "accuracy" not in sides["after"]:
        sides["after"]["accuracy"] = {
            "validation": accuracy.accuracy(model, dataset.validation),
            "test": accuracy.accuracy(model, dataset.test),
            "images": len(dataset.test),
        }
    return sides


def cost(job: Job, found: Searched, sides: dict[str, Any], stages: Stages) -> dict[str, Any]:
    """Return what the run cost, beside one dense training and beside training, cutting and training again."""
    images = job.spec.epochs * steps_of(job) * min(job.spec.batch_size, len(job.dataset.train))
    book = ledger.ledger(found.legs, sides["before"]["macs"], sides["after"]["macs"], images)
    here = math.fsum(stage.cpu_seconds for stage in stages.finished)
    spent = energy.of_run(here, stages.meters, found.earlier[1])
    times = {
        name: time and {"seconds": time[0], "energy_kj": spent.value * time[1] / (here + found.earlier[1])}
        for name, time in ledger.times(found.legs, images).items()
    }
    removed = found.slimmed.mask.removed
    before, after = (sides[side]["energy_mj"]["value"] for side in ("before", "after"))
    if job.spec.spend is not None and book.share > 1.05 * job.spec.spend:
        job.warnings.append(
            f"spend is {job.spec.spend:g}, but the search and the {job.spec.epochs} epochs asked for cost "
            f"{book.share:.2f} of one dense training: give fewer --epochs"
        )
    return {
        "search_macs": book.search,
        "training_macs": book.training,
        "dense_training_macs": book.dense,
        "train_prune_retrain_macs": book.train_prune_retrain,
        "share_of_dense_training": book.share,
        "seconds": math.fsum(stage.seconds for stage in stages.finished) + found.earlier[0],
        "times": times,
        "energy_kj": asdict(spent),
        "break_even_inferences": ledger.break_even(1e6 * spent.value, before, after) if removed else None,
        "device": found.device,
        "precision": found.precision,
        "search_precision": job.spec.search_precision if book.search else None,
    }
