"""What a training run cost, beside one dense training and beside training, cutting and training again."""

import math
from dataclasses import asdict
from typing import Any

from slimkit.measure import energy
from slimkit.measure.stages import Stages
from slimkit.methods import Found, Job
from slimkit.results import ledger


def training_cost(
    job: Job, found: Found, sides: dict[str, Any], stages: Stages, settings: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return the part of the report on costs, and what the user should know about them.

    Args:
        job: data and recipe.
        found: what the method gave.
        sides: figures of the network `before` and `after`.
        stages: time of the run so far.
        settings: of the run and its method.
    """
    images = round(job.recipe.epochs * job.steps) * min(job.recipe.batch_size, len(job.dataset.train))
    book = ledger.ledger(found.legs, sides["before"]["macs"], sides["after"]["macs"], images)
    here = math.fsum(stage.cpu_seconds for stage in stages.finished)
    spent = energy.of_run(here, stages.meters, found.earlier[1])
    times = {
        name: time and {"seconds": time[0], "energy_kj": spent.value * time[1] / (here + found.earlier[1])}
        for name, time in ledger.times(found.legs).items()
    }
    removed = found.slimmed.mask.removed if found.slimmed else 0
    before, after = (sides[side].get("energy_mj", {}).get("value") for side in ("before", "after"))
    repaid = removed and before is not None and after is not None
    notes = []
    spend = settings.get("spend")
    if spend is not None and book.share > 1.05 * spend:
        notes.append(
            f"spend is {spend:g}, but the search and the {job.recipe.epochs} epochs asked for cost "
            f"{book.share:.2f} of one dense training: give fewer --epochs"
        )
    last = found.trained[-1]
    return {
        "search_macs": book.search,
        "training_macs": book.training,
        "dense_training_macs": book.dense,
        "train_prune_retrain_macs": book.train_prune_retrain,
        "share_of_dense_training": book.share,
        "seconds": math.fsum(stage.seconds for stage in stages.finished) + found.earlier[0],
        "times": times,
        "energy_kj": asdict(spent),
        "break_even_inferences": ledger.break_even(1e6 * spent.value, before, after) if repaid else None,
        "device": last.device,
        "precision": last.precision,
        "search_precision": settings.get("search_precision") if book.search else None,
    }, notes
