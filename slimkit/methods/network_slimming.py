"""Network slimming: train with a penalty on gamma, cut, train again, in passes, Liu et al. 2017, arXiv:1708.06519.

Departs from the paper: every group loses the same share; its one threshold for the whole network is `scope='global'`.
"""

from dataclasses import dataclass

from slimkit.methods.job import Job
from slimkit.methods.looks import Watched, looks_of, watched_ranking
from slimkit.methods.method import Found, Method
from slimkit.methods.observer import check_ranked
from slimkit.methods.penalised import Penalised, penalty_of
from slimkit.methods.rounds import Rounds, check_rounds, train_in_rounds
from slimkit.methods.shrink import Lowered, StartSettings, idle_constants, refuse_late
from slimkit.settings import setting
from slimkit.settings.checks import whole


@dataclass(frozen=True, kw_only=True)
class NetworkSlimmingConfig(Watched, Penalised, StartSettings, Lowered):
    """How often, and from which weights."""

    passes: int = setting(1, "rounds of training and removal, which share out the ratio", whole(1))


def run(job: Job, config: NetworkSlimmingConfig) -> Found:
    """Train with the penalty, cut at the end, and train the small network for as long again."""
    rounds = Rounds(
        METHOD.name,
        count=config.passes,
        init=config.init,
        rewind_step=config.rewind_step,
        precision=config.search_precision,
        penalty=penalty_of(job, config, config.penalty),
    )
    return train_in_rounds(job, rounds, looks_of(job, config, None))


def _needed(job: Job, config: NetworkSlimmingConfig) -> None:
    check_ranked(job.graph, watched_ranking(job))
    penalty_of(job, config, config.penalty)
    check_rounds(job, config.passes, "passes")
    refuse_late(job, config.rewind_step)


METHOD = Method(
    name="network-slimming",
    summary="train with a penalty on gamma to the end, cut, retrain for as long (Liu et al. 2017)",
    config=NetworkSlimmingConfig,
    run=run,
    idle=idle_constants,
    needs=_needed,
)
