"""When to draw: the policies of `slimkit train`, all on one training loop."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from slimkit import provenance, training
from slimkit.channels import trace
from slimkit.errors import SpecError
from slimkit.measure import accuracy
from slimkit.methods import network_slimming
from slimkit.methods.cut import cutter, slimmed
from slimkit.methods.early_bird import EarlyBird
from slimkit.methods.figures import history_rows, penalised, record
from slimkit.methods.job import Job, Searched, fixed_units, recipe, steps_of, strength
from slimkit.methods.settled import Rule
from slimkit.methods.shrink import Cut, Plan, Shrinking
from slimkit.results.ledger import Leg
from slimkit.runs.start import allowed_widths
from slimkit.selection.choose import choose
from slimkit.selection.mask import Mask
from slimkit.selection.scope import by_scope
from slimkit.settings import TrainSpec
from slimkit.surgery.remove import remove
from slimkit.training import low_precision

NO_GAP = (
    "what was penalised has no gap at this ratio, so the cut removes channels that the network uses: lower the "
    "ratio, or raise penalty_total"
)
LOOKS = 8  # an epoch, or until the deadline


def search(job: Job) -> Searched:
    """Train, draw and train on, as the draw policy says."""
    if job.spec.draw == "end":
        return _network_slimming(job)
    if job.spec.draw in ("init", "epoch:0"):
        return _from_the_start(job)
    return _stop_and_shrink(job)


def _stop_and_shrink(job: Job) -> Searched:
    """Draw in the middle of one schedule: early bird, or at a given epoch."""
    spec, settings = job.spec, recipe(job.spec)
    steps = steps_of(job)
    early = spec.draw == "early-bird"
    at = max(1, round(spec.deadline * steps * spec.epochs)) if early else int(spec.draw.removeprefix("epoch:")) * steps
    shrinking = watch(job, at, trigger=early)
    trained = train(job, job.dense, settings, [shrinking.hook()], job.store, "training", search=True)
    job.warnings += trained.notes
    drawn = shrinking.drawn
    assert drawn is not None and shrinking.drawn_step is not None
    if early and shrinking.bird.ratio not in shrinking.bird.draws:
        job.warnings.append(why_unsettled(spec, shrinking))
    elif penalised(job) and not drawn.kept["gap"]:
        job.warnings.append(NO_GAP)
    if not trained.phases[-1].images:
        job.warnings.append(
            "the mask was drawn at the last step: the small network was not trained; give more --epochs"
        )
    full, small = (job.graph.macs(keep) for keep in (Mask.full(job.graph).keep, drawn.mask.keep))
    legs = tuple(
        leg(full if number == 0 else small, [phase], search=number == 0) for number, phase in enumerate(trained.phases)
    )
    return Searched(
        model=named(trained.model, drawn.model),
        slimmed=slimmed(job.graph, drawn),
        legs=legs,
        search=record(job, shrinking, drawn.kept, trained.history, steps),
        rows=drawn.kept["rows"],
        device=trained.device,
        precision=trained.precision,
        earlier=trained.earlier,
    )


def _from_the_start(job: Job) -> Searched:
    """Draw before any training: a small network of widths that the initial weights, or chance, choose."""
    cut = cutter(job, job.graph, job.solver)(copy.deepcopy(job.dense).eval())
    small, settings = job.graph.macs(cut.mask.keep), recipe(job.spec)
    if job.spec.spend is not None:
        affordable = int(job.spec.spend * settings.epochs * job.graph.macs(Mask.full(job.graph).keep) / small)
        settings = replace(settings, epochs=max(settings.epochs, affordable))
    model = remove(job.fresh(), job.graph, cut.mask) if job.spec.init == "fresh" else cut.model
    trained = train(job, model, settings, [], job.store, "training")
    job.warnings += trained.notes
    found: dict[str, Any] = {
        "draw_policy": job.spec.draw,
        "history": history_rows(trained.history),
        "ratios": {},
        "penalty": None,
    }
    return Searched(
        model=named(trained.model, cut.model),
        slimmed=slimmed(job.graph, cut),
        legs=(leg(small, trained.phases, search=False),),
        search=found,
        rows=cut.kept["rows"],
        device=trained.device,
        precision=trained.precision,
        earlier=trained.earlier,
    )


def _network_slimming(job: Job) -> Searched:
    """Train with the penalty, cut, and train again; several passes cut a share each."""
    spec, settings, steps = job.spec, recipe(job.spec), steps_of(job)
    if spec.passes > 1 and spec.ratio is None:
        raise SpecError(f"passes is {spec.passes}: several passes share out a ratio.\n  Give --ratio")
    shrinking = watch(job, None, trigger=False)
    model, graph, mask = job.dense, job.graph, Mask.full(job.graph)
    legs: list[Leg] = []
    earlier = [0.0, 0.0]
    history: list[training.Epoch] = []
    error = 0.0
    failing: list[str] = []
    first: dict[str, Any] = {}
    part = spec if spec.ratio is None else replace(
        spec, ratio=network_slimming.ratio_of_pass(spec.ratio, spec.passes)
    )  # fmt: skip
    first_step = spec.rewind_step if spec.init == "rewind" else 0
    if first_step >= spec.epochs * steps:
        raise SpecError(f"rewind_step is {first_step}: the schedule has only {spec.epochs * steps} steps.")
    for number in range(spec.passes):
        watching = shrinking.hook() if number == 0 else shrinking.penalty_hook(graph)
        kept = sub(job.store, f"pass{number + 1}")
        again = first_step if number else 0
        trained = train(job, model, settings, [watching], kept, "training", search=True, first_step=again)
        job.warnings += trained.notes
        legs.append(leg(graph.macs(Mask.full(graph).keep), trained.phases, search=True))
        earlier = [spent + more for spent, more in zip(earlier, trained.earlier, strict=True)]
        history += trained.history
        cut = cutter(replace(job, spec=part), graph, job.solver if spec.passes == 1 else None)(trained.model)
        first = first or cut.kept
        mask = network_slimming.composed(job.graph, mask, graph, cut.mask) if number else cut.mask
        error, failing = max(error, cut.kept["error"]), [*failing, *cut.kept["failing"]]
        model = named(begun(job, shrinking, mask) or cut.model, cut.model)
        if number + 1 < spec.passes:
            graph = trace(model, torch.zeros(1, *job.dataset.input_shape))
    trained = train(job, model, settings, [], sub(job.store, "retraining"), "retraining", first_step=first_step)
    job.warnings += trained.notes
    if penalised(job) and not first["gap"]:
        job.warnings.append(NO_GAP)
    legs.append(leg(job.graph.macs(mask.keep), trained.phases, search=False))
    earlier = [spent + more for spent, more in zip(earlier, trained.earlier, strict=True)]
    history += trained.history
    whole = Cut(remove(job.dense, job.graph, mask), mask, first | {"error": error, "failing": failing})
    return Searched(
        model=named(trained.model, model),
        slimmed=slimmed(job.graph, whole),
        legs=tuple(legs),
        search=record(job, shrinking, first, history, steps),
        rows=first["rows"],
        device=trained.device,
        precision=trained.precision,
        earlier=(earlier[0], earlier[1]),
    )


def leg(macs: int, phases: Sequence[training.Phase], search: bool) -> Leg:
    """Add up what one network was trained for."""
    images = sum(phase.images for phase in phases)
    seconds, cpu = math.fsum(phase.seconds for phase in phases), math.fsum(phase.cpu_seconds for phase in phases)
    return Leg(macs, images, search, seconds, cpu)


def begun(job: Job, shrinking: Shrinking, mask: Mask) -> nn.Module | None:
    """Return the small network with the weights that `init` names, None where it inherits them."""
    if job.spec.init == "fresh":
        return remove(job.fresh(), job.graph, mask)
    if job.spec.init == "rewind" and shrinking.snapshot is not None:
        dense = copy.deepcopy(job.dense)
        dense.load_state_dict(shrinking.snapshot.weights)
        return remove(dense, job.graph, mask)
    return None


def why_unsettled(spec: TrainSpec, shrinking: Shrinking) -> str:
    """Say why a mask was drawn before it had settled."""
    drawn, seen = f"step {shrinking.drawn_step}", shrinking.bird.observations
    if len(seen) > 1 and not any(look.evidence for look in seen[1:]):
        return (
            f"no gamma has moved, so the mask was drawn from where the network began ({drawn}): let its BatchNorm "
            "train, or rank by weights, --set ranking=group-norm"
        )
    return (
        f"the mask had not settled after {100 * spec.deadline:g} % of the steps and was drawn as it was ({drawn}): "
        "waiting would have cost more than a better mask brings"
    )


def watch(job: Job, at: int | None, trigger: bool) -> Shrinking:
    spec, steps = job.spec, steps_of(job)
    every = spec.interval or max(1, min(steps, at or steps) // LOOKS)
    rule = Rule(spec.rule, spec.threshold, spec.normalised, interval=every / steps)
    fixed = fixed_units(job)
    bird = EarlyBird(
        job.graph,
        watched_ratio(job, fixed),
        rule=rule,
        watch=spec.watch,
        cap=spec.cap,
        fixed=fixed,
        ranking="gamma" if spec.ranking == "taylor" else spec.ranking,  # a look must cost next to nothing
        scope=spec.scope,
    )
    plan = Plan(
        every=every,
        at=at,
        trigger=trigger,
        init=spec.init,
        rewind_step=spec.rewind_step,
        penalty=spec.penalty,
        strength=strength(job),
        spend=spec.spend,
    )
    shrinking = Shrinking(job.graph, bird, plan, cutter(job, job.graph, job.solver), job.fresh)
    if spec.init == "rewind" and spec.rewind_step == 0:
        shrinking.start_from(job.dense)
    return shrinking


def watched_ratio(job: Job, fixed: Tensor) -> float:
    """Return the ratio to watch: the one asked for, or about what another budget comes to."""
    if job.spec.ratio is not None:
        return job.spec.ratio
    scores = by_scope(job.graph, torch.rand(job.graph.units, generator=torch.Generator().manual_seed(0)), "group")
    allowed = allowed_widths(job.spec)
    mask = (
        job.solver(job.graph, scores, allowed, fixed)
        if job.solver
        else choose(job.graph, scores, job.spec.budget, allowed, fixed)
    )
    return mask.removed / max(1, job.graph.units - int(fixed.sum()))


def train(
    job: Job,
    model: nn.Module,
    settings: training.Recipe,
    hooks: Sequence[training.Hook],
    store: training.Store | None,
    doing: str,
    search: bool = False,
    first_step: int = 0,
) -> training.Trained:
    if job.spec.search_precision != "fp32" and search:
        model = copy.deepcopy(model)
        low_precision.lower_(model, job.spec.search_precision)
    trained = training.train(
        model,
        job.dataset.train,
        settings,
        hooks=hooks,
        evaluate=lambda network: accuracy.accuracy(network, job.dataset.validation),
        progress=lambda run: job.progress(f"{doing}, loss {run.loss:.3f}", run.step / run.budget),
        store=store,
        first_step=first_step,
    )
    low_precision.restore_(trained.model)
    return trained


def sub(store: training.Store | None, name: str) -> training.Store | None:
    return replace(store, folder=store.folder / name) if store else None


def named(model: nn.Module, like: nn.Module) -> nn.Module:
    """Let a trained network be known as what it was cut from."""
    provenance.attach(model, provenance.of(like))
    return model
