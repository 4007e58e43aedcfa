"""Train, cut, train again, in rounds that each take a share: what network slimming and lottery tickets share."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from slimkit.channels import Graph
from slimkit.errors import MaskError, SpecError
from slimkit.methods.cut import Cut, all_shown, begun, cut, named
from slimkit.methods.job import Choose, Job
from slimkit.methods.looks import Looks
from slimkit.methods.method import Found, leg
from slimkit.methods.penalised import NO_GAP, Penalty
from slimkit.methods.shrink import lowered, searched_in
from slimkit.methods.snapshot import Snapshot, take
from slimkit.methods.train import history, train
from slimkit.results import Search
from slimkit.results.ledger import Leg
from slimkit.selection.mask import Mask
from slimkit.selection.scope import by_scope
from slimkit.surgery.remove import remove
from slimkit.surgery.traced import trace
from slimkit.training import Hook, Run, Trained


@dataclass(frozen=True)
class Rounds:
    """How the rounds go.

    Attributes:
        method: name, for the report.
        count: of rounds of training and removal, 1 or more; they share out the ratio.
        init: weights after each cut: `inherit`, `rewind` or `fresh`.
        rewind_step: step whose weights, schedule and data order `rewind` goes back to.
        precision: of the search; `auto`: that of the run.
        penalty: until the last cut; None for none.
    """

    method: str
    count: int
    init: str
    rewind_step: int
    precision: str = "auto"
    penalty: Penalty | None = None


@dataclass
class _First:
    """Watches the first training: looks at the masks, and keeps the weights to rewind to."""

    looks: Looks
    rewind_step: int | None
    snapshot: Snapshot | None = None

    def hook(self) -> Hook:
        return Hook(after_step=self._after_step, save=self._state, restore=self._restore)

    def _after_step(self, run: Run) -> None:
        if run.step == self.rewind_step:
            self.snapshot = take(run.model, run.optimizer, run.step)
        if self.looks.due(run):
            self.looks.look(run)

    def _state(self) -> dict[str, object]:
        return {"looks": self.looks.state(), "snapshot": self.snapshot.state() if self.snapshot else None}

    def _restore(self, run: Run, state: dict[str, object]) -> None:
        self.looks.restore(state["looks"])  # type: ignore[arg-type]
        self.snapshot = Snapshot(**state["snapshot"]) if state["snapshot"] else None  # type: ignore[arg-type]


def gone_after(ratio: float, number: int, rounds: int) -> float:
    """Return the share of all units that is gone after a round, of which each removes as much of what is left."""
    return ratio if number == rounds else 1.0 - float((1 - ratio) ** (number / rounds))


def check_rounds(job: Job, count: int, name: str) -> None:
    """Refuse rounds of which one would remove nothing, as far as the shapes of the network tell.

    Args:
        job: the network, and what is to go of it.
        count: of rounds.
        name: of the setting that says how many.

    Raises:
        SpecError: several rounds, but the budget is not a ratio, or shares of it are less than channels come in.
        MaskError, OutOfReachError: the ratio itself is too small or too large.
    """
    graph, ratio, fixed = job.graph, job.selection.ratio, job.selection.fixed(job.graph)
    if ratio is None and count > 1:
        raise SpecError(f"{name} is {count}: rounds share out a ratio.\n  Give ratio as the budget")
    if ratio is None:
        return job.selection.check_reach(graph)
    chance = by_scope(graph, torch.rand(graph.units, generator=torch.Generator().manual_seed(0)), "group")
    whole = job.selection.choose(graph, chance, fixed).removed

    def gone(number: int) -> int:
        try:
            return job.selection.part(gone_after(ratio, number, count)).choose(graph, chance, fixed).removed
        except MaskError:  # less than the smallest step
            return 0

    reached = [*(gone(number) for number in range(count)), whole]
    if count > 1 and any(after <= before for before, after in zip(reached, reached[1:], strict=False)):
        finer = ", or `round_to=1`" if job.selection.widths.step > 1 else ""
        raise SpecError(
            f"{name} is {count}: they share out a ratio of {ratio:g}, that is {whole} channels, so that one would "
            f"remove nothing.\n  Give fewer {name}, or a larger ratio{finer}"
        )


def composed(graph: Graph, first: Mask, smaller: Graph, second: Mask) -> Mask:
    """Return the mask over a network of two cuts, the second of which was made on the smaller network.

    Args:
        graph: of the network that `first` belongs to.
        first: its mask.
        smaller: of that network without the units that `first` removes.
        second: its mask.
    """
    now = graph.places(first.keep, smaller)
    keep = first.keep.clone()
    keep[now >= 0] = second.keep[now[now >= 0]]
    return Mask(keep)


def train_in_rounds(job: Job, rounds: Rounds, looks: Looks) -> Found:
    """Train and cut as often as asked, and train the small network; every training takes the whole schedule."""
    first_step = rounds.rewind_step if rounds.init == "rewind" else 0
    start = _First(looks, first_step if rounds.init == "rewind" and first_step else None)
    if rounds.init == "rewind" and not first_step:
        start.snapshot = take(job.dense, None, 0)
    model, graph, mask = job.dense, job.graph, Mask.full(job.graph)
    trained: list[Trained] = []
    legs: list[Leg] = []
    cuts: list[Cut] = []
    for number in range(rounds.count):
        hooks = [_penalty_on(rounds.penalty, graph)] if rounds.penalty else []
        hooks += [] if number else [start.hook()]
        again = first_step if number else 0
        low = lowered(model, rounds.precision)
        trained.append(train(job, low, hooks=hooks, part=f"pass{number + 1}", first_step=again))
        legs.append(leg(graph.macs(Mask.full(graph).keep), trained[-1].phases, search=True))
        choose = _from_whole(job, rounds.count, number + 1, mask, graph)
        cuts.append(cut(job, trained[-1].model, graph, choose, inherit=rounds.init == "inherit"))
        mask = composed(job.graph, mask, graph, cuts[-1].mask) if number else cuts[-1].mask
        model = named(begun(job, mask, rounds.init, _weights(start)) or cuts[-1].model, cuts[-1].model)
        if number + 1 < rounds.count:
            graph = trace(model, job.example)
    trained.append(train(job, model, doing="retraining", part="retraining", first_step=first_step))
    legs.append(leg(job.macs(mask), trained[-1].phases, search=False))
    search = Search(
        method=rounds.method,
        init=rounds.init,
        precision=searched_in(rounds.precision, trained[0]),
        history=history(trained),
        penalty=rounds.penalty.record(cuts[0], None) if rounds.penalty else None,
    )
    search = looks.told(search, job.steps, None)
    notes: tuple[str, ...] = ()
    if rounds.penalty is not None:
        gapless = rounds.penalty.strength and not rounds.penalty.gap(cuts[0])
        notes = (*rounds.penalty.doubts(job, trained[0].history), *((NO_GAP,) if gapless else ()))
    return Found(
        named(trained[-1].model, model), tuple(trained), tuple(legs), search, _whole(job, mask, cuts), notes=notes
    )


def _penalty_on(penalty: Penalty, graph: Graph) -> Hook:
    return penalty.hook(lambda: graph)


def _from_whole(job: Job, count: int, number: int, before: Mask, smaller: Graph) -> Choose | None:
    """Return what chooses the channels that a round removes; None where the run does, since it is the only one.

    They are counted, and held against widths and cap, in the whole network, so that rounding does not add up.

    Args:
        job: what is known of the run; its budget is a ratio.
        count: of rounds.
        number: of this one, from 1.
        before: what earlier rounds have left.
        smaller: the graph of that.
    """
    ratio = job.selection.ratio
    if count == 1 or ratio is None:
        return None
    selection, whole = job.selection.part(gone_after(ratio, number, count)), job.graph
    now = whole.places(before.keep, smaller)
    here = now >= 0

    def choose(graph: Graph, scores: Tensor, fixed: Tensor) -> Mask:
        limits = torch.finfo(scores.dtype)
        ranked = torch.full_like(now, limits.max, dtype=scores.dtype)  # what cannot go any more goes last
        ranked[~before.keep] = limits.min  # what has gone goes first
        ranked[here] = scores[now[here]]
        stays = torch.zeros_like(here)
        stays[here] = fixed[now[here]]
        keep = torch.ones(graph.units, dtype=torch.bool)
        keep[now[here]] = selection.choose(whole, ranked, stays).keep[here]
        return Mask(keep)

    return choose


def _weights(start: _First) -> dict[str, Any] | None:
    return start.snapshot.weights if start.snapshot else None


def _whole(job: Job, mask: Mask, cuts: list[Cut]) -> Cut:
    """Return the cut that several come to: figures of the first, the largest error, whatever failed in any."""
    made = replace(
        cuts[0].slimmed,
        model=remove(job.dense, job.graph, mask),
        mask=mask,
        evidence=all_shown([one.slimmed.evidence for one in cuts]),
        failing=tuple(name for one in cuts for name in one.slimmed.failing),
    )
    return replace(cuts[0], slimmed=made)
