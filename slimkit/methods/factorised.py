"""Factorised layers: every layer that pays as two thin ones, Khodak et al. 2021, arXiv:2105.01029.

A second stage, after channels were removed or alone: ranks by energy or to a budget, weights from the singular
values of the trained ones, then training in which the product is decayed, not the factors. What the two compute
can be merged into one layer again (`surgery.factorise.merge`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any

import torch
from torch import nn

from slimkit.errors import BudgetError, SpecError
from slimkit.example import Example
from slimkit.measure.conditions import Conditions
from slimkit.measure.environment import preferred_step
from slimkit.measure.macs import count_macs
from slimkit.methods.cut import named
from slimkit.methods.job import Job
from slimkit.methods.method import Found, Method, leg
from slimkit.methods.train import history, train
from slimkit.models.factors import Factors
from slimkit.quantity import number_of
from slimkit.results import Search
from slimkit.settings import Settings, setting
from slimkit.settings.checks import choice, flag, number, whole, word_or
from slimkit.surgery import proof, ranks, thin_times
from slimkit.surgery.factorise import factorise, left_dense, merge
from slimkit.surgery.thin_times import ThinTime
from slimkit.training import state
from slimkit.training.distributed import from_first
from slimkit.training.frobenius import frobenius_decay

_LEAST = 1e-9  # share of the energy that rank 1 has at least
_NONE = (
    "no layer is cheaper as two thin ones at these settings.\n"
    "  Lower the energy or the budget, or remove channels: slimkit compress"
)
_OTHER = "Give another method: slimkit methods"
_TOLD = 5  # layers that a message names


@dataclass(frozen=True, kw_only=True)
class FactorisedConfig(Settings):
    """Which ranks, and what decays."""

    chosen_by: str = setting(
        "params",
        "what ranks are chosen by: energy (share of the squared singular values kept), params or macs (share left)",
        choice("energy", "params", "macs"),
    )
    rank_share: float = setting(0.5, "that share, in (0, 1]", number(0, 1, above=True))
    only_faster: bool = setting(
        False,
        "make a layer two only at ranks at which they were faster, as measured in the run's engine",
        flag,
    )
    rank_step: str | int = setting(
        "auto",
        "ranks are multiples of it; auto: of what engines run fast, or of less where the budget needs it",
        word_or("auto", whole(1)),
    )
    begin: str = setting(
        "trained",
        "weights of two thin layers: trained (by the singular values of the trained ones), initial (of those before "
        "training, as in the paper), fresh (drawn anew: plain low rank)",
        choice("trained", "initial", "fresh"),
    )
    frobenius: bool = setting(True, "decay the product of two thin layers instead of each", flag)


@dataclass(frozen=True)
class Factorisation:
    """A network with thin layers, not trained further, and what it cost and costs.

    Attributes:
        model: in eval mode.
        ranks: path -> rank of the layers that are two now.
        whole: paths of layers that could have been two and are not: two cost as much there, are
            slower, or the network reads the weight by itself.
        times: of the layers considered, where `only_faster` asked for them: up to which rank two are faster, and
            then of the ranks chosen.
        params, macs: before and after.
        error: against the same network with the thin layers merged again: the proof of the surgery.
    """

    model: nn.Module
    ranks: dict[str, int]
    whole: tuple[str, ...]
    times: tuple[ThinTime, ...]
    params: tuple[int, int]
    macs: tuple[int, int]
    error: float


def reduce(
    model: nn.Module,
    images: Sequence[Example],
    config: FactorisedConfig,
    times: Sequence[ThinTime] = (),
    measure: thin_times.Measure | None = None,
) -> Factorisation:
    """Make the layers of a trained network thin, but for the first and the last one, as in the paper.

    Args:
        model: not changed.
        images: what the proof runs on, inputs of a batch of one; costs are those of the first.
        times: of the layers, where `only_faster` asks for them: shapes alone decide. Where none are given they
            are measured here, in ONNX Runtime, one image and one thread.
        measure: times layers at the ranks chosen; where it is not given that is done here, in the same way.

    Raises:
        BudgetError: the budget cannot be met.
        ProofError: thin layers and the same ones merged differ.
        SpecError: no layer would be two.
    """
    found = _candidates(model, images[0])

    def choose(layers: Sequence[ranks.Spectrum]) -> dict[str, int]:
        return _chosen(model, images, layers, config)

    def time(asked: Mapping[str, int]) -> Sequence[ThinTime]:
        return thin_times.times_of(model, found, asked, Conditions())

    if config.only_faster:
        times = times or thin_times.times(model, _reaching(found, config, choose)[0], Conditions())
        chosen, times = thin_times.settled(found, times, choose, measure or time)
    else:
        _, chosen = _reaching(found, config, choose)
    error = proof.require(_error(model, chosen, images), "thin layers against the same ones merged")
    thin = factorise(model, chosen).eval()
    return Factorisation(
        model=thin,
        ranks=chosen,
        whole=tuple(layer.path for layer in found if layer.path not in chosen),
        times=tuple(times),
        params=(_params(model), _params(thin)),
        macs=(count_macs(model, images[0]), count_macs(thin, images[0])),
        error=error,
    )


def _error(model: nn.Module, chosen: dict[str, int], images: Sequence[Example]) -> float:
    thin = factorise(model, chosen)
    return proof.compare(proof.outputs(merge(thin), images), thin, images)


def _reaching(
    found: Sequence[ranks.Spectrum],
    config: FactorisedConfig,
    choose: Callable[[Sequence[ranks.Spectrum]], dict[str, int]],
) -> tuple[list[ranks.Spectrum], dict[str, int]]:
    """Return layers with the step of their ranks, and the ranks; the step is finer where the budget needs it.

    Raises:
        BudgetError: none reaches it. SpecError: no layer would be two.
    """
    auto = config.rank_step == "auto"
    step = preferred_step() if auto else int(config.rank_step)
    while True:
        layers = ranks.in_steps(found, step)
        try:
            return layers, choose(layers)
        except (BudgetError, SpecError):  # or none would be two
            if step == 1 or not auto:
                raise
            step //= 2


def _candidates(model: nn.Module, image: Example) -> list[ranks.Spectrum]:
    if found := ranks.layers(model, image)[1:-1]:
        return found
    unfit = [f"{path!r}: {why}" for path, why in left_dense(model).items()][:_TOLD]
    told = "no layer but the first and the last can be two thin ones, as a Linear or a Conv2d can."
    raise SpecError("\n  ".join([told, *unfit, _OTHER]))


def _chosen(
    model: nn.Module, images: Sequence[Example], found: Sequence[ranks.Spectrum], config: FactorisedConfig
) -> dict[str, int]:
    """Return the rank of each layer that is to be two.

    Raises:
        BudgetError: the budget cannot be met.
        SpecError: none would be.
    """
    chosen = _ranked(model, images[0], found, config)
    if _error(model, chosen, images) > proof.TOLERANCE:  # a network may do more with a layer than call it
        proven = {path for path, rank in chosen.items() if _error(model, {path: rank}, images) <= proof.TOLERANCE}
        lost = chosen.keys() - proven
        left = [replace(layer, most=0) if layer.path in lost else layer for layer in found]
        chosen = _ranked(model, images[0], left, config)
    if not chosen:
        raise SpecError(_NONE)
    return chosen


def _ranked(
    model: nn.Module, image: Example, found: Sequence[ranks.Spectrum], config: FactorisedConfig
) -> dict[str, int]:
    if config.chosen_by == "energy":
        return ranks.by_energy(found, config.rank_share)
    cost: ranks.CostKind = "params" if config.chosen_by == "params" else "macs"
    whole = _params(model) if cost == "params" else count_macs(model, image)
    return ranks.to_budget(found, whole, int(config.rank_share * whole), cost)


def _params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def needed(job: Job, config: FactorisedConfig) -> None:
    """Refuse what no weights can mend: shapes say what a layer of rank 1 costs, and whether that meets a budget.

    Raises:
        BudgetError: the budget cannot be met.
        SpecError: no layer would be two.
    """
    _check(job, config)


def _check(job: Job, config: FactorisedConfig, times: Sequence[ThinTime] = ()) -> None:
    found = _candidates(job.dense, job.example)
    if times:
        _easiest(job, thin_times.bounded(found, times), config)
    else:
        _reaching(found, config, lambda layers: _easiest(job, layers, config))


def _easiest(job: Job, found: Sequence[ranks.Spectrum], config: FactorisedConfig) -> dict[str, int]:
    """Return ranks that some weights would get, and no weights lower ones."""
    easiest = replace(config, rank_share=_LEAST) if config.chosen_by == "energy" else config
    return _chosen(job.dense, proof.random_like(job.example), found, easiest)


def _timed(job: Job, config: FactorisedConfig, asked: Mapping[str, int] | None = None) -> tuple[ThinTime, ...]:
    """Return times that all processes of a run share, and one that is resumed: others would give other ranks.

    Of the ranks asked for, path -> rank; else of those up to which two are faster.
    """
    at = "".join(f"-{path}-{rank}" for path, rank in (asked or {}).items())
    name = f"times-{sha256(at.encode()).hexdigest()[:16]}" if asked else "times"
    store = replace(job.store, folder=job.store.folder / name) if job.store else None

    def measured() -> list[dict[str, Any]]:
        known, _ = state.read(store) if store else (None, None)
        if known is None:
            found = _candidates(job.dense, job.example)
            found, _ = _reaching(found, config, lambda layers: _easiest(job, layers, config))
            if asked:
                timed = thin_times.times_of(job.dense, found, asked, job.conditions, job.progress)
            else:
                timed = thin_times.times(job.dense, found, job.conditions, job.progress)
            known = {"times": [asdict(time) for time in timed]}
            if store:
                state.write(store, known)
        return list(known["times"])

    return tuple(ThinTime(**time) for time in from_first(measured, job.device))


def run(job: Job, config: FactorisedConfig) -> Found:
    """Train the dense network unless the thin layers begin without that, make its layers thin, and train on."""
    times = _timed(job, config) if config.only_faster else ()
    _check(job, config, times)
    done = [train(job, job.dense, part="dense")] if config.begin == "trained" else []
    whole_network = named(done[0].model, job.dense) if done else job.dense
    images = proof.random_like(job.example)
    thin = reduce(whole_network, images, config, times, lambda asked: _timed(job, config, asked))
    if config.begin == "fresh":
        _draw_anew_(thin.model, job.recipe.seed)
    hooks = [frobenius_decay(job.recipe.weight_decay)] if config.frobenius else []
    done.append(train(job, thin.model, hooks=hooks, doing="retraining" if done else "training", part="retraining"))
    init = "inherit" if config.begin == "trained" else config.begin
    search = Search(method=METHOD.name, init=init, history=history(done))
    legs = [leg(thin.macs[1], done[-1].phases, search=False)]
    if len(done) > 1:
        legs.insert(0, leg(thin.macs[0], done[0].phases, search=True))
    whole = f"; left whole: {', '.join(thin.whole)}" if thin.whole else ""
    params = f"params {thin.params[0]} to {thin.params[1]}"
    said = f"{number_of(len(thin.ranks), 'layer')} became two thin ones, {params}{whole}"
    return Found(named(done[-1].model, thin.model), tuple(done), tuple(legs), search, error=thin.error, notes=(said,))


def _draw_anew_(thin: nn.Module, seed: int) -> None:
    """Draw the weights of thin layers by He's rule, as those of a network that was never whole."""
    random = torch.Generator().manual_seed(seed)
    for module in thin.modules():
        if isinstance(module, Factors):
            for layer in (each for each in module.modules() if isinstance(each, (nn.Conv2d, nn.Linear))):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=random)


METHOD = Method(
    name="factorised",
    summary="train, make layers two thin ones by their singular values, train on (Khodak et al. 2021); no channel goes",
    config=FactorisedConfig,
    run=run,
    ranking="group-norm",
    removes=False,
    needs=needed,
)
