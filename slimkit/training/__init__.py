"""One training loop, its schedules, penalties on gamma and on groups."""

from slimkit.training import trackers
from slimkit.training.beforehand import check_first_step
from slimkit.training.group_penalty import group_penalty, penalise_groups_, unit_norms
from slimkit.training.loop import Trained, train
from slimkit.training.loss import Objective
from slimkit.training.optimizer import follow, make_optimizer
from slimkit.training.penalty import gamma_penalty, penalise_gamma_, solve_strength
from slimkit.training.recipe import Recipe
from slimkit.training.run import Hook, Phase, Run
from slimkit.training.state import Store, forget

__all__ = [
    "Hook",
    "Objective",
    "Phase",
    "Recipe",
    "Run",
    "Store",
    "Trained",
    "check_first_step",
    "make_optimizer",
    "follow",
    "forget",
    "gamma_penalty",
    "group_penalty",
    "penalise_gamma_",
    "penalise_groups_",
    "solve_strength",
    "trackers",
    "train",
    "unit_norms",
]
