"""Controls: would the small network have done as well alone? Liu et al. 2019, arXiv:1810.05270.

All that a ticket of channels keeps without its weights is a list of widths, so the controls are: those widths from
fresh weights, for as many epochs (scratch-E) or as many MACs (scratch-B); random channels of a trained network;
other widths at equal MACs or at equal parameters. U = units of the graph.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from slimkit import training
from slimkit.channels import Graph
from slimkit.errors import OutOfReachError, SpecError
from slimkit.methods.cut import Cut, cut, named
from slimkit.methods.job import Choose, Job
from slimkit.methods.method import Found, Method, leg
from slimkit.methods.train import OVERSPENT, history, train, whole_epochs
from slimkit.quantity import number_of
from slimkit.results import Search, report_file
from slimkit.selection.budget import Widths, out_of_reach, within_reach
from slimkit.selection.hint import hint
from slimkit.selection.mask import Mask
from slimkit.selection.measured import Aim
from slimkit.selection.uneven import uneven
from slimkit.settings import Budget, Settings, setting
from slimkit.settings.checks import choice, number, optional, several, text, whole
from slimkit.settings.train import ALLOWED, BUDGETS, OF_CHANNELS
from slimkit.surgery.remove import remove

CONTROLS = (
    "uniform", "uniform-params", "permuted", "scratch-E", "scratch-B", "random-channels", "fine-tune", "dense",
)  # fmt: skip
_TRAINED = ("random-channels", "fine-tune")  # cut from a network that was trained before
_TIMED = ("scratch-B", "dense", *_TRAINED)  # that say for how long they are trained
_BY_SHARES = ("uniform", "uniform-params", "permuted")  # whose widths are those of the reference in MACs or parameters
_ORDERS = 100  # that are drawn in search of other widths; of two groups or more with different shares half are others


@dataclass(frozen=True, kw_only=True)
class ScratchConfig(Settings):
    """Which control."""

    control: str = setting(
        "uniform",
        "uniform (equal shares of every layer, within the budget, or at the MACs of the reference where widths or a "
        "ratio are given), uniform-params (at its parameters), permuted "
        "(its shares in another order, at its MACs), scratch-E (its widths), scratch-B (its widths, for the MACs of a "
        "dense training), random-channels and fine-tune (its widths, cut from a trained network), dense",
        choice(*CONTROLS),
    )
    like: str | None = setting(
        None,
        "output folder of a run whose widths are the reference; default: what ranking and budget choose on fresh "
        "weights",
        optional(text),
    )
    kept: tuple[int, ...] = setting((), "the reference as numbers: channels that each group keeps", several(whole(1)))
    weights: str = setting(
        "fresh",
        "of a network that was not trained before: fresh, or initial (those of the dense network, of what stays)",
        choice("fresh", "initial"),
    )
    spend: float | None = setting(
        None,
        "train until the run has cost this many dense trainings; default: for the epochs asked for",
        optional(number(0, above=True)),
    )
    longest: float | None = setting(
        None, "most that scratch-B trains longer, as a factor; 2 in the paper for ImageNet", optional(number(1))
    )
    worth: float | None = setting(
        None,
        "dense trainings that scratch-B may cost; default: 1, as in the paper; what the reference has cost is the "
        "strict budget",
        optional(number(0, above=True)),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        dense = self.control == "dense"
        for name, wrong, why in (
            ("kept", bool(self.kept) and self.like is not None, "like says the same"),
            ("longest", self.longest is not None and self.control != "scratch-B", "only scratch-B trains longer"),
            ("worth", self.worth is not None and self.control != "scratch-B", "it is the budget of scratch-B"),
            ("spend", self.spend is not None and self.control in _TIMED, "the control says how long"),
            ("weights", self.weights != "fresh" and self.control in _TRAINED, "the network is trained before"),
            ("weights", self.weights != "fresh" and dense, "it is the network that weights are taken from"),
            ("kept", bool(self.kept) and dense, "it keeps all channels"),
            ("like", self.like is not None and dense, "it keeps all channels"),
        ):
            if wrong:
                given = f"{name} is {getattr(self, name)!r} and control is {self.control!r}"
                raise SpecError(f"{given}: {why}.\n  Leave out {name}")

    @property
    def widths_given(self) -> bool:
        """Whether the widths of the reference are known, not to be chosen by ranking and budget."""
        return self.like is not None or bool(self.kept)


def epochs_b(epochs: float, dense_macs: int, slim_macs: int, longest: float | None = None) -> int:
    """Return the epochs of scratch-B: as many MACs as training the dense network for `epochs`.

    Args:
        epochs: the budget in epochs of the dense network: for an equal cost with a ticket, those that its
            whole run was worth (the strict budget).
        dense_macs: of one forward pass of the dense network.
        slim_macs: of the slim one.
        longest: largest factor over `epochs`; 2 is the paper's for ImageNet, None its for network slimming.
    """
    factor = dense_macs / slim_macs
    return whole_epochs(epochs * (min(factor, longest) if longest is not None else factor))


def random_channels(graph: Graph, mask: Mask, seed: int) -> Mask:
    """Return a mask of the same widths that keeps other channels, drawn at random."""
    scores = torch.rand(graph.units, generator=torch.Generator().manual_seed(seed))
    return of_widths(graph, mask.counts(graph), scores)


def of_widths(graph: Graph, counts: Sequence[int], scores: Tensor) -> Mask:
    """Return the mask that keeps so many units of each group, those of the highest scores [U]."""
    keep = torch.zeros(graph.units, dtype=torch.bool)
    for group, count in zip(graph.groups, counts, strict=True):
        keep[group.members[scores[group.members].argsort(descending=True, stable=True)[:count]]] = True
    return Mask(keep)


def scaled(
    graph: Graph,
    limit: float,
    measure: Callable[[Tensor], int],
    what: str = "macs",
    *,
    shares: Sequence[float] | None = None,
    widths: Widths | None = None,
    fixed: Tensor | None = None,
) -> Mask:
    """Return the widest mask that takes these shares of the groups, times one factor, within a limit.

    Groups keep the counts that are allowed and nearest, and some the next one, where that is within the limit still.

    Args:
        graph: U units in groups.
        limit: largest measure allowed.
        measure: keep [U] -> MACs, or parameters.
        what: its name, for the message.
        shares: one a group; equal ones (uniform widths) unless given.
        widths: counts that groups may keep; any by default.
        fixed: bool [U], units that stay, and their groups with them.

    Raises:
        OutOfReachError: the narrowest that are allowed have more.
    """
    parts = [1.0] * len(graph.groups) if shares is None else shares
    stay = [fixed is not None and bool(fixed[group.members].any()) for group in graph.groups]

    def counts_of(allowed: Widths) -> list[list[int]]:
        each = zip(graph.groups, stay, strict=True)
        return [[len(group.members)] if whole else allowed.of(group) for group, whole in each]

    def attempt(allowed: Widths) -> Mask:
        allowed = allowed.fitted(graph)
        options = counts_of(allowed)

        def wished(factor: float) -> list[float]:
            return [factor * part * full for part, (full, *_) in zip(parts, options, strict=True)]

        def nearest(factor: float) -> list[int]:
            near = zip(options, wished(factor), strict=True)
            return [min(counts, key=lambda count: abs(count - wish)) for counts, wish in near]

        def cost(counts: Sequence[int]) -> int:
            return measure(of_widths(graph, counts, torch.zeros(graph.units)).keep)

        factors = [step / 1000 / min(1.0, *parts) for step in range(1001)]
        place = bisect_right(factors, limit, key=lambda factor: cost(nearest(factor)))
        if not place:
            least = of_widths(graph, nearest(0.0), torch.zeros(graph.units)).keep
            more = hint(allowed, lambda other: cost([counts[-1] for counts in counts_of(other)]) <= limit)
            raise OutOfReachError(out_of_reach(graph, least, measure, limit, what) + more)
        found, wish = nearest(factors[place - 1]), wished(factors[place - 1])
        for i in sorted(range(len(found)), key=lambda i: (found[i] - wish[i]) / options[i][0]):  # what lacks most first
            wider = [*found[:i], min((n for n in options[i] if n > found[i]), default=found[i]), *found[i + 1 :]]
            found = wider if cost(wider) <= limit else found
        return of_widths(graph, found, torch.zeros(graph.units))

    return within_reach(graph, widths or Widths(), attempt)


def permuted(graph: Graph, mask: Mask, seed: int, widths: Widths | None = None, fixed: Tensor | None = None) -> Mask:
    """Return a mask whose shares of the groups are those of another, in another order, at no more MACs.

    Args:
        graph, widths, fixed: as for `scaled`; groups that stay have no part in the order.
        mask: the other one.
        seed: draws the order, among those that give other widths.

    Raises:
        SpecError: no order does, or none of many that were drawn.
    """
    counts = mask.counts(graph)
    shares = [count / len(group.members) for count, group in zip(counts, graph.groups, strict=True)]
    free = [n for n, group in enumerate(graph.groups) if fixed is None or not bool(fixed[group.members].any())]
    tried, random = {tuple(shares)}, torch.Generator().manual_seed(seed)
    for _ in range(_ORDERS):
        order, other = torch.randperm(len(free), generator=random).tolist(), list(shares)
        for place, source in zip(free, order, strict=True):
            other[place] = shares[free[source]]
        if tuple(other) in tried:
            continue
        tried.add(tuple(other))
        found = scaled(graph, graph.macs(mask.keep), graph.macs, shares=other, widths=widths, fixed=fixed)
        if found.counts(graph) != counts:
            return found
    parts = ", ".join(f"{shares[n]:.3g}" for n in free[:8]) + (", ..." if len(free) > 8 else "")
    raise SpecError(
        f"control is 'permuted', and of the {number_of(len(free), 'group')} that may be narrower the reference keeps "
        f"the shares {parts}: in another order they give the same widths.\n"
        "  Give a reference whose layers keep different shares, as `scope='global'` or `kept` makes it, or another "
        "control"
    )


def needed(job: Job, config: ScratchConfig) -> None:
    """Refuse widths that the network cannot have; where they have to be measured the run says so.

    Raises:
        MaskError, BudgetError: nothing can be removed, or not as much.
        SpecError: the widths are another network's.
    """
    if config.control != "dense" and job.selection.measured is None:
        _chooser(job, config)(job.graph, torch.zeros(job.graph.units), job.selection.fixed(job.graph))


def run(job: Job, config: ScratchConfig) -> Found:
    """Train the control."""
    if config.control == "dense":
        return _dense(job)
    if config.control in _TRAINED:
        return _from_trained(job, config)
    graph = job.graph
    made = cut(job, job.dense, graph, _chooser(job, config), inherit=config.weights == "initial")
    mask = made.mask
    model = remove(job.fresh(), graph, mask) if config.weights == "fresh" else made.model
    trained = train(job, model, recipe=replace(job.recipe, epochs=_epochs(job, config, mask)))
    legs = (leg(job.macs(mask), trained.phases, search=False),)
    search = Search(method=METHOD.name, init=config.weights, history=trained.history)
    notes = _too_dear(job, config, mask)
    if config.control in ("uniform", "uniform-params"):
        said = uneven(graph, mask, job.selection.widths, job.selection.fixed(graph))
        notes = (*notes, *([said] if said else []))
    return Found(named(trained.model, made.model), (trained,), legs, search, made, notes=notes)


def _chooser(job: Job, config: ScratchConfig) -> Choose:
    """Return what chooses a control's mask, around the units that stay."""
    selection, control, seed = job.selection, config.control, job.recipe.seed

    def chosen(graph: Graph, scores: Tensor, fixed: Tensor) -> Mask:
        widths = selection.widths
        if control == "uniform" and selection.measured is not None and not config.widths_given:
            return selection.choose(graph, torch.zeros(graph.units), fixed)  # of equal scores, equal shares go
        if control == "fine-tune" and not config.widths_given:
            return selection.choose(graph, scores, fixed)
        mask = reference(job, config, fixed)
        if control == "fine-tune":
            mask = of_widths(graph, mask.counts(graph), scores)
        elif control == "random-channels":
            mask = random_channels(graph, mask, seed)
        elif control == "permuted":
            mask = permuted(graph, mask, seed, widths, fixed)
        elif control in ("uniform", "uniform-params"):
            mask = _uniform(job, config, mask, fixed)
        return Mask(mask.keep | fixed)

    return chosen


def _uniform(job: Job, config: ScratchConfig, mask: Mask, fixed: Tensor) -> Mask:
    """Return equal shares within the run's own budget of MACs or parameters, else within what the reference has."""
    graph, budget = job.graph, job.selection.budget
    own = not config.widths_given and budget.kind == "params"
    kind = "params" if own or config.control == "uniform-params" else "macs"
    measure = graph.params if kind == "params" else graph.macs
    limit: float = measure(mask.keep)
    if not config.widths_given and budget.kind == kind:
        limit = budget.value if budget.absolute else budget.value * measure(Mask.full(graph).keep)
    return scaled(graph, limit, measure, kind, widths=job.selection.widths, fixed=fixed)


def reference(job: Job, config: ScratchConfig, fixed: Tensor | None = None) -> Mask:
    """Return the mask whose widths the control has, or takes its MACs or parameters from.

    Args:
        job, config: what was asked.
        fixed: bool [U], units that stay; those on request unless given.
    """
    graph = job.graph
    fixed = job.selection.fixed(graph) if fixed is None else fixed
    if not config.widths_given:
        return job.selection.choose(graph, job.selection.rank(job.dense, graph), fixed)
    counts = list(config.kept) if config.like is None else _widths_of_run(graph, config.like)
    sizes = [len(group.members) for group in graph.groups]
    if len(counts) != len(sizes) or any(count > size for count, size in zip(counts, sizes, strict=True)):
        raise SpecError(f"kept is {counts}: the groups of this network have {sizes} channels.\n  Give one number each")
    return Mask(of_widths(graph, counts, torch.zeros(graph.units)).keep | fixed)


def _widths_of_run(graph: Graph, folder: str) -> list[int]:
    after = {group.name: (group.before, group.after) for group in report_file.read(Path(folder)).groups}
    wanted = {group.name: len(group.members) for group in graph.groups}
    if {name: before for name, (before, _) in after.items()} != wanted:
        raise SpecError(f"like is {folder!r}: that run was of another network.\n  Give a run of the same one")
    return [after[group.name][1] for group in graph.groups]


def _epochs(job: Job, config: ScratchConfig, mask: Mask) -> int:
    epochs, dense, small = int(job.recipe.epochs), job.macs(), job.macs(mask)
    if config.control == "scratch-B":
        return max(1, epochs_b(epochs * (config.worth or 1.0), dense, small, config.longest))
    return epochs if config.spend is None else max(1, whole_epochs(config.spend * epochs * dense / small))


def _too_dear(job: Job, config: ScratchConfig, mask: Mask) -> tuple[str, ...]:
    """Say that a single epoch costs more than may be spent."""
    epochs = int(job.recipe.epochs)
    cost = job.macs(mask) / (epochs * job.macs())
    if config.spend is None or cost <= OVERSPENT * config.spend:
        return ()
    return (
        f"spend is {config.spend:g}, but a single epoch of this network costs {cost:.2f} of one dense training of "
        f"{epochs}: fewer are not trained. Give more `epochs`, so that one is a smaller share, or spend more",
    )


def _dense(job: Job) -> Found:
    """Train the dense network, and leave it as it is."""
    trained = train(job, job.dense)
    search = Search(method=METHOD.name, history=trained.history)
    return Found(named(trained.model, job.dense), (trained,), (leg(job.macs(), trained.phases, search=False),), search)


def _from_trained(job: Job, config: ScratchConfig) -> Found:
    """Train the dense network, cut it to the reference's widths, and train on for as long."""
    first = train(job, job.dense, part="dense")
    made = cut(job, first.model, job.graph, _chooser(job, config))
    last = train(job, made.model, doing="retraining", part="retraining")
    return _found(job, made, (first, last))


def _found(job: Job, made: Cut, trained: tuple[training.Trained, training.Trained]) -> Found:
    first, last = trained
    legs = (leg(job.macs(), first.phases, search=True), leg(job.macs(made.mask), last.phases, search=False))
    search = Search(method=METHOD.name, init="inherit", history=history(trained))
    return Found(named(last.model, made.model), trained, legs, search, made)


def aim(config: ScratchConfig) -> Aim:
    """Return what is wanted of a mask that meets a time: of uniform widths equal shares."""
    return "even" if config.control == "uniform" and not config.widths_given else "importance"


def idle(config: ScratchConfig, budget: Budget) -> dict[str, str]:
    """Return the settings of a run that a control has no use for, and why."""
    control = config.control
    if control == "dense":
        return dict.fromkeys(OF_CHANNELS, "the control 'dense' removes no channels, so it has no use for it")
    idle = {}
    if control not in _TRAINED and config.weights == "fresh":
        idle["constants"] = f"the control {control!r} begins from fresh weights, with nothing to fold"
    unranked = () if control == "fine-tune" else ("ranking", "scope")
    if config.widths_given:
        names = (*unranked, *BUDGETS, "latency_table", *(() if control in _BY_SHARES else ALLOWED))
        idle |= dict.fromkeys(names, f"{'kept' if config.like is None else 'like'} says what is left")
    elif _by_budget_alone(control, budget):
        idle |= dict.fromkeys(unranked, f"the control {control!r} takes equal shares of every layer, within the budget")
    return idle


def _by_budget_alone(control: str, budget: Budget) -> bool:
    """Tell whether uniform widths follow from the budget, without a ranking."""
    return budget.kind != "ratio" if control == "uniform" else (control, budget.kind) == ("uniform-params", "params")


METHOD = Method(
    name="scratch",
    summary="controls: train a narrower network from its beginning, and others (Liu et al. 2019, Rethinking)",
    config=ScratchConfig,
    run=run,
    ranking="group-norm",
    aim=aim,
    idle=idle,
    needs=needed,
)
