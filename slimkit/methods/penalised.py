"""The penalty of a search: what is pulled towards zero, how hard, and what it has brought."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from slimkit import results, training
from slimkit.channels import Graph
from slimkit.errors import MaskError
from slimkit.methods.cut import Cut
from slimkit.methods.job import Job
from slimkit.settings import Settings, setting
from slimkit.settings.checks import choice, number, optional
from slimkit.training import Hook, Run, penalise_gamma_, penalise_groups_
from slimkit.training.penalty import gammas, has_gap, pull, share_near_zero, solve_strength
from slimkit.training.schedules import total

NO_GAP = (
    "what was penalised has no gap at this ratio, so the cut removes channels that the network uses: lower the "
    "ratio, or raise penalty_total"
)
# S by default. A group is pulled as a whole, so that the loss has nothing of it left to make up with.
TOTAL = {"gamma": 2.0, "group": 1.0}
# Steps that it takes to reach them; in fewer S is less in proportion, and lambda no more. The whole of S within 75
# steps takes from a network what it has not learnt yet. On digits, in % right, three convolutions that `progressive`
# pulls at for 75 steps of 150 came to 64 (93 without a penalty, 95 with a third of S), for 40 of 80 to 16 (73; 74), a
# ResNet-8 to 89 (94; 95) and 13 (82; 80). Within 110 steps nothing was lost.
FEWEST = 225
_BARELY = 0.1  # of the way from chance to all: a network that has come no further knows nothing yet


@dataclass(frozen=True, kw_only=True)
class Pulled(Settings):
    """Settings of how hard a penalty pulls."""

    l1: float | None = setting(
        None, "weight lambda of the penalty; default: solved from penalty_total", optional(number(0))
    )
    penalty_total: float | None = setting(
        None,
        f"S = lambda * sum(learning rate) / (1 - momentum) to reach; default: 2 for gamma, 1 for group, in fewer than "
        f"{FEWEST} steps less in proportion",
        optional(number(0)),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.l1 is not None:
            self.refuse_idle(("penalty_total",), f"l1 is {self.l1:g}, and it is of use only to find l1")


@dataclass(frozen=True, kw_only=True)
class Penalised(Pulled):
    """Settings of a penalty."""

    penalty: str = setting(
        "gamma",
        "what is pulled to zero until the cut: gamma, or group (all weights coupled to a channel; "
        "rank by group-norm then)",
        choice("gamma", "group"),
    )


@dataclass(frozen=True)
class Penalty:
    """A penalty at work.

    Attributes:
        kind: `gamma` or `group`.
        strength: lambda, its weight in the loss; 0 where it has nothing to act on.
        recipe: of the training that it acts in.
        steps: of an epoch.
    """

    kind: str
    strength: float
    recipe: training.Recipe
    steps: int

    def hook(self, graph: Callable[[], Graph], until: Callable[[], bool] = lambda: False) -> Hook:
        """Return what penalises a network that has the channels `graph()` until `until()`."""

        def penalise(run: Run) -> None:
            if not self.strength or until():
                return
            if self.kind == "group":
                penalise_groups_(run.model, graph(), self.strength)
            else:
                penalise_gamma_(run.model, self.strength)

        return Hook(gradients=penalise)

    def total(self, last: int | None = None) -> float:
        """Return S, the total pull until step `last`, over the whole schedule unless given."""
        return pull(self.strength, _rates(self.recipe, self.steps, last), self.recipe.momentum)

    def pulled(self, cut: Cut) -> Tensor:
        """Return the sizes that the penalty acts on, as they were before a cut, [n]."""
        return cut.norms if self.kind == "group" else cut.sizes

    def gap(self, cut: Cut) -> bool:
        """Tell whether the cut lies in a gap between small sizes and large ones."""
        return has_gap(self.pulled(cut), cut.mask.removed / max(1, cut.slimmed.graph.units))

    def doubts(self, job: Job, before: Sequence[results.Epoch]) -> tuple[str, ...]:
        """Say where a network was hardly better than chance at the last of the epochs before it was cut."""
        right = before[-1].validation_accuracy if before else None
        if not self.strength or right is None or job.dataset.task.metric != "accuracy" or not job.dataset.classes:
            return ()
        chance = 1 / job.dataset.classes
        if right > chance + min(chance, _BARELY * (1 - chance)):
            return ()
        return (
            f"{100 * right:.3g} % of the validation images were told right at the last epoch before the cut, where "
            f"guessing among {job.dataset.classes} classes gets {100 * chance:.3g} %: what is left was chosen by "
            "chance. Give more epochs, or penalise less: `penalty_total`, `l1`",
        )

    def record(self, cut: Cut, drawn_step: int | None) -> results.PenaltyEntry:
        """Return what the penalty was and brought, for the report."""
        return results.PenaltyEntry(
            kind=self.kind,
            strength=self.strength,
            pull=self.total(drawn_step),
            pull_of_schedule=self.total(),
            share_below_tenth_of_median=share_near_zero(self.pulled(cut)),
            gap=self.gap(cut) if self.strength else None,
        )


def strength_of(recipe: training.Recipe, steps: int, wanted: float, last: int | None = None) -> float:
    """Return the weight lambda of a penalty that pulls by S = `wanted`.

    Args:
        recipe: whose rates pull.
        steps: of an epoch.
        wanted: S, at least 0.
        last: step at which it is to be reached; that of the schedule unless given.
    """
    return solve_strength(wanted, _rates(recipe, steps, last), recipe.momentum) if wanted else 0.0


def penalty_of(
    job: Job,
    config: Pulled,
    kind: str,
    total: float | None = None,
    recipe: training.Recipe | None = None,
    last: int | None = None,
) -> Penalty:
    """Return the penalty that the settings ask for, lambda solved where it is not set.

    Args:
        job: recipe, and the network that is penalised.
        config: lambda, or S.
        kind: `gamma` or `group`.
        total: S where the settings name none; that of `TOTAL` unless given.
        recipe: whose rates are to reach S; that of the run unless given.
        last: step at which S is to be reached; that of the schedule unless given.

    Raises:
        MaskError: gammas are to be penalised, and there are none.
    """
    found = list(gammas(job.dense))
    recipe = recipe or job.recipe
    last = round(recipe.epochs * job.steps) if last is None else last
    wanted = config.penalty_total
    if wanted is None:
        wanted = (TOTAL[kind] if total is None else total) * min(1.0, last / FEWEST)
    if kind == "gamma" and not found and (config.l1 or (config.l1 is None and wanted)):
        raise MaskError(
            "penalty is 'gamma', but no BatchNorm of this network has a scale to penalise.\n"
            "  Penalise all weights of a channel, `penalty='group'`, or nothing, `penalty_total=0`"
        )
    anything = kind == "group" or any(gamma.requires_grad for _, gamma in found)
    if not anything:
        strength = 0.0
    elif config.l1 is not None:
        strength = config.l1
    else:
        strength = strength_of(recipe, job.steps, wanted, last)
    return Penalty(kind, strength, job.recipe, job.steps)


def _rates(recipe: training.Recipe, steps: int, last: int | None = None) -> float:
    return recipe.learning_rate * total(recipe.rate_share, round(recipe.epochs * steps), 0, last)
