"""Lottery tickets: the single weights that train alone, Frankle & Carbin 2019, arXiv:1803.03635.

Train, remove the smallest weights, put the rest back to what they were at step k, and again, in rounds; with
k > 0 it is rewinding, Frankle et al. 2019, arXiv:1903.01611: schedule and data order resume at k too.

All rounds are one run of the training loop: at its end a hook prunes, puts the weights back and rewinds the
run, so that it is resumed like any other. The run ends with the last removal where nobody wants what the ticket is
trained to. What is left are zeros in dense layers: they save no time.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimkit import data, training
from slimkit.errors import MaskError, SpecError
from slimkit.example import Example, batch_size, call, on, tensors
from slimkit.hardware import CPU
from slimkit.methods import snapshot
from slimkit.methods.cut import named
from slimkit.methods.job import Job
from slimkit.methods.method import Found, Method, leg
from slimkit.methods.shrink import on_cpu, refuse_late
from slimkit.methods.snapshot import Snapshot
from slimkit.methods.train import history, train
from slimkit.methods.zeros import NO_FASTER, masked
from slimkit.modules import copied
from slimkit.results import Search
from slimkit.selection import weight_mask
from slimkit.selection.weight_mask import WeightMask, hold, prunable
from slimkit.settings import Settings, setting
from slimkit.settings.checks import choice, number, whole

_INPUTS = 16  # of the validation split, between which a network has to tell


@dataclass(frozen=True, kw_only=True)
class WeightTicketConfig(Settings):
    """How many rounds, and what each removes."""

    rounds: int = setting(1, "rounds of training and removal", whole(1))
    rewind_step: int = setting(0, "step whose weights, schedule and data order the ticket goes back to", whole(0))
    round_share: float = setting(
        0.2, "share of the weights left that each round removes, in (0, 1)", number(0, 1, above=True, below=True)
    )
    compete: str = setting(
        "layer",
        "which weights compete: of a layer (the last loses half the share), or all",
        choice("layer", "all"),
    )
    begin: str = setting(
        "ticket",
        "what the last network is trained from: ticket, or a control: reinitialised, by-layer (the ticket's own "
        "weights in another order within each layer), random (as many weights of each layer, others)",
        choice("ticket", "reinitialised", "by-layer", "random"),
    )
    deliver: str = setting(
        "trained", "the ticket trained to the end, or the ticket itself, untrained", choice("trained", "ticket")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.begin != "ticket" and self.deliver == "ticket":
            raise SpecError(f"deliver is 'ticket' and begin is {self.begin!r}: a control is trained.\n  Leave one out")

    @property
    def trains(self) -> bool:
        """Whether the ticket itself is trained, after the last removal."""
        return self.begin == "ticket" and self.deliver == "trained"


@dataclass(frozen=True)
class Ticket:
    """What the rounds gave.

    Attributes:
        mask: which weights stay.
        start: all weights at step k, not masked: with the mask they are the ticket.
        model: the network at the end of the rounds, which may have trained the ticket.
    """

    mask: WeightMask
    start: Snapshot
    model: nn.Module

    def network(self) -> nn.Module:
        """Return the ticket itself: the mask on the weights of step k, not trained any further."""
        model = copied(self.model)
        model.load_state_dict(self.start.weights)
        weight_mask.apply_(model, self.mask)
        return model


def after(mask: WeightMask, weights: dict[str, Tensor], config: WeightTicketConfig, number: int) -> WeightMask:
    """Return the mask after round `number`, counted from 1, of weights trained under the mask before it."""
    for names, left in _left(mask, config, number):
        mask = weight_mask.largest(weights, mask, names, left)
    return mask


def _left(mask: WeightMask, config: WeightTicketConfig, number: int) -> list[tuple[list[str], int]]:
    """Return which tensors compete, and how many of their weights are left after a round.

    That is counted from the whole, so that rounding does not add up: n * (1 - share)^number to the nearest weight, of a
    layer or of the network.
    """
    sizes = {name: keep.numel() for name, keep in mask.keep.items()}
    names = list(sizes)
    if config.compete == "all":
        return [(names, round(sum(sizes.values()) * (1 - config.round_share) ** number))]
    shares = dict.fromkeys(names, config.round_share)
    if len(names) > 1:
        shares[names[-1]] /= 2
    return [([name], round(sizes[name] * (1 - shares[name]) ** number)) for name in names]


class _Rounds:
    """Prunes at the end of the schedule and rewinds, until all rounds are done and the ticket is trained, if asked."""

    def __init__(self, model: nn.Module, example: Example, inputs: Example, config: WeightTicketConfig) -> None:
        self.config, self.mask, self.inputs = config, WeightMask.full(model, example), inputs
        for names, left in _left(self.mask, config, config.rounds):
            if left < len(names):
                raise MaskError(
                    f"{config.rounds} rounds that each remove {config.round_share:g} of the weights leave "
                    f"{left or 'none'} of the {sum(self.mask.keep[name].numel() for name in names)} in "
                    f"{', '.join(names)}.\n  Give a smaller `round_share`, or fewer `rounds`"
                )
        self.start = snapshot.take(model, None, 0) if config.rewind_step == 0 else None
        self.random: Tensor | None = None
        self.done = 0
        self.gone: dict[str, Tensor] = {}

    def hook(self) -> training.Hook:
        return training.Hook(
            gradients=self._remember_random,
            after_step=self._after_step,
            after_epoch=self._after_epoch,
            save=self._save,
            restore=self._restore,
        )

    def ticket(self, model: nn.Module) -> Ticket:
        """Return what was found once all rounds are done."""
        assert self.start is not None
        return Ticket(self.mask, self.start, model)

    def _remember_random(self, run: training.Run) -> None:
        if self.random is None and self.config.rewind_step == 0:
            self.random = torch.Generator().manual_seed(torch.initial_seed()).get_state()  # as the run began

    def _after_step(self, run: training.Run) -> None:
        if self.start is None and run.step == self.config.rewind_step:
            self.start = snapshot.take(run.model, run.optimizer, run.step)
            self.random = torch.get_rng_state()
        self._silence(run)

    @torch.no_grad()
    def _silence(self, run: training.Run) -> None:
        weights = prunable(run.model)
        for name, gone in self.gone.items():
            weights[name].masked_fill_(gone, 0.0)

    def _after_epoch(self, run: training.Run) -> None:
        if run.step < run.budget:
            return
        self.done += 1
        if self.done > self.config.rounds:
            return
        assert self.start is not None and self.random is not None
        self.mask = after(self.mask, dict(prunable(run.model)), self.config, self.done)
        self._check(run.model)
        if self.done == self.config.rounds and not self.config.trains:
            return
        self._hold(run)
        snapshot.put_(self.start, run.model, run.optimizer)
        self._silence(run)
        torch.set_rng_state(self.random)
        run.rewind(self.config.rewind_step)

    def _check(self, model: nn.Module) -> None:
        """Refuse a mask under which the network answers the same to all inputs, before anything is trained under it.

        Weights that were trained and those of step k have to agree on that: with one of them it may be luck.

        Raises:
            MaskError: it does.
        """
        assert self.start is not None
        ticket, empty = on_cpu(model), [name for name, left in self.mask.left.items() if not left]
        for weights in (None, self.start.weights):
            if weights is not None:
                ticket.load_state_dict(weights)
            weight_mask.apply_(ticket, self.mask)
            if _tells_apart(ticket, self.inputs):
                return
        held = f" (none in {', '.join(empty)})" if empty else ""
        less = ", or `compete='layer'`" if self.config.compete == "all" else ""
        raise MaskError(
            f"round {self.done} of {self.config.rounds} leaves {sum(self.mask.left.values())} weights{held}: the "
            f"network answers the same to all inputs, and no training changes that.\n"
            f"  Give a smaller `round_share` than {self.config.round_share:g}, or fewer `rounds`{less}"
        )

    def _hold(self, run: training.Run) -> None:
        self.gone = {name: ~keep.to(run.device) for name, keep in self.mask.keep.items()}

    def _save(self) -> dict[str, Any]:
        return {
            "keep": dict(self.mask.keep),
            "start": self.start.state() if self.start else None,
            "random": self.random,
            "done": self.done,
        }

    def _restore(self, run: training.Run, saved: dict[str, Any]) -> None:
        self.mask = WeightMask(saved["keep"])
        self.start = Snapshot(**saved["start"]) if saved["start"] else None
        self.random = saved["random"]
        self.done = int(saved["done"])
        self._hold(run)


def _tells_apart(model: nn.Module, inputs: Example) -> bool:
    """Tell whether any output of a network in eval mode differs between inputs; true where that cannot be seen."""
    count = batch_size(inputs)
    with torch.no_grad():
        found = [out for out in tensors(call(model, inputs)) if out.dim() and len(out) == count > 1]
    return not found or any(not torch.allclose(out, out[:1].expand_as(out), atol=1e-9) for out in found)


def reinitialised(fresh: nn.Module, mask: WeightMask) -> nn.Module:
    """Return a control: a network just initialised under a ticket's mask."""
    model = copied(fresh)
    weight_mask.apply_(model, mask)
    return model


def reinitialised_by_layer(ticket: Ticket, seed: int) -> nn.Module:
    """Return a control: each layer's surviving weights of step k in another order (the paper's appendix F.3).

    They have the distribution of the ticket's own weights, which is not that of a fresh network.
    """
    random = torch.Generator().manual_seed(seed)
    model = ticket.network()
    with torch.no_grad():
        for name, weight in prunable(model).items():
            keep = ticket.mask.keep[name]
            values = weight[keep]
            weight[keep] = values[torch.randperm(len(values), generator=random)]
    return model


def random_sparse(ticket: Ticket, seed: int) -> tuple[nn.Module, WeightMask]:
    """Return a control: as many weights of each layer, drawn at random, at their values of step k; and the mask."""
    mask = weight_mask.shuffled(ticket.mask, seed)
    model = copied(ticket.model)
    model.load_state_dict(ticket.start.weights)
    weight_mask.apply_(model, mask)
    return model, mask


def run(job: Job, config: WeightTicketConfig) -> Found:
    """Look for a ticket; deliver it, what it was trained to, or what a control was."""
    rounds = _rounds(job, config)
    done = [train(job, job.dense, hooks=[rounds.hook()], part="rounds" if config.begin != "ticket" else "")]
    found = rounds.ticket(done[0].model)
    model, mask = found.model, found.mask
    if config.begin != "ticket":
        start, mask = _control(job, config, found)
        done.append(train(job, start, hooks=[hold(mask)], part="control", first_step=config.rewind_step))
        model = done[1].model
    elif not config.trains:
        model = found.network().eval()
    model = named(model, job.dense)
    masked(model, mask.left, "ticket" if config.deliver == "ticket" else "trained")
    init = "rewind" if config.begin == "ticket" else config.begin
    search = Search(method=METHOD.name, init=init, history=history(done))
    notes = (
        NO_FASTER,
        f"the file holds the {config.deliver} weights, {100 * mask.density:.3g} % of them left",
        *_emptied(mask, config),
    )
    phases = [phase for one in done for phase in one.phases]
    legs = tuple(leg(job.macs(), [phase], search=number < config.rounds) for number, phase in enumerate(phases))
    return Found(model, tuple(done), legs, search, notes=notes)


def _rounds(job: Job, config: WeightTicketConfig) -> _Rounds:
    """Return the rounds to come.

    Raises:
        MaskError: they would leave a layer without weights, or fewer weights than layers.
        SpecError: the step to rewind to is not in the run.
    """
    refuse_late(job, config.rewind_step)
    validation = job.dataset.validation
    inputs, _ = next(iter(validation.batches(data.at_once(validation, _INPUTS))))
    return _Rounds(job.dense, job.example, on(CPU, inputs), config)


def _emptied(mask: WeightMask, config: WeightTicketConfig) -> tuple[str, ...]:
    """Name the layers that compute next to nothing any more."""
    if not mask.nearly_empty:
        return ()
    named = ", ".join(f"{name} ({mask.left[name]} left)" for name in mask.nearly_empty)
    less = ", or compete='layer'" if config.compete == "all" else ""
    return (
        f"hardly a weight is left in {named}: nine outputs in ten, or more, are constants there. A smaller "
        f"round_share{less} leaves more",
    )


def _control(job: Job, config: WeightTicketConfig, found: Ticket) -> tuple[nn.Module, WeightMask]:
    """Return what a control is trained from, and which of its weights stay."""
    if config.begin == "random":
        return random_sparse(found, job.recipe.seed)
    if config.begin == "by-layer":
        return reinitialised_by_layer(found, job.recipe.seed), found.mask
    return reinitialised(job.fresh(), found.mask), found.mask


METHOD = Method(
    name="weight-ticket",
    summary="train, remove single weights, rewind, in rounds (Frankle and Carbin 2019); zeros, so no time is saved",
    config=WeightTicketConfig,
    run=run,
    ranking="group-norm",
    removes=False,
    needs=_rounds,
)
