"""One training loop, its schedules, the penalty on gamma, and recovery after surgery."""

from slimkit.training.batch_norm import reestimate
from slimkit.training.loop import Trained, train
from slimkit.training.optimizer import build, follow
from slimkit.training.penalty import gamma_penalty, penalise_gamma_, solve_strength
from slimkit.training.recipe import Recipe
from slimkit.training.recovery import recover
from slimkit.training.run import Epoch, Hook, Phase, Run
from slimkit.training.state import Store

__all__ = [
    "Epoch",
    "Hook",
    "Phase",
    "Recipe",
    "Run",
    "Store",
    "Trained",
    "build",
    "follow",
    "gamma_penalty",
    "penalise_gamma_",
    "recover",
    "reestimate",
    "solve_strength",
    "train",
]
