"""What a run cost, a training run beside one dense training and beside training, cutting and training again."""

import math
from collections.abc import Mapping
from typing import Any

from slimkit.measure import energy
from slimkit.measure.stages import Stages
from slimkit.methods import Found, Job
from slimkit.results import Cost, Figures, Spent, Times, ledger


def compress_cost(search: int, training: int, stages: Stages) -> Cost:
    """Return what a run of `compress` cost.

    Args:
        search: multiply-adds of training networks that were not delivered.
        training: of training the one that was.
        stages: of the run.
    """
    seconds, cpu_seconds = (math.fsum(getattr(s, k) for s in stages.finished) for k in ("seconds", "cpu_seconds"))
    return Cost(
        search_macs=search,
        training_macs=training,
        seconds=seconds,
        energy_kj=energy.of_run(cpu_seconds, stages.meters),
    )


def training_cost(
    job: Job, found: Found, before: Figures, after: Figures, stages: Stages, settings: Mapping[str, Any]
) -> Cost:
    """Return what a run of `train` cost.

    Args:
        job: data and recipe.
        found: what the method gave.
        before, after: figures of the networks.
        stages: time of the run so far.
        settings: of the run and its method.
    """
    images = round(job.recipe.epochs * job.steps) * min(job.recipe.batch_size, len(job.dataset.train))
    book = ledger.ledger(found.legs, before.macs or 0, after.macs or 0, images)
    here = math.fsum(stage.cpu_seconds for stage in stages.finished)
    spent = energy.of_run(here, stages.meters, found.earlier[1])
    times = {
        name: time and Spent(seconds=time[0], energy_kj=spent.value * time[1] / (here + found.earlier[1]))
        for name, time in ledger.times(found.legs).items()
    }
    removed = found.slimmed.mask.removed if found.slimmed else 0
    repaid = None
    if removed and before.energy_mj and after.energy_mj:
        repaid = ledger.break_even(1e6 * spent.value, before.energy_mj.value, after.energy_mj.value)
    last = found.trained[-1]
    return Cost(
        search_macs=book.search,
        training_macs=book.training,
        dense_training_macs=book.dense,
        train_prune_retrain_macs=book.train_prune_retrain,
        share_of_dense_training=book.share,
        seconds=math.fsum(stage.seconds for stage in stages.finished) + found.earlier[0],
        times=Times(**times),
        energy_kj=spent,
        break_even_inferences=repaid,
        device=last.device,
        precision=last.precision,
        search_precision=found.search.precision if book.search and "search_precision" in settings else None,
    )
