"""Lottery tickets: train, cut, go back to the weights of an early step, train again.

Frankle and Carbin 2019, arXiv:1803.03635; rewinding to a step after the first, with schedule and data order, Frankle
et al. 2019, arXiv:1903.01611. Departs from the papers: whole channels go, so that the ticket is a smaller network.
"""

from dataclasses import dataclass

from slimkit.methods.job import Job
from slimkit.methods.looks import Watched, looks_of, watched_ranking
from slimkit.methods.method import Found, Method
from slimkit.methods.observer import check_ranked
from slimkit.methods.rounds import Rounds, check_rounds, train_in_rounds
from slimkit.methods.shrink import refuse_late
from slimkit.settings import setting
from slimkit.settings.checks import choice, whole


@dataclass(frozen=True, kw_only=True)
class LotteryTicketConfig(Watched):
    """How often, and back to what."""

    rounds: int = setting(1, "rounds of training and removal, which share out the ratio", whole(1))
    rewind_step: int = setting(0, "step whose weights, schedule and data order the ticket goes back to", whole(0))
    weights: str = setting(
        "ticket",
        "of the small network: ticket (those of rewind_step) or fresh (the control)",
        choice("ticket", "fresh"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights == "fresh":
            self.refuse_idle(("rewind_step",), "weights is 'fresh', which goes back to no step")


def run(job: Job, config: LotteryTicketConfig) -> Found:
    """Train, cut, rewind, as often as asked; then train the ticket."""
    rounds = Rounds(
        METHOD.name,
        count=config.rounds,
        init={"ticket": "rewind"}.get(config.weights, config.weights),
        rewind_step=config.rewind_step,
    )
    return train_in_rounds(job, rounds, looks_of(job, config, None))


def _needed(job: Job, config: LotteryTicketConfig) -> None:
    check_ranked(job.graph, watched_ranking(job))
    check_rounds(job, config.rounds, "rounds")
    refuse_late(job, config.rewind_step)


METHOD = Method(
    name="lottery-ticket",
    summary="train, cut, rewind to an early step, train again, in rounds (Frankle and Carbin 2019), by channels",
    config=LotteryTicketConfig,
    run=run,
    ranking="group-norm",
    idle=lambda config, budget: {"constants": "it begins from other weights, to which nothing is folded"},
    needs=_needed,
)
